//! Room: the kind `http.request`: an application's own work behind an HTTP address.
//! Takes: method, URL, headers, body. Gives: the answer's status as the job's fate.
//! Never: follows a redirect or reaches an address the egress rules refuse.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use harkara_queue::job::JobError;
use harkara_queue::{Run, Verdict};
use harkara_shared::egress::{self, Egress, EgressError, EgressRequest, EgressResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::catalogue::JobKind;
use crate::fault::Fault;
use crate::services::Services;

/// Bytes of the answer kept in the job's result.
const RESULT_BODY: usize = 4096;

/// The wait after a 429 that does not say how long.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

/// The shortest wait after a 429 or 503: a receiver whose clock is behind names a date that is past.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// - Changes: nothing here; whatever the called address does.
/// - Twice: the job's id goes along as `Idempotency-Key`, the same in every attempt, so that the
///   receiver can tell a repetition.
/// - Calls: the URL of its payload, through the egress rules.
/// - Dead: look at the last error; when the receiver is mended, retry the job.
#[derive(Debug)]
pub struct HttpRequest;

/// Payload of `http.request`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Method, `GET` to `DELETE`; `POST` by default.
    #[serde(default = "post")]
    pub method: String,
    /// Absolute URL.
    pub url: String,
    /// Headers to add.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// A string is sent as it stands; any other value is sent as JSON.
    #[serde(default)]
    pub body: Option<Value>,
    /// Statuses that mean done: `"204"`, or `"2xx"` for a class; `["2xx"]` by default.
    #[serde(default = "two_xx")]
    pub success_status: Vec<String>,
    /// 4xx statuses that are worth another attempt; none by default.
    #[serde(default)]
    pub retryable_status: Vec<String>,
}

fn post() -> String {
    "POST".to_owned()
}

fn two_xx() -> Vec<String> {
    vec!["2xx".to_owned()]
}

impl JobKind for HttpRequest {
    const KIND: &'static str = "http.request";
    const QUEUE: &'static str = "http";
    const MAX_ATTEMPTS: u16 = 10;
    const TIMEOUT: Duration = Duration::from_secs(30);
    type Args = Args;

    fn check(args: &Args) -> Vec<Fault> {
        let mut faults = Vec::new();
        if method(&args.method).is_none() {
            faults.push(Fault::new(
                "/method",
                "invalid",
                "must be GET, HEAD, POST, PUT, PATCH or DELETE",
            ));
        }
        // Which addresses may be called is the worker's to say: it knows what its operator allows.
        let url = url::Url::parse(&args.url);
        if !url.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            faults.push(Fault::new(
                "/url",
                "invalid",
                "must be an absolute http or https URL",
            ));
        }
        faults.extend(header_faults(&args.headers, &[]));
        for (name, list) in [
            ("success_status", &args.success_status),
            ("retryable_status", &args.retryable_status),
        ] {
            for (index, status) in list.iter().enumerate() {
                if StatusPattern::parse(status).is_none() {
                    faults.push(Fault::new(
                        format!("/{name}/{index}"),
                        "invalid",
                        "must be a status such as \"204\" or a class such as \"2xx\"",
                    ));
                }
            }
        }
        if args.success_status.is_empty() {
            faults.push(Fault::new(
                "/success_status",
                "empty",
                "must name at least one status",
            ));
        }
        faults
    }

    /// As [`check`](Self::check) says; but what is a URL beyond its beginning is told by the run.
    fn rules() -> Value {
        let status = json!({
            "pattern": "^([1-5]xx|[1-5][0-9][0-9])$",
            "x-detail": "must be a status such as \"204\" or a class such as \"2xx\"",
        });
        let reserved = egress::REFUSED_HEADERS.join("|");
        json!({"properties": {
            "method": {
                "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
                "x-detail": "must be GET, HEAD, POST, PUT, PATCH or DELETE",
            },
            "url": {
                "pattern": "(?i)^https?://[^/?#[:space:]]",
                "x-detail": "must be an absolute http or https URL",
            },
            "headers": {"allOf": [
                {"propertyNames": {
                    "pattern": "^[-!#$%&'*+.^_`|~0-9A-Za-z]+$",
                    "x-detail": "is not a header name",
                }},
                {"propertyNames": {
                    "pattern": format!("(?i)^(?!(?:{reserved})$)"),
                    "x-code": "reserved",
                    "x-detail": "is set by Harkara and cannot be given",
                }},
                {"additionalProperties": {
                    "pattern": "^[^\\u0001-\\u0008\\u000a-\\u001f\\u007f]*$",
                    "x-detail": "holds characters a header cannot have",
                }},
            ]},
            "success_status": {
                "minItems": 1,
                "x-code": "empty",
                "x-detail": "must name at least one status",
                "items": status,
            },
            "retryable_status": {"items": status},
        }})
    }

    async fn run(args: Args, run: Run, services: Arc<Services>) -> Verdict {
        let headers = match request_headers(&args, &run) {
            Ok(headers) => headers,
            Err(error) => return Verdict::Dead { error },
        };
        match send(&services.egress, &args, headers, &run).await {
            Ok(answer) => judge(&args, &answer),
            Err(error) => failed_call(&error),
        }
    }
}

async fn send(
    egress: &Egress,
    args: &Args,
    headers: HeaderMap,
    run: &Run,
) -> Result<EgressResponse, EgressError> {
    let body = match &args.body {
        None => Bytes::new(),
        Some(Value::String(text)) => Bytes::from(text.clone()),
        Some(value) => Bytes::from(value.to_string()),
    };
    let request = EgressRequest {
        method: method(&args.method).unwrap_or(Method::POST),
        url: &args.url,
        headers,
        body,
        timeout: call_timeout(run),
        identity: None,
    };
    egress.send(request).await
}

/// What of a job's time the call may take: the rest is for what comes before and after it, at the most
/// five seconds. A slow receiver is so told from a stuck handler.
pub(crate) fn call_timeout(run: &Run) -> Duration {
    let timeout = run.job.timeout();
    timeout
        .saturating_sub(Duration::from_secs(5))
        .max(timeout.mul_f64(0.75))
}

fn method(name: &str) -> Option<Method> {
    match name {
        "GET" => Some(Method::GET),
        "HEAD" => Some(Method::HEAD),
        "POST" => Some(Method::POST),
        "PUT" => Some(Method::PUT),
        "PATCH" => Some(Method::PATCH),
        "DELETE" => Some(Method::DELETE),
        _ => None,
    }
}

/// Faults of headers a tenant wants sent: malformed ones and those that are not theirs to set.
/// `reserved` holds further lower-case names or, ending in `-`, prefixes.
pub(crate) fn header_faults(headers: &BTreeMap<String, String>, reserved: &[&str]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (name, value) in headers {
        let pointer = format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"));
        let lower = name.to_ascii_lowercase();
        let is_reserved = reserved
            .iter()
            .any(|rule| lower == *rule || (rule.ends_with('-') && lower.starts_with(rule)));
        if HeaderName::try_from(name).is_err() {
            faults.push(Fault::new(pointer, "invalid", "is not a header name"));
        } else if is_reserved || egress::REFUSED_HEADERS.contains(&lower.as_str()) {
            faults.push(Fault::new(
                pointer,
                "reserved",
                "is set by Harkara and cannot be given",
            ));
        } else if HeaderValue::try_from(value).is_err() {
            faults.push(Fault::new(
                pointer,
                "invalid",
                "holds characters a header cannot have",
            ));
        }
    }
    faults
}

fn request_headers(args: &Args, run: &Run) -> Result<HeaderMap, JobError> {
    let mut headers = tenant_headers(&args.headers)?;
    if matches!(&args.body, Some(body) if !body.is_string()) {
        headers
            .entry(http::header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("application/json"));
    }
    if let Ok(id) = HeaderValue::try_from(run.job.id.to_string()) {
        headers.entry("idempotency-key").or_insert(id);
    }
    trace_headers(&mut headers, run);
    Ok(headers)
}

/// The headers of a payload or resource as they are sent.
pub(crate) fn tenant_headers(given: &BTreeMap<String, String>) -> Result<HeaderMap, JobError> {
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
pub(crate) fn trace_headers(headers: &mut HeaderMap, run: &Run) {
    if let Some(Ok(trace)) = run.job.trace().traceparent.map(HeaderValue::try_from) {
        headers.entry("traceparent").or_insert(trace);
    }
}

fn judge(args: &Args, answer: &EgressResponse) -> Verdict {
    let status = answer.status;
    if matches_any(&args.success_status, status) {
        return Verdict::Done {
            result: Some(json!({
                "status": status.as_u16(),
                "duration_ms": u64::try_from(answer.duration.as_millis()).unwrap_or(u64::MAX),
                "body": answer.body_text(RESULT_BODY),
            })),
            follow_ups: Vec::new(),
        };
    }
    judge_failure(answer, matches_any(&args.retryable_status, status))
}

/// The verdict on an answer that is not a success. 429 and 503 say when to come back, other 4xx
/// and redirects will not change by themselves, the rest may.
pub(crate) fn judge_failure(answer: &EgressResponse, retryable: bool) -> Verdict {
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
pub(crate) fn failed_call(error: &EgressError) -> Verdict {
    let told = JobError::new(error.code(), error.to_string());
    if error.is_terminal() {
        Verdict::Dead { error: told }
    } else {
        Verdict::retry(told, None)
    }
}

/// A status or a class of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatusPattern {
    One(u16),
    Class(u16),
}

impl StatusPattern {
    fn parse(text: &str) -> Option<Self> {
        if let Some(class) = text.strip_suffix("xx") {
            return class
                .parse()
                .ok()
                .filter(|class| (1..=5).contains(class))
                .map(Self::Class);
        }
        text.parse()
            .ok()
            .filter(|status| (100..=599).contains(status))
            .map(Self::One)
    }

    fn matches(self, status: StatusCode) -> bool {
        match self {
            Self::One(one) => status.as_u16() == one,
            Self::Class(class) => status.as_u16() / 100 == class,
        }
    }
}

fn matches_any(patterns: &[String], status: StatusCode) -> bool {
    patterns
        .iter()
        .filter_map(|text| StatusPattern::parse(text))
        .any(|one| one.matches(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_of_a_payload_is_pointed_at() {
        let args: Args = serde_json::from_str(
            r#"{"method": "BREW", "url": "not a url", "success_status": [], "retryable_status": ["4xx", "abc"],
                "headers": {"Host": "x", "ok": "fine", "sp ace": "x", "x-a/b": "x"}}"#,
        )
        .unwrap();
        let mut pointers: Vec<String> = HttpRequest::check(&args)
            .into_iter()
            .map(|fault| fault.pointer)
            .collect();
        pointers.sort();
        assert_eq!(
            pointers,
            [
                "/headers/Host",
                "/headers/sp ace",
                "/headers/x-a~1b",
                "/method",
                "/retryable_status/1",
                "/success_status",
                "/url",
            ]
        );
    }
}
