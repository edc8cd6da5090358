//! Headers, time limit and verdicts that kinds which call tenants' addresses share.

use std::collections::BTreeMap;
use std::time::Duration;

use harkara_queue::job::JobError;
use harkara_queue::{Run, Verdict};
use harkara_shared::egress::{self, EgressError, EgressResponse};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::FieldError;

/// Wait after a 429 without `Retry-After`.
const DEFAULT_RATE_LIMIT_WAIT: Duration = Duration::from_secs(30);

/// Minimum wait after a 429 or 503: a receiver whose clock is behind may name a date in the past.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The part of a job's timeout that the call can take. The rest, at most five seconds, is for the work before and after
/// it, so that a slow receiver can be distinguished from a stuck handler.
#[must_use]
pub fn call_timeout(run: &Run) -> Duration {
    let timeout = run.job.timeout();
    timeout
        .saturating_sub(Duration::from_secs(5))
        .max(timeout.mul_f64(0.75))
}

/// Errors in headers that a tenant sets: malformed or reserved ones. `reserved` holds further lower-case names or, ending
/// in `-`, prefixes.
#[must_use]
pub fn header_errors(headers: &BTreeMap<String, String>, reserved: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (name, value) in headers {
        let pointer = format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"));
        let lower = name.to_ascii_lowercase();
        let is_reserved = reserved
            .iter()
            .any(|rule| lower == *rule || (rule.ends_with('-') && lower.starts_with(rule)));
        if HeaderName::try_from(name).is_err() {
            errors.push(FieldError::new(pointer, "invalid", "is not a header name"));
        } else if is_reserved || egress::REFUSED_HEADERS.contains(&lower.as_str()) {
            errors.push(FieldError::new(
                pointer,
                "reserved",
                "is set by Harkara and cannot be given",
            ));
        } else if HeaderValue::try_from(value).is_err() {
            errors.push(FieldError::new(
                pointer,
                "invalid",
                "holds characters a header cannot have",
            ));
        }
    }
    errors
}

/// Converts the headers of a payload or resource for sending.
///
/// # Errors
/// The error of the job, when a header is malformed.
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

/// Adds the trace context of the request that enqueued the job.
pub fn trace_headers(headers: &mut HeaderMap, run: &Run) {
    if let Some(Ok(trace)) = run.job.trace().traceparent.map(HeaderValue::try_from) {
        headers.entry("traceparent").or_insert(trace);
    }
}

/// The verdict on a response that is not a success. 429 and 503 can name a wait; other 4xx and redirects are final unless
/// `retryable`; the rest is retried.
#[must_use]
pub fn failure_verdict(response: &EgressResponse, retryable: bool) -> Verdict {
    let status = response.status;
    let error = JobError::new(
        &format!("http_{}", status.as_u16()),
        format!("the receiver answered {status}"),
    );
    let retry_after = egress::retry_after(&response.headers, harkara_shared::clock::now());
    match (status, retry_after) {
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, Some(wait)) => {
            Verdict::RateLimited {
                wait: wait.max(MIN_RETRY_AFTER),
                reason: error,
            }
        }
        (StatusCode::TOO_MANY_REQUESTS, None) => Verdict::RateLimited {
            wait: DEFAULT_RATE_LIMIT_WAIT,
            reason: error,
        },
        _ if retryable || status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            Verdict::retry(error, None)
        }
        _ => Verdict::Dead { error },
    }
}

/// The verdict on a call without a response.
#[must_use]
pub fn call_error_verdict(error: &EgressError) -> Verdict {
    let job_error = JobError::new(error.code(), error.to_string());
    if error.is_terminal() {
        Verdict::Dead { error: job_error }
    } else {
        Verdict::retry(job_error, None)
    }
}
