//! Policies of request limits: parsed, checked as a list, and laid out as the columns that the charging statement
//! binds.
//!
//! Requests are counted by the API.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use harkara_shared::duration::HumanDuration;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::key_tier::KeyTier;

/// How a policy counts requests: in windows aligned to the clock (`fixed_window`), in any window
/// (`sliding_window`), with a bucket of `burst` tokens that `quota` tokens refill in each window (`token_bucket`), at
/// even intervals with `burst` requests at once (`leaky_bucket`), or in each month of UTC (`calendar_month`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// `quota + burst` in each window, aligned to the Unix epoch. Twice as many can pass around the border of two
    /// windows.
    FixedWindow,
    /// `quota + burst` in any window.
    SlidingWindow,
    /// A bucket of `burst` tokens, at least one, refilled with `quota` tokens in each window.
    TokenBucket,
    /// One request every `window / quota`, and `burst` at once (GCRA).
    LeakyBucket,
    /// `quota + burst` in each month of UTC. It has no window.
    CalendarMonth,
}

impl Strategy {
    /// All strategies.
    pub const ALL: [Self; 5] = [
        Self::FixedWindow,
        Self::SlidingWindow,
        Self::TokenBucket,
        Self::LeakyBucket,
        Self::CalendarMonth,
    ];

    /// The strategy's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FixedWindow => "fixed_window",
            Self::SlidingWindow => "sliding_window",
            Self::TokenBucket => "token_bucket",
            Self::LeakyBucket => "leaky_bucket",
            Self::CalendarMonth => "calendar_month",
        }
    }
}

/// A limit on the number of requests in a window of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Name in headers and problems: 1 to 32 of a-z, 0-9, `-` and `_`.
    #[schema(example = "hour")]
    pub name: String,
    /// How requests are counted.
    pub strategy: Strategy,
    /// Requests per window, 1 to 1 000 000 000, at most a million per second.
    #[schema(example = 1000)]
    pub quota: u32,
    /// Requests on top of the quota, up to 1 000 000. For buckets, the number of requests allowed at once.
    #[serde(default)]
    #[schema(example = 50)]
    pub burst: u32,
    /// Length of the window, 1 s to 31 days; not allowed with `calendar_month`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<HumanDuration>,
}

/// Why a list of policies is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("policy {index}, {member}: {reason}")]
pub struct InvalidPolicy {
    /// Index of the invalid policy, from 0.
    pub index: usize,
    /// The invalid member.
    pub member: &'static str,
    /// What would be valid.
    pub reason: &'static str,
}

/// An invalid member and the reason.
type Wrong = (&'static str, &'static str);

const MAX_WINDOW: Duration = Duration::from_secs(31 * 24 * 60 * 60);
const MAX_POLICIES: usize = 8;
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Policy {
    /// A policy with a window.
    #[must_use]
    pub fn new(name: &str, strategy: Strategy, quota: u32, burst: u32, window: Duration) -> Self {
        Self {
            name: name.to_owned(),
            strategy,
            quota,
            burst,
            window: Some(HumanDuration(window)),
        }
    }

    /// A policy that counts calendar months.
    #[must_use]
    pub fn monthly(name: &str, quota: u32) -> Self {
        Self {
            name: name.to_owned(),
            strategy: Strategy::CalendarMonth,
            quota,
            burst: 0,
            window: None,
        }
    }

    /// Maximum number of requests in a window; for buckets, in a window that begins with a full bucket.
    #[must_use]
    pub fn most(&self) -> u64 {
        let burst = match self.strategy {
            Strategy::TokenBucket | Strategy::LeakyBucket => self.burst.max(1),
            _ => self.burst,
        };
        u64::from(self.quota) + u64::from(burst)
    }

    /// The window in microseconds; 0 without a window.
    pub fn width(&self) -> i64 {
        let window = self.window.map_or(Duration::ZERO, |window| window.0);
        i64::try_from(window.as_micros()).unwrap_or(i64::MAX)
    }

    fn check(&self) -> Result<(), Wrong> {
        let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(&c);
        if !(1..=32).contains(&self.name.len()) || !self.name.bytes().all(is_plain) {
            return Err(("name", "must be 1 to 32 of a-z, 0-9, `-` and `_`"));
        }
        if !(1..=1_000_000_000).contains(&self.quota) {
            return Err(("quota", "must be between 1 and 1000000000"));
        }
        if self.burst > 1_000_000 {
            return Err(("burst", "must be at most 1000000"));
        }
        match (self.strategy, self.window) {
            (Strategy::CalendarMonth, None) => Ok(()),
            (Strategy::CalendarMonth, Some(_)) => {
                Err(("window", "cannot be combined with `calendar_month`"))
            }
            (_, None) => Err(("window", "is required")),
            (_, Some(HumanDuration(window))) => {
                if !(Duration::from_secs(1)..=MAX_WINDOW).contains(&window) {
                    return Err(("window", "must be between 1s and 31d"));
                }
                if i64::from(self.quota) > self.width() {
                    return Err(("quota", "must be at most a million a second"));
                }
                Ok(())
            }
        }
    }
}

/// The checked policies of one subject. Cheap to clone.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Vec<Policy>")]
pub struct Policies(Arc<PolicyColumns>);

/// Policies, and their members as columns, as the charging statement binds them.
#[derive(Debug)]
pub struct PolicyColumns {
    /// The policies.
    pub all: Vec<Policy>,
    /// Their names.
    pub names: Vec<String>,
    /// Their strategies, as the database spells them.
    pub strategies: Vec<&'static str>,
    /// Requests a window.
    pub quotas: Vec<i64>,
    /// Requests on top of the quota.
    pub bursts: Vec<i64>,
    /// Windows in microseconds; 0 without a window.
    pub widths: Vec<i64>,
}

impl Policies {
    /// Checks a list of policies. An empty list limits nothing.
    ///
    /// # Errors
    /// [`InvalidPolicy`], for the first invalid policy.
    pub fn new(all: Vec<Policy>) -> Result<Self, InvalidPolicy> {
        for (index, policy) in all.iter().enumerate() {
            let mut checked = policy.check();
            if index >= MAX_POLICIES {
                checked = Err(("name", "must be one of at most 8 policies"));
            }
            let mut before = all.iter().take(index);
            if before.any(|other| other.name == policy.name) {
                checked = Err(("name", "duplicate name"));
            }
            checked.map_err(|(member, reason)| InvalidPolicy {
                index,
                member,
                reason,
            })?;
        }
        Ok(Self::prepared(all))
    }

    fn prepared(all: Vec<Policy>) -> Self {
        Self(Arc::new(PolicyColumns {
            names: all.iter().map(|policy| policy.name.clone()).collect(),
            strategies: all.iter().map(|policy| policy.strategy.as_str()).collect(),
            quotas: all.iter().map(|policy| policy.quota.into()).collect(),
            bursts: all.iter().map(|policy| policy.burst.into()).collect(),
            widths: all.iter().map(Policy::width).collect(),
            all,
        }))
    }

    /// The policies of a signed-in user: 600 requests a minute.
    #[must_use]
    pub fn of_users() -> Self {
        static POLICIES: LazyLock<Policies> = LazyLock::new(|| {
            let minute = Duration::from_secs(60);
            let policy = Policy::new("minute", Strategy::SlidingWindow, 600, 0, minute);
            Policies::prepared(vec![policy])
        });
        POLICIES.clone()
    }

    /// The policies of a portal link: 1000 requests an hour, with a burst of 50.
    #[must_use]
    pub fn of_portal_links() -> Self {
        static POLICIES: LazyLock<Policies> = LazyLock::new(|| {
            let policy = Policy::new("hour", Strategy::SlidingWindow, 1000, 50, HOUR);
            Policies::prepared(vec![policy])
        });
        POLICIES.clone()
    }

    /// The policies, in the order they were given.
    #[must_use]
    pub fn all(&self) -> &[Policy] {
        &self.0.all
    }

    /// The policies as columns.
    #[must_use]
    pub fn columns(&self) -> &PolicyColumns {
        &self.0
    }
}

impl PartialEq for Policies {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.all == other.0.all
    }
}

impl Eq for Policies {}

impl TryFrom<Vec<Policy>> for Policies {
    type Error = InvalidPolicy;

    fn try_from(all: Vec<Policy>) -> Result<Self, InvalidPolicy> {
        Self::new(all)
    }
}

/// The quotas of a tier: requests an hour, their burst, requests a day, requests a month.
const fn quotas(tier: KeyTier) -> (u32, u32, u32, Option<u32>) {
    match tier {
        KeyTier::Free => (100, 10, 1_000, Some(10_000)),
        KeyTier::Developer => (1_000, 50, 10_000, Some(100_000)),
        KeyTier::Business => (10_000, 200, 100_000, Some(1_000_000)),
        KeyTier::Enterprise => (100_000, 1_000, 1_000_000, None),
    }
}

impl KeyTier {
    /// The policies of a key of this tier: sliding windows of an hour (with a burst) and a day, and the calendar
    /// month in UTC.
    #[must_use]
    pub fn policies(self) -> Policies {
        static TIERS: LazyLock<[Policies; 4]> = LazyLock::new(|| KeyTier::ALL.map(of_tier));
        let [free, developer, business, enterprise] = &*TIERS;
        match self {
            Self::Free => free,
            Self::Developer => developer,
            Self::Business => business,
            Self::Enterprise => enterprise,
        }
        .clone()
    }
}

fn of_tier(tier: KeyTier) -> Policies {
    let (hour, burst, day, month) = quotas(tier);
    let sliding = |name, quota, burst, window| {
        Policy::new(name, Strategy::SlidingWindow, quota, burst, window)
    };
    let mut all = vec![
        sliding("hour", hour, burst, HOUR),
        sliding("day", day, 0, DAY),
    ];
    all.extend(month.map(|quota| Policy::monthly("month", quota)));
    Policies::prepared(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn built_in_policies_are_valid() {
        for tier in KeyTier::ALL {
            let policies = tier.policies();
            assert_eq!(Policies::new(policies.all().to_vec()), Ok(policies));
        }
        for policies in [Policies::of_users(), Policies::of_portal_links()] {
            assert_eq!(Policies::new(policies.all().to_vec()), Ok(policies));
        }
    }

    #[test]
    fn policies_round_trip_and_are_checked_as_a_list() {
        let hour = json!({
            "name": "hour", "strategy": "token_bucket", "quota": 7, "burst": 2, "window": "1h"
        });
        let month = json!({"name": "m", "strategy": "calendar_month", "quota": 7, "burst": 0});
        let read = serde_json::from_value::<Policies>(json!([hour, month])).unwrap();
        assert_eq!(
            serde_json::to_value(read.all()).unwrap(),
            json!([hour, month])
        );
        for (member, wrong) in [
            ("name", json!("")),
            ("name", json!("Hour")),
            ("name", json!("a\"b")),
            ("quota", json!(0)),
            ("quota", json!(2_000_000_000)),
            ("burst", json!(1_000_001)),
            ("window", json!("1ms")),
            ("window", json!("32d")),
            ("strategy", json!("calendar_month")),
            ("strategy", json!("none")),
            ("more", json!(1)),
        ] {
            let mut policy = hour.clone();
            policy[member] = wrong.clone();
            let read = serde_json::from_value::<Policies>(json!([policy]));
            assert!(read.is_err(), "{member} {wrong}");
        }
        assert!(serde_json::from_value::<Policies>(json!([hour, hour])).is_err());
        assert!(serde_json::from_value::<Policies>(json!([])).is_ok());
    }
}
