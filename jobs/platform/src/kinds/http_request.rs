//! The kind `http.request`: calls an application's own HTTP endpoint.
//!
//! The status of the response decides the job's outcome. It never follows a redirect or calls an address that
//! the egress rules refuse.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use harkara_kind::FieldError;
use harkara_kind::JobKind;
use harkara_kind::Services;
use harkara_kind::http_call::{
    call_error_verdict, call_timeout, failure_verdict, header_errors, tenant_headers, trace_headers,
};
use harkara_queue::job::JobError;
use harkara_queue::{Run, Verdict};
use harkara_shared::egress::{self, Egress, EgressError, EgressRequest, EgressResponse};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Bytes of the response body that are stored in the job's result.
const MAX_RESULT_BODY: usize = 4096;

/// - Changes: nothing in Harkara; the receiver can change anything.
/// - Twice: every attempt sends the job's id as `Idempotency-Key`, so that the receiver can recognize a repetition.
/// - Calls: the URL of its payload, within the egress rules.
/// - Dead: see the last error; when the receiver works again, retry the job.
#[derive(Debug)]
pub struct HttpRequest;

/// Payload of `http.request`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// HTTP method. Default `POST`.
    #[serde(default = "post")]
    pub method: String,
    /// Absolute `http` or `https` URL.
    pub url: String,
    /// Request headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Request body. A string is sent as it is; any other value is sent as JSON.
    #[serde(default)]
    pub body: Option<Value>,
    /// Statuses that count as success: `"204"`, or `"2xx"` for a class. Default `["2xx"]`.
    #[serde(default = "two_xx")]
    pub success_status: Vec<String>,
    /// 4xx statuses that are retried. Default none.
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
    type Services = Services;
    type Args = Args;

    fn check(args: &Args) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if method(&args.method).is_none() {
            errors.push(FieldError::new(
                "/method",
                "invalid",
                "must be GET, HEAD, POST, PUT, PATCH or DELETE",
            ));
        }
        // The worker decides which addresses can be called: it knows its operator's egress rules.
        let url = url::Url::parse(&args.url);
        if !url.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            errors.push(FieldError::new(
                "/url",
                "invalid",
                "must be an absolute http or https URL",
            ));
        }
        errors.extend(header_errors(&args.headers, &[]));
        for (name, list) in [
            ("success_status", &args.success_status),
            ("retryable_status", &args.retryable_status),
        ] {
            for (index, status) in list.iter().enumerate() {
                if StatusPattern::parse(status).is_none() {
                    errors.push(FieldError::new(
                        format!("/{name}/{index}"),
                        "invalid",
                        "must be a status such as \"204\" or a class such as \"2xx\"",
                    ));
                }
            }
        }
        if args.success_status.is_empty() {
            errors.push(FieldError::new(
                "/success_status",
                "empty",
                "must name at least one status",
            ));
        }
        errors
    }

    /// The same rules as [`check`](Self::check), except that only the beginning of the URL is checked.
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

    async fn run(args: Args, run: Run, services: &Services) -> Verdict {
        let Some(method) = method(&args.method) else {
            let message = format!("`{}` is not a supported method", args.method);
            return Verdict::Dead {
                error: JobError::new("invalid_payload", message),
            };
        };
        let headers = match request_headers(&args, &run) {
            Ok(headers) => headers,
            Err(error) => return Verdict::Dead { error },
        };
        match send(&services.egress, method, &args, headers, &run).await {
            Ok(response) => response_verdict(&args, &response),
            Err(error) => call_error_verdict(&error),
        }
    }
}

async fn send(
    egress: &Egress,
    method: Method,
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
        method,
        url: &args.url,
        headers,
        body,
        timeout: call_timeout(run),
        identity: None,
    };
    egress.send(request).await
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

fn response_verdict(args: &Args, response: &EgressResponse) -> Verdict {
    let status = response.status;
    if matches_any(&args.success_status, status) {
        return Verdict::Done {
            result: Some(json!({
                "status": status.as_u16(),
                "duration_ms": u64::try_from(response.duration.as_millis()).unwrap_or(u64::MAX),
                "body": response.body_text(MAX_RESULT_BODY),
            })),
            follow_ups: Vec::new(),
        };
    }
    failure_verdict(response, matches_any(&args.retryable_status, status))
}

/// A status, or a class of statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatusPattern {
    Exact(u16),
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
            .map(Self::Exact)
    }

    fn matches(self, status: StatusCode) -> bool {
        match self {
            Self::Exact(exact) => status.as_u16() == exact,
            Self::Class(class) => status.as_u16() / 100 == class,
        }
    }
}

fn matches_any(patterns: &[String], status: StatusCode) -> bool {
    patterns
        .iter()
        .filter_map(|text| StatusPattern::parse(text))
        .any(|pattern| pattern.matches(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_a_payload_has_a_pointer() {
        let args: Args = serde_json::from_str(
            r#"{"method": "BREW", "url": "not a url", "success_status": [], "retryable_status": ["4xx", "abc"],
                "headers": {"Host": "x", "ok": "fine", "sp ace": "x", "x-a/b": "x"}}"#,
        )
        .unwrap();
        let mut pointers: Vec<String> = HttpRequest::check(&args)
            .into_iter()
            .map(|error| error.pointer)
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
