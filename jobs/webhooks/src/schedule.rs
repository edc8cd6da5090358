//! Retry schedules of endpoints: the wait after each failed attempt.

use std::time::Duration;

use harkara_shared::duration;

/// The standard's example schedule (Standard Webhooks 1.0.0, "Deliverability and reliability"): ten
/// attempts over 75 hours and a half.
const STANDARD: [u32; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];

/// The schedule `fast`, for events that soon lose their value.
const FAST: [u32; 3] = [60, 300, 900];

/// Maximum number of waits of a schedule.
const MAX_WAITS: usize = 24;

/// Bounds of a wait in seconds: a second and a week.
const WAIT_SECONDS: std::ops::RangeInclusive<u64> = 1..=7 * 86_400;

/// The waits between the attempts of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule(Vec<u32>);

impl Default for RetrySchedule {
    fn default() -> Self {
        Self(STANDARD.to_vec())
    }
}

impl RetrySchedule {
    /// The built-in schedule of this name, `standard` or `fast`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "standard" => Some(Self::default()),
            "fast" => Some(Self(FAST.to_vec())),
            _ => None,
        }
    }

    /// A schedule of these waits, in whole seconds. No wait means a single attempt.
    ///
    /// # Errors
    /// The index of a wait that is out of bounds, or `None` when there are too many waits.
    pub fn of(waits: &[Duration]) -> Result<Self, Option<usize>> {
        if waits.len() > MAX_WAITS {
            return Err(None);
        }
        let seconds = waits.iter().enumerate().map(|(index, wait)| {
            let fits = WAIT_SECONDS.contains(&wait.as_secs()) && wait.subsec_nanos() == 0;
            let seconds = u32::try_from(wait.as_secs()).ok();
            seconds.filter(|_| fits).ok_or(Some(index))
        });
        seconds.collect::<Result<_, _>>().map(Self)
    }

    /// Reads a schedule as it is stored, in seconds.
    pub(super) fn from_seconds(seconds: &[i32]) -> Self {
        let wait = |seconds: &i32| u32::try_from(*seconds).unwrap_or(1).max(1);
        Self(seconds.iter().map(wait).collect())
    }

    pub(super) fn seconds(&self) -> Vec<i32> {
        let second = |wait: &u32| i32::try_from(*wait).unwrap_or(i32::MAX);
        self.0.iter().map(second).collect()
    }

    /// The name of a built-in schedule; `None` for another.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        match self.0.as_slice() {
            waits if waits == STANDARD => Some("standard"),
            waits if waits == FAST => Some("fast"),
            _ => None,
        }
    }

    /// The waits as text: `5s`, `5m`.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let text = |wait: &u32| duration::format(Duration::from_secs(u64::from(*wait)));
        self.0.iter().map(text).collect()
    }

    /// Number of attempts.
    #[must_use]
    pub fn attempts(&self) -> u16 {
        u16::try_from(self.0.len())
            .unwrap_or(u16::MAX)
            .saturating_add(1)
    }

    /// Time from the first attempt to the last, if each fails immediately and no response names a longer wait.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.0.iter().copied().map(u64::from).sum())
    }

    /// The wait after this attempt, from 1. The last wait is repeated for attempts beyond the schedule.
    #[must_use]
    pub fn after(&self, attempt: u16) -> Duration {
        let index = usize::from(attempt.saturating_sub(1));
        let wait = self.0.get(index).or_else(|| self.0.last()).copied();
        Duration::from_secs(u64::from(wait.unwrap_or(60)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_schedule_takes_seventy_five_and_a_half_hours() {
        let standard = RetrySchedule::default();
        assert_eq!(standard.attempts(), 10);
        assert_eq!(
            standard.window(),
            Duration::from_secs(75 * 3600 + 35 * 60 + 5)
        );
        assert_eq!(standard.after(1), Duration::from_secs(5));
        assert_eq!(standard.after(9), Duration::from_secs(86_400));
        assert_eq!(standard.name(), Some("standard"));
    }

    #[test]
    fn fast_schedule_ends_after_twenty_one_minutes() {
        let fast = RetrySchedule::named("fast").unwrap();
        assert_eq!(fast.texts(), ["1m", "5m", "15m"]);
        assert_eq!(
            (fast.attempts(), fast.window()),
            (4, Duration::from_secs(1260))
        );
        assert_eq!(RetrySchedule::named("slow"), None);
    }

    #[test]
    fn custom_schedule_is_bounded_and_round_trips() {
        let second = Duration::from_secs(1);
        let own = RetrySchedule::of(&[second, second * 90]).unwrap();
        assert_eq!(RetrySchedule::from_seconds(&own.seconds()), own);
        assert_eq!(own.texts(), ["1s", "90s"]);
        assert_eq!(own.name(), None);
        assert_eq!(RetrySchedule::of(&[]).unwrap().attempts(), 1);
        assert_eq!(RetrySchedule::of(&[second; 25]), Err(None));
        let week = Duration::from_secs(7 * 86_400);
        for wrong in [Duration::ZERO, Duration::from_millis(1500), week + second] {
            assert_eq!(RetrySchedule::of(&[second, wrong]), Err(Some(1)));
        }
    }
}
