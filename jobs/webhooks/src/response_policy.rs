//! Decides what an endpoint's response means for the run and for the endpoint.
//!
//! Pure: it does not touch the database and does not count attempts.

use std::time::Duration;

use harkara_kind::http_call::{call_error_verdict, failure_verdict};
use harkara_queue::Verdict;
use harkara_queue::job::JobError;
use harkara_shared::egress::{self, Egress, EgressError, EgressResponse};
use http::StatusCode;
use http::header::LOCATION;
use rand::{Rng, RngExt as _};
use url::Url;

use crate::attempt::EndpointAction;
use crate::schedule::RetrySchedule;

/// Minimum wait after a sign of overload: a 502, 503, 504 or a timeout.
const OVERLOAD_WAIT: Duration = Duration::from_secs(60);

/// From this failed attempt on, retries have lower priority than first attempts.
const LOWER_PRIORITY_FROM: u16 = 2;

/// What a response, or its absence, means.
#[derive(Debug)]
pub struct Decision {
    /// The verdict on the run.
    pub verdict: Verdict,
    /// The change of the endpoint.
    pub action: EndpointAction,
}

/// The error of a redirect to an address that the egress rules refuse. Such a delivery is not retried. `base` is the URL
/// that was called.
#[must_use]
pub fn refused_redirect(
    egress: &Egress,
    base: &str,
    response: &EgressResponse,
) -> Option<EgressError> {
    let location = response.headers.get(LOCATION)?.to_str().ok()?;
    let target = Url::parse(base).ok()?.join(location).ok()?;
    let is_redirect = response.status.is_redirection();
    let refused = egress.check(target.as_str()).err()?;
    (is_redirect && refused.is_terminal()).then_some(refused)
}

/// Decides what the response to the attempt with this number, from 1, means.
///
/// Only 2xx is success. Every other status is retried on schedule, since receivers under maintenance answer 401, 404 and
/// the like, except 410, which disables the endpoint. The response header `webhook-delivery` can request to `disable`
/// the endpoint or to `abort-message`.
pub fn decide(
    response: Result<&EgressResponse, &EgressError>,
    schedule: &RetrySchedule,
    attempt: u16,
    rng: &mut impl Rng,
) -> Decision {
    let mut action = EndpointAction::default();
    let requested = response.ok().and_then(|response| {
        let value = response.headers.get("webhook-delivery")?.to_str().ok()?;
        Some(value.trim().to_ascii_lowercase())
    });
    if requested.as_deref() == Some("disable") {
        action.disable_reason = Some("asked");
    }
    let verdict = match response {
        Ok(response) if response.status.is_success() => Verdict::done(),
        Ok(response) => {
            let status = response.status;
            action.slow_down = matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            );
            match failure_verdict(response, true) {
                Verdict::Retry { error, .. } if status == StatusCode::GONE => {
                    action.disable_reason = Some("gone");
                    Verdict::Dead { error }
                }
                Verdict::Retry { error, .. } if action.disable_reason.is_some() => {
                    Verdict::Dead { error }
                }
                Verdict::Retry { error, .. } | Verdict::RateLimited { reason: error, .. }
                    if requested.as_deref() == Some("abort-message") =>
                {
                    Verdict::Dead { error }
                }
                Verdict::Retry { error, .. } => {
                    let min_wait = match status {
                        StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT => OVERLOAD_WAIT,
                        _ => Duration::ZERO,
                    };
                    let retry_after =
                        egress::retry_after(&response.headers, harkara_shared::clock::now());
                    let min_wait = min_wait.max(retry_after.unwrap_or(Duration::ZERO));
                    retry_on_schedule(error, schedule, attempt, min_wait, rng)
                }
                other => other,
            }
        }
        Err(error) => match call_error_verdict(error) {
            Verdict::Retry {
                error: job_error, ..
            } => {
                let min_wait = match error {
                    EgressError::Timeout { .. } => OVERLOAD_WAIT,
                    _ => Duration::ZERO,
                };
                retry_on_schedule(job_error, schedule, attempt, min_wait, rng)
            }
            other => other,
        },
    };
    Decision { verdict, action }
}

/// Retries after the scheduled wait, at least `min_wait`, and up to a tenth later, so that deliveries that failed together
/// are not retried together.
pub fn retry_on_schedule(
    error: JobError,
    schedule: &RetrySchedule,
    attempt: u16,
    min_wait: Duration,
    rng: &mut impl Rng,
) -> Verdict {
    let wait = schedule.after(attempt).max(min_wait);
    Verdict::Retry {
        error,
        after: Some(wait.mul_f64(rng.random_range(1.0..1.1))),
        lower_priority: attempt >= LOWER_PRIORITY_FROM,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    fn decision_on(status: u16, header: Option<(&str, &str)>, attempt: u16) -> Decision {
        let header = header.map(|(name, value)| {
            let name = HeaderName::try_from(name).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        let response = EgressResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::from_iter(header),
            body: Vec::new(),
            truncated: false,
            duration: Duration::ZERO,
            address: None,
        };
        let schedule = RetrySchedule::default();
        decide(Ok(&response), &schedule, attempt, &mut rand::rng())
    }

    fn wait(decision: &Decision) -> (Duration, bool) {
        match &decision.verdict {
            Verdict::Retry {
                after: Some(after),
                lower_priority,
                ..
            } => (*after, *lower_priority),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn failure_is_retried_on_schedule_and_up_to_a_tenth_later() {
        for (attempt, seconds) in [(1, 5), (2, 300), (9, 86_400)] {
            let (after, _) = wait(&decision_on(500, None, attempt));
            let due = Duration::from_secs(seconds);
            assert!(after >= due && after < due.mul_f64(1.1), "{after:?}");
        }
    }

    #[test]
    fn later_attempt_has_lower_priority() {
        assert!(!wait(&decision_on(500, None, 1)).1);
        assert!(wait(&decision_on(500, None, 2)).1);
    }

    #[test]
    fn overloaded_receiver_gets_a_minute_or_its_retry_after() {
        for status in [502, 503, 504] {
            assert!(
                wait(&decision_on(status, None, 1)).0 >= OVERLOAD_WAIT,
                "{status}"
            );
        }
        let longer = decision_on(500, Some(("retry-after", "7200")), 1);
        assert!(wait(&longer).0 >= Duration::from_secs(7200));
        let shorter = decision_on(500, Some(("retry-after", "1")), 2);
        assert!(wait(&shorter).0 >= Duration::from_secs(300));
        let timeout = EgressError::Timeout {
            limit: OVERLOAD_WAIT,
        };
        let schedule = RetrySchedule::default();
        let decision = decide(Err(&timeout), &schedule, 1, &mut rand::rng());
        assert!(wait(&decision).0 >= OVERLOAD_WAIT);
    }

    #[test]
    fn rate_limited_receiver_is_slowed_down_without_an_attempt() {
        for (status, header) in [(429, None), (429, Some("30")), (503, Some("30"))] {
            let decision = decision_on(status, header.map(|wait| ("retry-after", wait)), 1);
            assert!(decision.action.slow_down);
            assert!(matches!(decision.verdict, Verdict::RateLimited { .. }));
        }
        assert!(decision_on(503, None, 1).action.slow_down);
        assert!(!decision_on(500, None, 1).action.slow_down);
    }

    #[test]
    fn gone_receiver_or_one_that_requests_it_is_disabled() {
        let gone = decision_on(410, None, 1);
        assert_eq!(gone.action.disable_reason, Some("gone"));
        assert!(matches!(gone.verdict, Verdict::Dead { .. }));
        let failed = decision_on(500, Some(("webhook-delivery", "disable")), 1);
        assert_eq!(failed.action.disable_reason, Some("asked"));
        assert!(matches!(failed.verdict, Verdict::Dead { .. }));
        let accepted = decision_on(200, Some(("webhook-delivery", " Disable")), 1);
        assert_eq!(accepted.action.disable_reason, Some("asked"));
        assert!(matches!(accepted.verdict, Verdict::Done { .. }));
    }

    #[test]
    fn aborted_message_ends_without_disabling_the_endpoint() {
        for status in [400, 429, 500] {
            let decision = decision_on(status, Some(("webhook-delivery", "abort-message")), 1);
            assert!(matches!(decision.verdict, Verdict::Dead { .. }), "{status}");
            assert_eq!(decision.action.disable_reason, None);
        }
        let accepted = decision_on(204, Some(("webhook-delivery", "abort-message")), 1);
        assert!(matches!(accepted.verdict, Verdict::Done { .. }));
    }

    #[test]
    fn refused_address_is_not_retried() {
        let refused = EgressError::Refused(egress::Refusal::Address);
        let schedule = RetrySchedule::default();
        let decision = decide(Err(&refused), &schedule, 1, &mut rand::rng());
        assert!(matches!(decision.verdict, Verdict::Dead { .. }));
    }
}
