//! The result of a charge: whether the request may proceed, the headers of its response, and the problem of a
//! refusal. Waits are rounded up to whole seconds.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use harkara_accounts::{Policies, Policy};

use harkara_shared::duration::HumanDuration;

use crate::problem::Problem;

/// `RateLimit-Policy`.
pub(crate) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// `RateLimit`.
pub(crate) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// State of a policy after a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Requests that can still be made immediately.
    pub remaining: u64,
    /// Time until the whole quota is available again.
    pub reset: Duration,
    /// Time until the next request can pass; zero while requests remain.
    pub retry: Duration,
}

/// The result of charging one request.
#[derive(Debug, Clone)]
pub struct Charge {
    pub(super) policies: Policies,
    pub(super) allowed: bool,
    pub(super) standings: Vec<Standing>,
}

impl Charge {
    /// Whether the request may proceed. If not, nothing was charged.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.allowed
    }

    /// State of each policy, in the order of the policies.
    #[must_use]
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }

    /// The policies that refuse the request.
    #[must_use]
    pub fn violated(&self) -> Vec<&str> {
        if self.allowed {
            return Vec::new();
        }
        self.standings_by_name()
            .filter(|(_, standing)| standing.remaining == 0)
            .map(|(name, _)| name)
            .collect()
    }

    /// Time until a refused request can pass.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let waits = self.standings.iter().map(|standing| standing.retry);
        waits.max().filter(|_| !self.allowed)
    }

    /// Writes `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers), and
    /// `Retry-After` when the request is refused.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        if self.standings.is_empty() {
            return;
        }
        if let Some(policies) = policy_header(self.policies.all()) {
            headers.insert(RATELIMIT_POLICY, policies);
        }
        let mut text = String::new();
        for (name, standing) in self.standings_by_name() {
            let comma = if text.is_empty() { "" } else { ", " };
            let (r, t) = (standing.remaining, seconds(standing.reset));
            text.push_str(&format!("{comma}\"{name}\";r={r};t={t}"));
        }
        if let Ok(standings) = HeaderValue::try_from(text) {
            headers.insert(RATELIMIT, standings);
        }
        if let Some(wait) = self.retry_after() {
            let wait = HeaderValue::from(seconds(wait).max(1));
            headers.insert(axum::http::header::RETRY_AFTER, wait);
        }
    }

    /// The problem of a refused request.
    pub(crate) fn problem(&self) -> Problem {
        let violated = self.violated();
        let wait = self.retry_after().map_or(1, seconds).max(1);
        let detail = format!(
            "request limit reached ({}); retry in {wait} s",
            violated.join(", ")
        );
        let violated = violated.into_iter().map(str::to_owned).collect();
        Problem::rate_limited(detail, violated, wait)
    }

    fn standings_by_name(&self) -> impl Iterator<Item = (&str, &Standing)> {
        let names = self
            .policies
            .all()
            .iter()
            .map(|policy| policy.name.as_str());
        names.zip(&self.standings)
    }
}

/// `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers): `"hour";q=110;w=3600, "month";q=10000`.
fn policy_header(policies: &[Policy]) -> Option<HeaderValue> {
    let mut text = String::new();
    for policy in policies {
        let comma = if text.is_empty() { "" } else { ", " };
        text.push_str(&format!("{comma}\"{}\";q={}", policy.name, policy.most()));
        if let Some(HumanDuration(window)) = policy.window {
            text.push_str(&format!(";w={}", window.as_secs().max(1)));
        }
    }
    HeaderValue::try_from(text).ok()
}

/// Whole seconds, rounded up.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use harkara_accounts::KeyTier;

    fn charge(allowed: bool, remaining: u64) -> Charge {
        let standing = |remaining, reset, retry| Standing {
            remaining,
            reset: Duration::from_millis(reset),
            retry: Duration::from_millis(retry),
        };
        Charge {
            policies: KeyTier::Free.policies(),
            allowed,
            standings: vec![
                standing(remaining, 1_799_001, if remaining == 0 { 200 } else { 0 }),
                standing(40, 60_000, 0),
                standing(9000, 86_400_000, 0),
            ],
        }
    }

    fn headers(charge: &Charge) -> HeaderMap {
        let mut headers = HeaderMap::new();
        charge.write_headers(&mut headers);
        headers
    }

    #[test]
    fn headers_report_every_policy() {
        let allowed = headers(&charge(true, 12));
        assert_eq!(
            allowed.get(RATELIMIT).unwrap(),
            r#""hour";r=12;t=1800, "day";r=40;t=60, "month";r=9000;t=86400"#
        );
        assert!(allowed.contains_key(RATELIMIT_POLICY));
        assert!(!allowed.contains_key("retry-after"));
        // The last request of a quota passes.
        assert!(!headers(&charge(true, 0)).contains_key("retry-after"));
    }

    #[test]
    fn refusal_names_violated_policies_and_waits_at_least_a_second() {
        let refused = charge(false, 0);
        assert_eq!(refused.violated(), ["hour"]);
        assert_eq!(headers(&refused).get("retry-after").unwrap(), "1");
        assert_eq!(refused.problem().status().as_u16(), 429);
    }
}
