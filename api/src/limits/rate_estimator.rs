//! Room: how hot a subject is.
//! Takes: moments of requests. Gives: how many are worth taking ahead. Never: decides about a request.

use std::time::{Duration, Instant};

/// Requests a second above which a subject is hot.
const HOT: f64 = 50.0;

/// For how long tokens are taken ahead.
const AHEAD: Duration = Duration::from_millis(100);

/// Tokens taken ahead at the most.
const MOST: i32 = 64;

/// Counts requests in spans as long as [`AHEAD`], this one and the one before.
#[derive(Debug)]
pub(super) struct RateEstimator {
    since: Instant,
    before: u32,
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

    /// A request came.
    pub(super) fn note(&mut self, now: Instant) {
        self.turn(now);
        self.count += 1;
    }

    /// How many requests come within the next [`AHEAD`], as they came lately; 0 when that is no haste.
    pub(super) fn ahead(&mut self, now: Instant) -> i32 {
        self.turn(now);
        let seen = AHEAD + now.duration_since(self.since);
        let rate = f64::from(self.before + self.count) / seen.as_secs_f64();
        if rate <= HOT {
            return 0;
        }
        let demand = (rate * AHEAD.as_secs_f64()).ceil().min(f64::from(MOST));
        #[expect(clippy::cast_possible_truncation, reason = "it is between 0 and MOST")]
        let demand = demand as i32;
        demand
    }

    fn turn(&mut self, now: Instant) {
        let passed = now.duration_since(self.since);
        if passed >= AHEAD * 2 {
            *self = Self::new(now);
        } else if passed >= AHEAD {
            self.since += AHEAD;
            self.before = self.count;
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is taken ahead after a second of requests at an even rate.
    fn ahead(rate: u32) -> i32 {
        let start = Instant::now();
        let mut estimator = RateEstimator::new(start);
        let moment = |n| start + Duration::from_secs(1) * n / rate;
        for n in 0..rate {
            estimator.note(moment(n));
        }
        estimator.ahead(moment(rate))
    }

    #[test]
    fn only_what_is_hot_is_taken_ahead_and_never_much() {
        assert_eq!(ahead(2), 0);
        assert_eq!(ahead(40), 0);
        assert!((9..=11).contains(&ahead(100)), "{}", ahead(100));
        assert_eq!(ahead(5000), 64);
    }

    #[test]
    fn a_subject_that_rests_is_cold() {
        let start = Instant::now();
        let mut rate = RateEstimator::new(start);
        for _ in 0..1000 {
            rate.note(start);
        }
        assert_eq!(rate.ahead(start), 64);
        assert_eq!(rate.ahead(start + Duration::from_millis(200)), 0);
    }
}
