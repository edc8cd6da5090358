//! Policies of request limits, validated as a whole. They count nothing themselves.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::http::HeaderValue;
use harkara_shared::duration::HumanDuration;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::KeyTier;

/// How a policy counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// `quota + burst` in each window, counted from 1970: across an edge, twice as many may meet.
    FixedWindow,
    /// `quota + burst` in any window.
    SlidingWindow,
    /// A bucket of `burst` tokens, at least one, that fills by `quota` a window.
    TokenBucket,
    /// One request every `window / quota`, and `burst` at once: GCRA.
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

/// How many requests may pass in which time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Name in headers and problems: 1 to 32 of a-z, 0-9, `-` and `_`.
    #[schema(example = "hour")]
    pub name: String,
    /// How requests are counted.
    pub strategy: Strategy,
    /// Requests a window, 1 to 1 000 000 000, and at most a million a second.
    #[schema(example = 1000)]
    pub quota: u32,
    /// Requests beyond the quota, up to 1 000 000; for buckets, the most at once.
    #[serde(default)]
    #[schema(example = 50)]
    pub burst: u32,
    /// Length of a window, `1s` to `31d`; absent for `calendar_month`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<HumanDuration>,
}

/// Why policies are invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("policy {index}, {member}: {reason}")]
pub struct InvalidPolicy {
    /// Index of the policy, from 0.
    pub index: usize,
    /// Its invalid member.
    pub member: &'static str,
    /// What would be valid.
    pub reason: &'static str,
}

/// A member and what would be valid.
type Wrong = (&'static str, &'static str);

/// Longest window.
const MAX_WINDOW: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// Most policies of a subject.
const MAX_POLICIES: usize = 8;
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Policy {
    /// A policy of a window.
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

    /// A policy of calendar months.
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

    /// The most requests in a window. Of a bucket: what it lets through in a window when it was full.
    #[must_use]
    pub fn most(&self) -> u64 {
        let burst = match self.strategy {
            Strategy::TokenBucket | Strategy::LeakyBucket => self.burst.max(1),
            _ => self.burst,
        };
        u64::from(self.quota) + u64::from(burst)
    }

    /// The window in microseconds; 0 when there is none.
    pub(super) fn width(&self) -> i64 {
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

/// The valid policies of one subject. Cheap to clone.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Vec<Policy>")]
pub struct Policies(Arc<Prepared>);

/// Policies, also as columns, the form the statement takes.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) all: Vec<Policy>,
    pub(super) names: Vec<String>,
    pub(super) strategies: Vec<&'static str>,
    pub(super) quotas: Vec<i64>,
    pub(super) bursts: Vec<i64>,
    pub(super) widths: Vec<i64>,
    /// `RateLimit-Policy`.
    pub(super) header: HeaderValue,
}

impl Policies {
    /// Validates policies as a whole. An empty list limits nothing.
    ///
    /// # Errors
    /// The first [`InvalidPolicy`].
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
        Self(Arc::new(Prepared {
            names: all.iter().map(|policy| policy.name.clone()).collect(),
            strategies: all.iter().map(|policy| policy.strategy.as_str()).collect(),
            quotas: all.iter().map(|policy| policy.quota.into()).collect(),
            bursts: all.iter().map(|policy| policy.burst.into()).collect(),
            widths: all.iter().map(Policy::width).collect(),
            header: header(&all),
            all,
        }))
    }

    /// Policies of a signed-in user: 600 requests a minute.
    #[must_use]
    pub fn of_users() -> Self {
        static POLICIES: LazyLock<Policies> = LazyLock::new(|| {
            let minute = Duration::from_secs(60);
            let policy = Policy::new("minute", Strategy::SlidingWindow, 600, 0, minute);
            Policies::prepared(vec![policy])
        });
        POLICIES.clone()
    }

    /// Policies of a portal link: 1000 requests an hour and a burst of 50.
    #[must_use]
    pub fn of_portal_links() -> Self {
        static POLICIES: LazyLock<Policies> = LazyLock::new(|| {
            let policy = Policy::new("hour", Strategy::SlidingWindow, 1000, 50, HOUR);
            Policies::prepared(vec![policy])
        });
        POLICIES.clone()
    }

    /// The policies.
    #[must_use]
    pub fn all(&self) -> &[Policy] {
        &self.0.all
    }

    pub(super) fn columns(&self) -> &Prepared {
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

/// `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers): `"hour";q=110;w=3600, "month";q=10000`.
fn header(all: &[Policy]) -> HeaderValue {
    let mut text = String::new();
    for policy in all {
        let comma = if text.is_empty() { "" } else { ", " };
        text.push_str(&format!("{comma}\"{}\";q={}", policy.name, policy.most()));
        if let Some(HumanDuration(window)) = policy.window {
            text.push_str(&format!(";w={}", window.as_secs().max(1)));
        }
    }
    // Names are ASCII without quotes, so the text is a valid header.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Quotas of a tier: requests an hour, burst, requests a day, requests a month.
pub(crate) const fn quotas(tier: KeyTier) -> (u32, u32, u32, Option<u32>) {
    match tier {
        KeyTier::Free => (100, 10, 1_000, Some(10_000)),
        KeyTier::Developer => (1_000, 50, 10_000, Some(100_000)),
        KeyTier::Business => (10_000, 200, 100_000, Some(1_000_000)),
        KeyTier::Enterprise => (100_000, 1_000, 1_000_000, None),
    }
}

impl KeyTier {
    /// The policies of a key of this tier: in any hour at most the tier's number and its burst, in any
    /// day at most the day's, and in a month of UTC at most the month's.
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
    fn tiers_match_the_contract() {
        let header = |tier: KeyTier| {
            let policies = tier.policies();
            policies.columns().header.to_str().unwrap().to_owned()
        };
        assert_eq!(
            header(KeyTier::Free),
            r#""hour";q=110;w=3600, "day";q=1000;w=86400, "month";q=10000"#
        );
        assert_eq!(
            header(KeyTier::Enterprise),
            r#""hour";q=101000;w=3600, "day";q=1000000;w=86400"#
        );
    }

    #[test]
    fn policies_round_trip_and_are_validated_as_a_whole() {
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
