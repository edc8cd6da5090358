//! Backoff: how long a failed job waits before its next attempt.
//!
//! Computes a delay from a policy and the number of failures. It never sleeps, reads a clock, counts
//! failures or decides that a job is dead.

use std::time::Duration;

use rand::{Rng, RngExt as _};
use serde::{Deserialize, Serialize};

use crate::duration;

/// The longest delay a policy can set.
const MAX_DELAY: Duration = Duration::from_secs(7 * 86_400);

/// The shortest first delay a policy can set.
const MIN_BASE: Duration = Duration::from_millis(1);

/// Randomization of delays, so that jobs that failed together do not retry together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Jitter {
    /// Between zero and the whole delay.
    Full,
    /// Between half the delay and the whole delay.
    #[default]
    Equal,
    /// Exactly the delay.
    None,
}

/// Exponential backoff: `base × factor^(failures − 1)`, at most `max`, randomized by `jitter`.
///
/// In JSON `{"base":"5s","factor":2,"max":"1h","jitter":"equal"}`. These are the defaults; every member
/// is optional, and unknown members are rejected. Deserialization does not check bounds: call
/// [`Backoff::validate`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The delay after the first failure. From 1 ms to `max`; default 5 s.
    #[serde(with = "duration")]
    pub base: Duration,
    /// Multiplier of the delay for each further failure. From 1 to 10; default 2.
    pub factor: f64,
    /// Upper bound of the delay. At most 7 days; default 1 hour.
    #[serde(with = "duration")]
    pub max: Duration,
    /// Randomization of the delay. Default [`Jitter::Equal`].
    pub jitter: Jitter,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(5),
            factor: 2.0,
            max: Duration::from_secs(3_600),
            jitter: Jitter::default(),
        }
    }
}

impl Backoff {
    /// Checks the bounds documented on the fields.
    ///
    /// # Errors
    /// Every violation at once, each with the field's name and a message for the caller.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let mut violations = Vec::new();
        if self.base < MIN_BASE {
            violations.push((
                "base",
                format!("must be at least {}", duration::format(MIN_BASE)),
            ));
        }
        if self.base > self.max {
            let max = duration::format(self.max);
            violations.push((
                "base",
                format!("must not be longer than `max`, which is {max}"),
            ));
        }
        // A range contains neither NaN nor an infinity.
        if !(1.0..=10.0).contains(&self.factor) {
            violations.push(("factor", "must be from 1 to 10".to_owned()));
        }
        if self.max > MAX_DELAY {
            violations.push((
                "max",
                format!("must be at most {}", duration::format(MAX_DELAY)),
            ));
        }
        if violations.is_empty() {
            Ok(())
        } else {
            Err(violations)
        }
    }

    /// The delay before the next attempt after `failures` failures; 0 counts as 1.
    ///
    /// Never more than `max`, even for a policy that [`Backoff::validate`] rejects.
    pub fn delay(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        let delay = self.ceiling(failures);
        match self.jitter {
            Jitter::Full => up_to(delay, rng),
            Jitter::Equal => delay / 2 + up_to(delay / 2, rng),
            Jitter::None => delay,
        }
    }

    /// The delay before randomization. A result that a duration cannot hold (overflow, NaN) is `max`.
    fn ceiling(&self, failures: u32) -> Duration {
        let growth = self.factor.powf(f64::from(failures.saturating_sub(1)));
        Duration::try_from_secs_f64(self.base.as_secs_f64() * growth)
            .map_or(self.max, |delay| delay.min(self.max))
    }
}

/// A uniformly random duration from zero to `longest`, inclusive.
fn up_to(longest: Duration, rng: &mut impl Rng) -> Duration {
    Duration::from_nanos_u128(rng.random_range(0..=longest.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            any::<u64>().prop_map(Duration::from_nanos),
            (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(s, n)| Duration::new(s, n)),
            Just(Duration::ZERO),
            Just(Duration::MAX),
        ]
    }

    fn any_jitter() -> impl Strategy<Value = Jitter> {
        prop_oneof![Just(Jitter::Full), Just(Jitter::Equal), Just(Jitter::None)]
    }

    fn valid() -> impl Strategy<Value = Backoff> {
        (
            1..=604_800_000_u64,
            1.0..=10.0_f64,
            0.0..=1.0_f64,
            any_jitter(),
        )
            .prop_map(|(max, factor, part, jitter)| {
                let max = Duration::from_millis(max);
                Backoff {
                    base: max.mul_f64(part).max(MIN_BASE),
                    factor,
                    max,
                    jitter,
                }
            })
    }

    fn without_jitter(backoff: Backoff) -> Backoff {
        Backoff {
            jitter: Jitter::None,
            ..backoff
        }
    }

    #[test]
    fn default_policy_doubles_from_five_seconds_to_an_hour() {
        let backoff = without_jitter(Backoff::default());
        let seconds: Vec<u64> = (1..=12)
            .map(|n| backoff.delay(n, &mut rand::rng()).as_secs())
            .collect();
        assert_eq!(
            seconds,
            [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
        );
        assert_eq!(backoff.delay(0, &mut rand::rng()), backoff.base);
        assert_eq!(backoff.delay(u32::MAX, &mut rand::rng()), backoff.max);
    }

    #[test]
    fn json_defaults_missing_members_and_rejects_unknown_ones() {
        let read = |text: &str| serde_json::from_str::<Backoff>(text);
        assert_eq!(read("{}").unwrap(), Backoff::default());
        let full = r#"{"base":"1s","factor":2,"max":"1h","jitter":"full"}"#;
        let expected = Backoff {
            base: Duration::from_secs(1),
            jitter: Jitter::Full,
            ..Backoff::default()
        };
        assert_eq!(read(full).unwrap(), expected);
        assert_eq!(
            read(&serde_json::to_string(&expected).unwrap()).unwrap(),
            expected
        );
        for text in [
            r#"{"bse":"1s"}"#,
            r#"{"base":5}"#,
            r#"{"jitter":"Full"}"#,
            r#"{"factor":"2"}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_violation_names_its_field() {
        let fields = |backoff: Backoff| -> Vec<&str> {
            backoff
                .validate()
                .err()
                .unwrap_or_default()
                .into_iter()
                .map(|(f, _)| f)
                .collect()
        };
        let default = Backoff::default();
        assert_eq!(default.validate(), Ok(()));
        assert_eq!(
            fields(Backoff {
                base: Duration::ZERO,
                ..default
            }),
            ["base"]
        );
        assert_eq!(
            fields(Backoff {
                max: Duration::from_secs(4),
                ..default
            }),
            ["base"]
        );
        assert_eq!(
            fields(Backoff {
                max: MAX_DELAY + MIN_BASE,
                ..default
            }),
            ["max"]
        );
        for factor in [0.9, 10.1, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(fields(Backoff { factor, ..default }), ["factor"]);
        }
        let all = Backoff {
            base: Duration::MAX,
            factor: 0.0,
            max: MAX_DELAY * 2,
            ..default
        };
        assert_eq!(fields(all), ["base", "factor", "max"]);
    }

    proptest! {
        #[test]
        fn valid_policy_keeps_its_bounds(backoff in valid(), failures: u32) {
            prop_assert_eq!(backoff.validate(), Ok(()));
            let ceiling = without_jitter(backoff).delay(failures, &mut rand::rng());
            prop_assert!(ceiling >= backoff.base && ceiling <= backoff.max);
            let delay = backoff.delay(failures, &mut rand::rng());
            let floor = match backoff.jitter {
                Jitter::Full => Duration::ZERO,
                Jitter::Equal => ceiling / 2,
                Jitter::None => ceiling,
            };
            prop_assert!(delay >= floor && delay <= ceiling);
        }

        #[test]
        fn delay_never_decreases_with_more_failures(backoff in valid(), failures in 1..200_u32) {
            let backoff = without_jitter(backoff);
            let rng = &mut rand::rng();
            prop_assert!(backoff.delay(failures, rng) <= backoff.delay(failures + 1, rng));
        }

        #[test]
        fn delay_never_overflows(
            base in any_duration(), max in any_duration(), factor: f64,
            jitter in any_jitter(), failures: u32,
        ) {
            let backoff = Backoff { base, factor, max, jitter };
            prop_assert!(backoff.delay(failures, &mut rand::rng()) <= max);
        }
    }

    #[test]
    fn full_and_equal_jitter_use_their_whole_range() {
        let rng = &mut rand::rng();
        let backoff = |jitter| Backoff {
            jitter,
            ..Backoff::default()
        };
        let mut quarters = [0_u32; 4];
        for _ in 0..4_000 {
            let delay = backoff(Jitter::Full).delay(1, rng).as_secs_f64() / 5.0;
            let quarter = [0.25, 0.5, 0.75]
                .iter()
                .filter(|limit| delay > **limit)
                .count();
            quarters[quarter] += 1;
            assert!(backoff(Jitter::Equal).delay(1, rng) >= Duration::from_millis(2_500));
        }
        assert!(
            quarters.iter().all(|count| (800..1_200).contains(count)),
            "{quarters:?}"
        );
    }
}
