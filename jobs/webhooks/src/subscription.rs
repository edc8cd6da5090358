//! Matches events with endpoints, by event type patterns and channels. It does not touch the database.

/// Types of operational events, which the platform posts about endpoints. Only endpoints that name them receive them.
pub(super) const OPERATIONAL: [&str; 4] = [
    "endpoint.failing",
    "endpoint.disabled",
    "endpoint.recovered",
    "delivery.exhausted",
];

/// Whether only the platform posts events of this type.
pub(super) fn is_operational(event_type: &str) -> bool {
    OPERATIONAL.contains(&event_type)
}

/// Whether this is a valid event type: segments of letters, digits and `_`, joined by dots (Standard
/// Webhooks 1.0.0, event types).
pub(super) fn is_event_type(name: &str) -> bool {
    name.len() <= 128
        && name.split('.').all(|segment| {
            !segment.is_empty()
                && segment
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '_')
        })
}

/// Whether an endpoint with these patterns subscribes to this type. Without patterns it subscribes to all types except
/// operational ones.
pub(super) fn takes_type(patterns: &[String], event_type: &str) -> bool {
    let by_name = |pattern: &String| match pattern.strip_suffix(".*") {
        Some(prefix) => event_type
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with('.')),
        None => pattern == event_type,
    };
    patterns.iter().any(by_name)
        || !is_operational(event_type)
            && (patterns.is_empty() || patterns.iter().any(|pattern| pattern == "*"))
}

/// Whether an endpoint with these channels subscribes to an event with those. Without channels it subscribes to all events,
/// else to events that share a channel.
pub(super) fn takes_channels(endpoint: &[String], event: &[String]) -> bool {
    endpoint.is_empty() || endpoint.iter().any(|channel| event.contains(channel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_matches_its_type_or_everything_below_its_prefix() {
        let takes = |pattern: &str, name: &str| takes_type(&[pattern.to_owned()], name);
        assert!(takes("invoice.paid", "invoice.paid"));
        assert!(!takes("invoice.paid", "invoice.paid.late"));
        assert!(takes("invoice.*", "invoice.paid"));
        assert!(takes("invoice.*", "invoice.paid.late"));
        assert!(!takes("invoice.*", "invoice"));
        assert!(!takes("invoice.*", "invoices.paid"));
        assert!(takes("*", "anything"));
        assert!(takes_type(&[], "anything"));
    }

    #[test]
    fn operational_event_requires_a_pattern_that_names_it() {
        let takes = |pattern: &str| takes_type(&[pattern.to_owned()], "endpoint.failing");
        assert!(takes("endpoint.failing") && takes("endpoint.*"));
        assert!(!takes("*") && !takes("delivery.*") && !takes_type(&[], "endpoint.failing"));
        assert!(takes_type(&["endpoint.*".to_owned()], "endpoint.moved"));
        assert!(!is_operational("endpoint.moved"));
    }

    #[test]
    fn endpoint_with_channels_requires_a_shared_channel() {
        let list = |names: &[&str]| -> Vec<String> { names.iter().map(|n| (*n).into()).collect() };
        assert!(takes_channels(&[], &[]));
        assert!(takes_channels(&[], &list(&["north"])));
        assert!(takes_channels(
            &list(&["south", "north"]),
            &list(&["north"])
        ));
        assert!(!takes_channels(&list(&["south"]), &list(&["north"])));
        assert!(!takes_channels(&list(&["south"]), &[]));
    }

    #[test]
    fn event_type_consists_of_plain_segments() {
        for name in ["a", "invoice.paid", "A_1.b.c"] {
            assert!(is_event_type(name), "{name}");
        }
        for name in ["", ".", "a.", ".a", "a..b", "a b", "ä", "invoice.*"] {
            assert!(!is_event_type(name), "{name}");
        }
    }
}
