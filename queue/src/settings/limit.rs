//! Limits and their changes, as callers pass and receive them.
//!
//! Plain values: nothing in this module talks to the database.

use std::ops::RangeInclusive;
use std::time::Duration;

use harkara_shared::duration::HumanDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Maximum keys for which a tenant can set limits.
pub const MAX_TENANT_LIMITS: usize = 1000;

/// The largest value of a rate, a burst and a number of running jobs.
pub const MAX_LIMIT_VALUE: u32 = 1_000_000;

/// The shortest and the longest period of a rate: 1 second and 31 days.
pub const RATE_PERIODS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(31 * 24 * 60 * 60);

/// Whether `text` can be the key of a lane or a limit: 1 to 256 characters, none of them a control
/// character.
#[must_use]
pub fn is_key(text: &str) -> bool {
    (1..=256).contains(&text.chars().count()) && !text.contains(char::is_control)
}

/// A limit on starts per time and on jobs running at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limit {
    /// How many jobs may start per time.
    pub rate: Option<Rate>,
    /// How many jobs may run at once.
    pub max_running: Option<u32>,
    /// Jobs running now. Counted only while `max_running` is set.
    pub running: u32,
}

/// A rate of starts: in any window of `per`, at most `count + burst` jobs start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Starts per period.
    pub count: u32,
    /// The period.
    pub per: Duration,
    /// Starts at the same moment after a pause.
    pub burst: u32,
}

impl Rate {
    /// The burst of a rate for which none was set: a tenth of the count, at least 1.
    #[must_use]
    pub const fn default_burst(count: u32) -> u32 {
        let tenth = count / 10;
        if tenth == 0 { 1 } else { tenth }
    }

    /// How many jobs start in a period other than `per`, rounded down.
    #[must_use]
    pub fn count_in(self, time: Duration) -> u64 {
        let per = self.per.as_micros().max(1);
        u64::try_from(u128::from(self.count) * time.as_micros() / per).unwrap_or(u64::MAX)
    }
}

/// What is wrong with an incomplete limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidLimit {
    /// A rate without a period.
    PerMissing,
    /// A period without a rate.
    PerWithoutRate,
    /// A burst without a rate.
    BurstWithoutRate,
}

impl InvalidLimit {
    /// The field at fault: `per` or `burst`.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::PerMissing | Self::PerWithoutRate => "per",
            Self::BurstWithoutRate => "burst",
        }
    }

    /// What is wrong with the field.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::PerMissing => "is required with a rate",
            Self::PerWithoutRate | Self::BurstWithoutRate => "requires a rate",
        }
    }
}

/// A change of one field. In JSON: absent, null, or a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// Leave it as it is.
    #[default]
    Keep,
    /// Remove it.
    Remove,
    /// Set it to this value.
    Set(T),
}

impl<T> Change<T> {
    /// Applies `convert` to the value to be set.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Self::Keep => Change::Keep,
            Self::Remove => Change::Remove,
            Self::Set(value) => Change::Set(convert(value)),
        }
    }

    /// Whether the field is left as it is.
    pub fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// The value to be set, if any.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Remove => None,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Remove, Self::Set))
    }
}

impl<T: Serialize> Serialize for Change<T> {
    /// The inverse of deserializing. A field with [`Change::Keep`] must be skipped by means of
    /// [`Change::is_keep`].
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Keep | Self::Remove => serializer.serialize_none(),
            Self::Set(value) => serializer.serialize_some(value),
        }
    }
}

fn serialize_period<S: Serializer>(
    per: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    per.map(HumanDuration).serialize(serializer)
}

/// A change of a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LimitChange {
    /// Starts per `per`. Removing it removes the rate.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub rate: Change<u32>,
    /// Period of the rate; required when a rate is set for the first time.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_period"
    )]
    pub per: Option<Duration>,
    /// Starts at the same moment after a pause. [`Rate::default_burst`] when removed or never set.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub burst: Change<u32>,
    /// Maximum jobs running at once.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub max_running: Change<u32>,
}

impl LimitChange {
    /// A change that removes the limit.
    #[must_use]
    pub fn removal() -> Self {
        Self {
            rate: Change::Remove,
            per: None,
            burst: Change::Remove,
            max_running: Change::Remove,
        }
    }

    /// A change that sets this rate.
    #[must_use]
    pub fn rate(rate: Rate) -> Self {
        Self {
            rate: Change::Set(rate.count),
            per: Some(rate.per),
            burst: Change::Set(rate.burst),
            max_running: Change::Keep,
        }
    }

    /// Whether jobs that run already must be counted.
    pub(super) fn needs_running_count(&self) -> bool {
        matches!(self.max_running, Change::Set(_))
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a value is set, so that a limiter must exist.
    pub(super) fn needs_limiter(&self) -> bool {
        matches!(self.rate, Change::Set(_))
            || matches!(self.burst, Change::Set(_))
            || matches!(self.max_running, Change::Set(_))
            || self.per.is_some()
    }
}
