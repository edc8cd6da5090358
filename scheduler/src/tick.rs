//! When a schedule is due.
//!
//! From a cron expression, its time zone, the planned slot and the time, computes the slot to enqueue and the
//! one after. Reads neither a clock nor the database.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;

/// A schedule's rule is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidRule {
    #[error("`{0}` is not a cron expression")]
    Cron(String),
    #[error("`{0}` is not a time zone")]
    Zone(String),
}

/// What to do with a schedule now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tick {
    /// The slot to enqueue. After an outage only the latest missed one.
    pub(crate) emit: Option<DateTime<Utc>>,
    /// The next slot, later than now; `None` when the rule never matches again.
    pub(crate) next: Option<DateTime<Utc>>,
}

/// Evaluates a schedule whose next slot was `planned` (`None` for a new schedule).
pub(crate) fn tick(
    cron: &str,
    zone: &str,
    planned: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<Tick, InvalidRule> {
    let rule: Cron = cron
        .parse()
        .map_err(|_| InvalidRule::Cron(cron.to_owned()))?;
    let zone: Tz = zone
        .parse()
        .map_err(|_| InvalidRule::Zone(zone.to_owned()))?;
    let local = now.with_timezone(&zone);
    // An error means that no slot was found: the rule never matches again.
    let next = rule
        .find_next_occurrence(&local, false)
        .ok()
        .map(|slot| slot.with_timezone(&Utc));
    let emit = match planned {
        Some(planned) if planned <= now => {
            let latest = rule.find_previous_occurrence(&local, true).ok();
            latest
                .map(|slot| slot.with_timezone(&Utc))
                .filter(|slot| *slot >= planned)
                .or(Some(planned))
        }
        _ => None,
    };
    Ok(Tick { emit, next })
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn new_schedule_emits_nothing_and_gets_its_next_slot() {
        let tick = tick("15 3 * * *", "UTC", None, at("2026-11-20T12:00:00Z")).unwrap();
        assert_eq!(
            tick,
            Tick {
                emit: None,
                next: Some(at("2026-11-21T03:15:00Z"))
            }
        );
    }

    #[test]
    fn latest_missed_slot_is_emitted_after_an_outage() {
        let planned = Some(at("2026-11-17T03:15:00Z"));
        let tick = tick("15 3 * * *", "UTC", planned, at("2026-11-20T12:00:00Z")).unwrap();
        assert_eq!(tick.emit, Some(at("2026-11-20T03:15:00Z")));
        assert_eq!(tick.next, Some(at("2026-11-21T03:15:00Z")));
    }

    #[test]
    fn skipped_local_time_fires_at_the_gap_and_repeated_one_fires_once() {
        let gap = tick(
            "30 2 * * *",
            "Europe/Berlin",
            None,
            at("2027-03-27T12:00:00Z"),
        )
        .unwrap();
        assert_eq!(gap.next, Some(at("2027-03-28T01:00:00Z")));
        let first = tick(
            "30 2 * * *",
            "Europe/Berlin",
            None,
            at("2027-10-30T12:00:00Z"),
        )
        .unwrap();
        assert_eq!(first.next, Some(at("2027-10-31T00:30:00Z")));
        let second = tick(
            "30 2 * * *",
            "Europe/Berlin",
            None,
            at("2027-10-31T00:30:00Z"),
        )
        .unwrap();
        assert_eq!(second.next, Some(at("2027-11-01T01:30:00Z")));
    }

    #[test]
    fn impossible_and_invalid_rules_are_reported() {
        let now = at("2026-11-20T12:00:00Z");
        assert_eq!(tick("0 0 30 2 *", "UTC", None, now).unwrap().next, None);
        assert_eq!(
            tick("every day", "UTC", None, now),
            Err(InvalidRule::Cron("every day".into()))
        );
        assert_eq!(
            tick("0 0 * * *", "Mars/Base", None, now),
            Err(InvalidRule::Zone("Mars/Base".into()))
        );
    }

    proptest! {
        #[test]
        fn next_slot_is_in_the_future_and_emitted_one_is_not(
            minute in 0..60u32, hour in 0..24u32, ago in 0..10_000_000i64, since in 0..5_000_000i64,
        ) {
            let now = at("2027-06-01T00:00:00Z") - TimeDelta::seconds(ago);
            let planned = now - TimeDelta::seconds(since);
            let cron = format!("{minute} {hour} * * *");
            let tick = tick(&cron, "America/New_York", Some(planned), now).unwrap();
            prop_assert!(tick.next.unwrap() > now);
            prop_assert!(tick.emit.unwrap() <= now);
            prop_assert!(tick.emit.unwrap() >= planned);
        }
    }
}
