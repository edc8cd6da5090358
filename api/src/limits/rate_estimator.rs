//! Estimates a subject's request rate, and from it how many tokens to reserve ahead.

use std::time::{Duration, Instant};

/// Requests a second above which a subject is hot.
const HOT_RATE: f64 = 50.0;

/// For how long tokens are reserved ahead.
const WINDOW: Duration = Duration::from_millis(100);

/// Maximum number of tokens reserved ahead.
const MAX_AHEAD: i32 = 64;

/// Counts requests in the current and the previous [`WINDOW`].
#[derive(Debug)]
pub(super) struct RateEstimator {
    /// Start of the current window.
    since: Instant,
    /// Requests in the previous window.
    before: u32,
    /// Requests in the current window.
    count: u32,
}

impl RateEstimator {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            before: 0,
            count: 0,
        }
    }

    /// Records a request.
    pub(super) fn record(&mut self, now: Instant) {
        self.advance(now);
        self.count += 1;
    }

    /// Expected requests within the next [`WINDOW`], at the recent rate; 0 for subjects that are not hot.
    pub(super) fn ahead(&mut self, now: Instant) -> i32 {
        self.advance(now);
        let seen = WINDOW + now.duration_since(self.since);
        let rate = f64::from(self.before + self.count) / seen.as_secs_f64();
        if rate <= HOT_RATE {
            return 0;
        }
        let demand = (rate * WINDOW.as_secs_f64())
            .ceil()
            .min(f64::from(MAX_AHEAD));
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it is between 0 and MAX_AHEAD"
        )]
        let demand = demand as i32;
        demand
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.duration_since(self.since);
        if passed >= WINDOW * 2 {
            *self = Self::new(now);
        } else if passed >= WINDOW {
            self.since += WINDOW;
            self.before = self.count;
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens reserved ahead after a second of requests at an even rate.
    fn ahead(rate: u32) -> i32 {
        let start = Instant::now();
        let mut estimator = RateEstimator::new(start);
        let moment = |n| start + Duration::from_secs(1) * n / rate;
        for n in 0..rate {
            estimator.record(moment(n));
        }
        estimator.ahead(moment(rate))
    }

    #[test]
    fn only_hot_subjects_reserve_tokens_ahead() {
        assert_eq!(ahead(2), 0);
        assert_eq!(ahead(40), 0);
        assert!((9..=11).contains(&ahead(100)), "{}", ahead(100));
        assert_eq!(ahead(5000), 64);
    }

    #[test]
    fn idle_subject_is_not_hot() {
        let start = Instant::now();
        let mut rate = RateEstimator::new(start);
        for _ in 0..1000 {
            rate.record(start);
        }
        assert_eq!(rate.ahead(start), 64);
        assert_eq!(rate.ahead(start + Duration::from_millis(200)), 0);
    }
}
