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
pub(super) fn subscribes_to_type(patterns: &[String], event_type: &str) -> bool {
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

/// Whether an endpoint with the channels `endpoint` subscribes to an event with the channels `event`. An endpoint without
/// channels subscribes to all events, another one to events that share a channel with it.
pub(super) fn subscribes_to_channels(endpoint: &[String], event: &[String]) -> bool {
    endpoint.is_empty() || endpoint.iter().any(|channel| event.contains(channel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_matches_its_type_or_everything_below_its_prefix() {
        let subscribes =
            |pattern: &str, name: &str| subscribes_to_type(&[pattern.to_owned()], name);
        assert!(subscribes("invoice.paid", "invoice.paid"));
        assert!(!subscribes("invoice.paid", "invoice.paid.late"));
        assert!(subscribes("invoice.*", "invoice.paid"));
        assert!(subscribes("invoice.*", "invoice.paid.late"));
        assert!(!subscribes("invoice.*", "invoice"));
        assert!(!subscribes("invoice.*", "invoices.paid"));
        assert!(subscribes("*", "anything"));
        assert!(subscribes_to_type(&[], "anything"));
    }

    #[test]
    fn operational_event_requires_a_pattern_that_names_it() {
        let subscribes =
            |pattern: &str| subscribes_to_type(&[pattern.to_owned()], "endpoint.failing");
        assert!(subscribes("endpoint.failing") && subscribes("endpoint.*"));
        assert!(
            !subscribes("*")
                && !subscribes("delivery.*")
                && !subscribes_to_type(&[], "endpoint.failing")
        );
        assert!(subscribes_to_type(
            &["endpoint.*".to_owned()],
            "endpoint.moved"
        ));
        assert!(!is_operational("endpoint.moved"));
    }

    #[test]
    fn endpoint_with_channels_requires_a_shared_channel() {
        let list = |names: &[&str]| -> Vec<String> { names.iter().map(|n| (*n).into()).collect() };
        assert!(subscribes_to_channels(&[], &[]));
        assert!(subscribes_to_channels(&[], &list(&["north"])));
        assert!(subscribes_to_channels(
            &list(&["south", "north"]),
            &list(&["north"])
        ));
        assert!(!subscribes_to_channels(
            &list(&["south"]),
            &list(&["north"])
        ));
        assert!(!subscribes_to_channels(&list(&["south"]), &[]));
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
