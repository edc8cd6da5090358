//! Errors as the API returns them: problem details (RFC 9457).
//!
//! A handler returns a [`Problem`]; [`crate::request_layer`] renders it as `application/problem+json` once it
//! knows the request's id and path. The text of an internal error goes to the log only.

mod causes;

use std::any::Any;

use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use harkara_kind::FieldError;
use harkara_shared::database::{is_conflict, is_unavailable};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The kind of a problem: its `code`, stable for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    MalformedBody,
    InvalidQuery,
    InvalidCursor,
    InvalidIdempotencyKey,
    Unauthorized,
    MissingScope,
    PlatformOnly,
    NotFound,
    MethodNotAllowed,
    Conflict,
    IdempotencyInProgress,
    IdempotencyOutcomeUnknown,
    BodyTooLarge,
    UnsupportedMediaType,
    Invalid,
    IdempotencyKeyReused,
    Internal,
    DatabaseUnavailable,
    DatabaseBusy,
    Timeout,
    DepthQuota,
    RateLimited,
    ConfirmationRequired,
    AddressNotAllowed,
    TenantInactive,
    Quota,
    SignInFailed,
    SecondFactor,
    ChooseTenant,
    Csrf,
    PersonOnly,
    LastAdmin,
    Escalation,
    OwnGrants,
    Busy,
    ProviderUnavailable,
}

impl Code {
    /// Name, status and title.
    fn parts(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::MalformedBody => ("malformed_body", S::BAD_REQUEST, "Malformed body"),
            Self::InvalidQuery => ("invalid_query", S::BAD_REQUEST, "Invalid query parameter"),
            Self::InvalidCursor => ("invalid_cursor", S::BAD_REQUEST, "Invalid cursor"),
            Self::InvalidIdempotencyKey => (
                "invalid_idempotency_key",
                S::BAD_REQUEST,
                "Invalid Idempotency-Key",
            ),
            Self::IdempotencyInProgress => (
                "idempotency_in_progress",
                S::CONFLICT,
                "Request in progress",
            ),
            Self::IdempotencyOutcomeUnknown => (
                "idempotency_outcome_unknown",
                S::CONFLICT,
                "Outcome unknown",
            ),
            Self::IdempotencyKeyReused => (
                "idempotency_key_reused",
                S::UNPROCESSABLE_ENTITY,
                "Idempotency-Key reused",
            ),
            Self::Unauthorized => ("unauthorized", S::UNAUTHORIZED, "Authentication required"),
            Self::MissingScope => ("missing_scope", S::FORBIDDEN, "Missing scope"),
            Self::PlatformOnly => ("platform_only", S::FORBIDDEN, "Platform only"),
            Self::NotFound => ("not_found", S::NOT_FOUND, "Not found"),
            Self::MethodNotAllowed => (
                "method_not_allowed",
                S::METHOD_NOT_ALLOWED,
                "Method not allowed",
            ),
            Self::Conflict => ("conflict", S::CONFLICT, "Conflict"),
            Self::BodyTooLarge => ("body_too_large", S::PAYLOAD_TOO_LARGE, "Body too large"),
            Self::UnsupportedMediaType => (
                "unsupported_media_type",
                S::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported media type",
            ),
            Self::Invalid => (
                "invalid",
                S::UNPROCESSABLE_ENTITY,
                "Request body failed validation",
            ),
            Self::Internal => ("internal", S::INTERNAL_SERVER_ERROR, "Internal error"),
            Self::DatabaseUnavailable => (
                "database_unavailable",
                S::SERVICE_UNAVAILABLE,
                "Database unavailable",
            ),
            Self::DatabaseBusy => (
                "database_busy",
                S::SERVICE_UNAVAILABLE,
                "Transaction rolled back; retry",
            ),
            Self::Timeout => ("timeout", S::SERVICE_UNAVAILABLE, "Request timed out"),
            Self::ConfirmationRequired => (
                "confirmation_required",
                S::FORBIDDEN,
                "Session confirmation required",
            ),
            Self::AddressNotAllowed => ("address_not_allowed", S::FORBIDDEN, "Address not allowed"),
            Self::TenantInactive => ("tenant_inactive", S::FORBIDDEN, "Tenant inactive"),
            Self::Quota => ("quota", S::FORBIDDEN, "Tier quota reached"),
            Self::SignInFailed => ("sign_in_failed", S::UNAUTHORIZED, "Sign-in failed"),
            Self::SecondFactor => ("code_required", S::UNAUTHORIZED, "Second factor required"),
            Self::ChooseTenant => ("choose_tenant", S::CONFLICT, "Ambiguous tenant"),
            Self::Csrf => ("csrf", S::FORBIDDEN, "CSRF check failed"),
            Self::PersonOnly => ("person_only", S::FORBIDDEN, "Signed-in users only"),
            Self::LastAdmin => ("last_admin", S::CONFLICT, "Last administrator"),
            Self::Escalation => ("escalation", S::FORBIDDEN, "Privilege escalation refused"),
            Self::OwnGrants => ("own_grants", S::FORBIDDEN, "Own grants cannot be widened"),
            Self::Busy => ("busy", S::SERVICE_UNAVAILABLE, "Server busy"),
            Self::ProviderUnavailable => (
                "provider_unavailable",
                S::SERVICE_UNAVAILABLE,
                "Identity provider unavailable",
            ),
            Self::DepthQuota => ("depth_quota", S::TOO_MANY_REQUESTS, "Too many waiting jobs"),
            Self::RateLimited => ("rate_limited", S::TOO_MANY_REQUESTS, "Too many requests"),
        }
    }

    /// A problem of this status, as the API's description shows it.
    pub(crate) fn example(status: &str) -> Value {
        let code = match status {
            "400" => Self::MalformedBody,
            "401" => Self::Unauthorized,
            "403" => Self::MissingScope,
            "404" => Self::NotFound,
            "409" => Self::Conflict,
            "413" => Self::BodyTooLarge,
            "415" => Self::UnsupportedMediaType,
            "422" => Self::Invalid,
            "429" => Self::DepthQuota,
            "503" => Self::DatabaseUnavailable,
            _ => Self::Internal,
        };
        let (name, status, title) = code.parts();
        let errors = match code {
            Self::Invalid => json!([{
                "pointer": "/priority", "code": "out_of_range", "detail": "must be between 0 and 9"
            }]),
            _ => json!([]),
        };
        json!({
            "type": format!("urn:harkara:problem:{name}"),
            "title": title,
            "status": status.as_u16(),
            "detail": "one sentence about this occurrence",
            "instance": "/v1/jobs",
            "code": name,
            "request_id": "0199a3b2-6f0c-7a31-9a51-0d4f1f8f3c11",
            "errors": errors,
        })
    }

    /// The code of an error status that the framework produced.
    fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            status if status.is_client_error() => Self::MalformedBody,
            _ => Self::Internal,
        }
    }
}

/// An error response.
#[derive(Debug, Clone)]
pub(crate) struct Problem(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    header: Option<(HeaderName, HeaderValue)>,
    limit: Option<LimitBody>,
    violated: Vec<String>,
    cause: Option<String>,
}

/// The body of every error, as `application/problem+json` (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// A URN made of the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:harkara:problem:invalid")]
    kind: String,
    /// The same for every problem of this code.
    #[schema(example = "Request body failed validation")]
    title: &'a str,
    /// HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What is wrong in this occurrence, for people.
    #[schema(example = "/priority: must be between 0 and 9")]
    detail: &'a str,
    /// Path of the request.
    #[schema(example = "/v1/jobs")]
    instance: &'a str,
    /// Stable code, for clients.
    #[schema(example = "invalid")]
    code: &'a str,
    /// The request's `X-Request-Id`.
    #[schema(example = "0199a3b2-6f0c-7a31-9a51-0d4f1f8f3c11")]
    request_id: &'a str,
    /// Errors of single members; empty when the problem is not about single members. At most 100.
    #[schema(value_type = Vec<FieldErrorBody>)]
    errors: &'a [FieldError],
    /// The limit that refused the request, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<LimitBody>,
    /// Names of the policies that refused a request because of its rate; see the header `RateLimit-Policy`.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    #[schema(value_type = Vec<String>, required = false, example = json!(["hour"]))]
    violated_policies: &'a [String],
}

/// The limit that refused a request, and its current use.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = LimitMet)]
pub(crate) struct LimitBody {
    /// Name of the limit.
    #[schema(example = "max_waiting")]
    name: &'static str,
    /// Maximum number of waiting jobs.
    #[schema(example = 100000)]
    max: u64,
    /// Number of jobs waiting now.
    #[schema(example = 100000)]
    waiting: u64,
}

/// One error in a request.
#[derive(Debug, ToSchema)]
#[schema(as = FieldError)]
#[expect(
    dead_code,
    reason = "describes harkara_kind::FieldError, which knows no HTTP"
)]
pub(crate) struct FieldErrorBody {
    /// JSON pointer (RFC 6901) to the wrong member of the body, or to the parameter, with the query string
    /// read as an object. A missing or unknown member is pointed at itself. A body of lines is read as
    /// `{"jobs": […]}`.
    #[schema(example = "/priority")]
    pointer: String,
    /// Stable code.
    #[schema(example = "out_of_range")]
    code: String,
    /// One sentence.
    #[schema(example = "must be between 0 and 9")]
    detail: String,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        let header = match code {
            Code::Unauthorized | Code::SignInFailed | Code::SecondFactor => {
                Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            Code::DatabaseUnavailable
            | Code::DatabaseBusy
            | Code::Timeout
            | Code::Busy
            | Code::ProviderUnavailable
            | Code::DepthQuota
            | Code::RateLimited
            | Code::IdempotencyInProgress => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            _ => None,
        };
        Self(Box::new(Inner {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            header,
            limit: None,
            violated: Vec::new(),
            cause: None,
        }))
    }

    /// The resource does not exist or belongs to another tenant, which is indistinguishable.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("{what} not found"))
    }

    /// One person is a user of several tenants, and the request does not name one.
    pub(crate) fn choose_tenant<'a>(slugs: impl Iterator<Item = &'a str>) -> Self {
        let errors: Vec<FieldError> = slugs
            .map(|slug| FieldError::new("/tenant", "choose", slug))
            .collect();
        let names: Vec<&str> = errors.iter().map(|error| error.detail.as_str()).collect();
        let detail = format!("`tenant` must be one of {}", names.join(", "));
        Self::new(Code::ChooseTenant, detail).with_field_errors(errors)
    }

    /// The kind of problem.
    pub(crate) fn code(&self) -> Code {
        self.0.code
    }

    /// Errors of single members.
    pub(crate) fn field_errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    /// The tenant has its maximum of waiting jobs.
    pub(crate) fn too_deep(detail: String, max: u64, waiting: u64) -> Self {
        let mut problem = Self::new(Code::DepthQuota, detail);
        problem.0.limit = Some(LimitBody {
            name: "max_waiting",
            max,
            waiting,
        });
        problem
    }

    /// The caller exceeded its request limits; `wait` is in seconds.
    pub(crate) fn rate_limited(detail: String, violated: Vec<String>, wait: u64) -> Self {
        let mut problem = Self::new(Code::RateLimited, detail);
        problem.0.header = Some((RETRY_AFTER, HeaderValue::from(wait.max(1))));
        problem.0.violated = violated;
        problem
    }

    /// A failure of the server; `cause` goes to the log only.
    pub(crate) fn internal(cause: impl ToString) -> Self {
        let problem = Self::new(
            Code::Internal,
            "the failure is logged under the request's id",
        );
        problem.caused_by(cause)
    }

    /// The problem of a panic that was caught.
    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::internal(format!("panic: {}", message.unwrap_or("no message")))
    }

    /// The problem of a database error.
    pub(crate) fn of_database(error: &sqlx::Error) -> Self {
        if is_unavailable(error) {
            Self::new(
                Code::DatabaseUnavailable,
                "the database cannot be reached; retry",
            )
            .caused_by(error)
        } else if is_conflict(error) {
            Self::new(Code::DatabaseBusy, "a concurrent change conflicted; retry").caused_by(error)
        } else {
            Self::internal(error)
        }
    }

    /// The problem of an error response that the framework produced, if `response` is one.
    pub(crate) fn of_framework(response: &Response) -> Option<Self> {
        let status = response.status();
        let is_bare = !response.headers().contains_key(CONTENT_TYPE);
        if !(status.is_client_error() || status.is_server_error()) || !is_bare {
            return None;
        }
        let code = Code::of_status(status);
        let mut problem = match code {
            Code::MethodNotAllowed => Self::new(code, "the header `Allow` lists the methods"),
            _ => Self::new(
                code,
                status
                    .canonical_reason()
                    .unwrap_or("refused")
                    .to_lowercase(),
            ),
        };
        if let Some(allow) = response.headers().get(ALLOW) {
            problem.0.header = Some((ALLOW, allow.clone()));
        }
        Some(problem)
    }

    pub(crate) fn with_field_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }

    fn caused_by(mut self, cause: impl ToString) -> Self {
        self.0.cause = Some(cause.to_string());
        self
    }

    /// What is wrong in this occurrence, for people.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.0.code.parts().1
    }

    /// The response. Logs internal errors, once, inside the request's span.
    pub(crate) fn render(&self, request_id: &str, instance: &str) -> Response {
        let (code, status, title) = self.0.code.parts();
        match &self.0.cause {
            Some(cause) if status == StatusCode::INTERNAL_SERVER_ERROR => {
                tracing::error!(code, cause, "request failed");
            }
            Some(cause) => tracing::warn!(code, cause, "request refused temporarily"),
            None => {}
        }
        let body = ProblemBody {
            kind: format!("urn:harkara:problem:{code}"),
            title,
            status: status.as_u16(),
            detail: &self.0.detail,
            instance,
            code,
            request_id,
            errors: &self.0.errors,
            limit: self.0.limit,
            violated_policies: &self.0.violated,
        };
        let body = serde_json::to_vec(&body).unwrap_or_else(|error| {
            tracing::error!(code, error = %error, "could not render a problem");
            Vec::new()
        });
        let headers = [(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        )];
        let mut response = (status, headers, body).into_response();
        if let Some((name, value)) = self.0.header.clone() {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl IntoResponse for Problem {
    /// Without a body: see [`Problem::render`].
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: [Code; 36] = [
        Code::MalformedBody,
        Code::InvalidQuery,
        Code::InvalidCursor,
        Code::InvalidIdempotencyKey,
        Code::IdempotencyInProgress,
        Code::IdempotencyOutcomeUnknown,
        Code::IdempotencyKeyReused,
        Code::Unauthorized,
        Code::MissingScope,
        Code::PlatformOnly,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::Conflict,
        Code::BodyTooLarge,
        Code::UnsupportedMediaType,
        Code::Invalid,
        Code::Internal,
        Code::DatabaseUnavailable,
        Code::DatabaseBusy,
        Code::Timeout,
        Code::DepthQuota,
        Code::RateLimited,
        Code::ConfirmationRequired,
        Code::AddressNotAllowed,
        Code::TenantInactive,
        Code::Quota,
        Code::SignInFailed,
        Code::SecondFactor,
        Code::ChooseTenant,
        Code::Csrf,
        Code::PersonOnly,
        Code::LastAdmin,
        Code::Escalation,
        Code::OwnGrants,
        Code::Busy,
        Code::ProviderUnavailable,
    ];

    #[test]
    fn codes_have_distinct_names() {
        let mut names: Vec<&str> = CODES.iter().map(|code| code.parts().0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CODES.len());
    }

    #[test]
    fn retryable_problems_have_retry_after() {
        for code in CODES {
            let response = Problem::new(code, "x").render("id", "/");
            let has_header = response.headers().contains_key(RETRY_AFTER);
            let is_retryable = matches!(response.status().as_u16(), 429 | 503)
                || code == Code::IdempotencyInProgress;
            assert_eq!(has_header, is_retryable, "{code:?}");
        }
    }

    #[test]
    fn database_errors_map_to_distinct_statuses() {
        let status = |error: &sqlx::Error| Problem::of_database(error).status().as_u16();
        assert_eq!(status(&sqlx::Error::PoolTimedOut), 503);
        assert_eq!(status(&sqlx::Error::RowNotFound), 500);
    }
}
