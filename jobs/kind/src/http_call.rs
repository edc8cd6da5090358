//! What kinds that call addresses of tenants share: headers, time limit, verdicts.

use std::collections::BTreeMap;
use std::time::Duration;

use harkara_queue::job::JobError;
use harkara_queue::{Run, Verdict};
use harkara_shared::egress::{self, EgressError, EgressResponse};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::FieldError;

/// The wait after a 429 that does not say how long.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

/// The shortest wait after a 429 or 503: a receiver whose clock is behind names a date that is past.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// What of a job's time the call may take: the rest is for what comes before and after it, at the most
/// five seconds. A slow receiver is so told from a stuck handler.
pub fn call_timeout(run: &Run) -> Duration {
    let timeout = run.job.timeout();
    timeout
        .saturating_sub(Duration::from_secs(5))
        .max(timeout.mul_f64(0.75))
}

/// Faults of headers a tenant wants sent: malformed ones and those that are not theirs to set.
/// `reserved` holds further lower-case names or, ending in `-`, prefixes.
pub fn header_faults(headers: &BTreeMap<String, String>, reserved: &[&str]) -> Vec<FieldError> {
    let mut faults = Vec::new();
    for (name, value) in headers {
        let pointer = format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"));
        let lower = name.to_ascii_lowercase();
        let is_reserved = reserved
            .iter()
            .any(|rule| lower == *rule || (rule.ends_with('-') && lower.starts_with(rule)));
        if HeaderName::try_from(name).is_err() {
            faults.push(FieldError::new(pointer, "invalid", "is not a header name"));
        } else if is_reserved || egress::REFUSED_HEADERS.contains(&lower.as_str()) {
            faults.push(FieldError::new(
                pointer,
                "reserved",
                "is set by Harkara and cannot be given",
            ));
        } else if HeaderValue::try_from(value).is_err() {
            faults.push(FieldError::new(
                pointer,
                "invalid",
                "holds characters a header cannot have",
            ));
        }
    }
    faults
}

/// The headers of a payload or resource as they are sent.
pub fn tenant_headers(given: &BTreeMap<String, String>) -> Result<HeaderMap, JobError> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let (Ok(header), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
        else {
            return Err(JobError::new(
                "invalid_header",
                format!("the header `{name}` cannot be sent"),
            ));
        };
        headers.insert(header, value);
    }
    Ok(headers)
}

/// The trace of the request that caused the job goes on to the receiver.
pub fn trace_headers(headers: &mut HeaderMap, run: &Run) {
    if let Some(Ok(trace)) = run.job.trace().traceparent.map(HeaderValue::try_from) {
        headers.entry("traceparent").or_insert(trace);
    }
}

/// The verdict on an answer that is not a success. 429 and 503 say when to come back, other 4xx
/// and redirects will not change by themselves, the rest may.
pub fn judge_failure(answer: &EgressResponse, retryable: bool) -> Verdict {
    let status = answer.status;
    let error = JobError::new(
        &format!("http_{}", status.as_u16()),
        format!("the receiver answered {status}"),
    );
    let asked = egress::retry_after(&answer.headers, harkara_shared::clock::now());
    match (status, asked) {
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, Some(wait)) => {
            Verdict::RateLimited {
                wait: wait.max(SHORTEST_WAIT),
                reason: error,
            }
        }
        (StatusCode::TOO_MANY_REQUESTS, None) => Verdict::RateLimited {
            wait: DEFAULT_WAIT,
            reason: error,
        },
        _ if retryable || status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            Verdict::retry(error, None)
        }
        _ => Verdict::Dead { error },
    }
}

/// The verdict on a call that got no answer.
pub fn failed_call(error: &EgressError) -> Verdict {
    let told = JobError::new(error.code(), error.to_string());
    if error.is_terminal() {
        Verdict::Dead { error: told }
    } else {
        Verdict::retry(told, None)
    }
}
