//! Room: errors as the API answers them (RFC 9457).
//! Takes: what went wrong. Gives: a [`Problem`], which a handler returns and [`crate::request_layer`]
//! turns into `application/problem+json` once it knows the request's id and path.
//! Never: shows a caller the text of an internal error.

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

/// What kind of problem it is: the `code` of the answer, stable for machines.
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
            Self::MalformedBody => ("malformed_body", S::BAD_REQUEST, "The body cannot be read"),
            Self::InvalidQuery => (
                "invalid_query",
                S::BAD_REQUEST,
                "A query parameter is wrong",
            ),
            Self::InvalidCursor => ("invalid_cursor", S::BAD_REQUEST, "The cursor is wrong"),
            Self::InvalidIdempotencyKey => (
                "invalid_idempotency_key",
                S::BAD_REQUEST,
                "The Idempotency-Key is malformed",
            ),
            Self::IdempotencyInProgress => (
                "idempotency_in_progress",
                S::CONFLICT,
                "The request is being answered",
            ),
            Self::IdempotencyOutcomeUnknown => (
                "idempotency_outcome_unknown",
                S::CONFLICT,
                "The answer is lost",
            ),
            Self::IdempotencyKeyReused => (
                "idempotency_key_reused",
                S::UNPROCESSABLE_ENTITY,
                "The Idempotency-Key was used before",
            ),
            Self::Unauthorized => ("unauthorized", S::UNAUTHORIZED, "A valid API key is needed"),
            Self::MissingScope => ("missing_scope", S::FORBIDDEN, "The API key lacks a scope"),
            Self::PlatformOnly => (
                "platform_only",
                S::FORBIDDEN,
                "Only the platform may do this",
            ),
            Self::NotFound => ("not_found", S::NOT_FOUND, "There is no such thing"),
            Self::MethodNotAllowed => (
                "method_not_allowed",
                S::METHOD_NOT_ALLOWED,
                "The method is not allowed here",
            ),
            Self::Conflict => ("conflict", S::CONFLICT, "The state does not allow it"),
            Self::BodyTooLarge => (
                "body_too_large",
                S::PAYLOAD_TOO_LARGE,
                "The body is too large",
            ),
            Self::UnsupportedMediaType => (
                "unsupported_media_type",
                S::UNSUPPORTED_MEDIA_TYPE,
                "The content type is not supported",
            ),
            Self::Invalid => (
                "invalid",
                S::UNPROCESSABLE_ENTITY,
                "Members of the body are wrong",
            ),
            Self::Internal => (
                "internal",
                S::INTERNAL_SERVER_ERROR,
                "Something failed on our side",
            ),
            Self::DatabaseUnavailable => (
                "database_unavailable",
                S::SERVICE_UNAVAILABLE,
                "The database cannot be reached",
            ),
            Self::DatabaseBusy => (
                "database_busy",
                S::SERVICE_UNAVAILABLE,
                "The database undid the work",
            ),
            Self::Timeout => (
                "timeout",
                S::SERVICE_UNAVAILABLE,
                "The request took too long",
            ),
            Self::ConfirmationRequired => (
                "confirmation_required",
                S::FORBIDDEN,
                "Confirm that it is you",
            ),
            Self::AddressNotAllowed => {
                ("address_not_allowed", S::FORBIDDEN, "Not from this address")
            }
            Self::TenantInactive => (
                "tenant_inactive",
                S::FORBIDDEN,
                "The tenant's status does not permit it",
            ),
            Self::Quota => (
                "quota",
                S::FORBIDDEN,
                "As many as the tier grants are there",
            ),
            Self::SignInFailed => ("sign_in_failed", S::UNAUTHORIZED, "Nobody is signed in"),
            Self::SecondFactor => ("code_required", S::UNAUTHORIZED, "A code is needed as well"),
            Self::ChooseTenant => ("choose_tenant", S::CONFLICT, "Which tenant is meant?"),
            Self::Csrf => (
                "csrf",
                S::FORBIDDEN,
                "The request does not come from our own pages",
            ),
            Self::PersonOnly => (
                "person_only",
                S::FORBIDDEN,
                "Only a person who has signed in may do this",
            ),
            Self::LastAdmin => ("last_admin", S::CONFLICT, "No admin would be left"),
            Self::Escalation => (
                "escalation",
                S::FORBIDDEN,
                "Nobody hands out or takes what they do not have",
            ),
            Self::OwnGrants => (
                "own_grants",
                S::FORBIDDEN,
                "Nobody widens what they may do themselves",
            ),
            Self::Busy => ("busy", S::SERVICE_UNAVAILABLE, "Too much at once"),
            Self::ProviderUnavailable => (
                "provider_unavailable",
                S::SERVICE_UNAVAILABLE,
                "The provider of sign-ins cannot be asked",
            ),
            Self::DepthQuota => ("depth_quota", S::TOO_MANY_REQUESTS, "Too many jobs wait"),
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
                "pointer": "/priority", "code": "out_of_range", "detail": "must be from 0 to 9"
            }]),
            _ => json!([]),
        };
        json!({
            "type": format!("urn:harkara:problem:{name}"),
            "title": title,
            "status": status.as_u16(),
            "detail": "what is wrong this time, in one sentence",
            "instance": "/v1/jobs",
            "code": name,
            "request_id": "0199a3b2-6f0c-7a31-9a51-0d4f1f8f3c11",
            "errors": errors,
        })
    }

    /// The code of a status that the framework answered by itself.
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

/// An error on its way to the caller.
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
    #[schema(example = "Members of the body are wrong")]
    title: &'a str,
    /// HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What is wrong this time, for people.
    #[schema(example = "/priority: must be from 0 to 9")]
    detail: &'a str,
    /// Path of the request.
    #[schema(example = "/v1/jobs")]
    instance: &'a str,
    /// Stable code, for machines.
    #[schema(example = "invalid")]
    code: &'a str,
    /// The request's `X-Request-Id`.
    #[schema(example = "0199a3b2-6f0c-7a31-9a51-0d4f1f8f3c11")]
    request_id: &'a str,
    /// What is wrong where; empty when the problem is not about single members. At most 100.
    #[schema(value_type = Vec<FieldErrorBody>)]
    errors: &'a [FieldError],
    /// The limit that was met, if it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<LimitBody>,
    /// The policies that refused the request, if it was one of too many: see the header
    /// `RateLimit-Policy`.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    #[schema(value_type = Vec<String>, required = false, example = json!(["hour"]))]
    violated_policies: &'a [String],
}

/// A limit that a request met.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = LimitMet)]
pub(crate) struct LimitBody {
    /// Its name.
    #[schema(example = "max_waiting")]
    name: &'static str,
    /// How many jobs it lets wait.
    #[schema(example = 100000)]
    max: u64,
    /// How many wait.
    #[schema(example = 100000)]
    waiting: u64,
}

/// One mistake in a request.
#[derive(Debug, ToSchema)]
#[schema(as = FieldError)]
#[expect(
    dead_code,
    reason = "describes harkara_kind::FieldError, which knows no HTTP"
)]
pub(crate) struct FieldErrorBody {
    /// JSON pointer (RFC 6901) to the wrong member of the body, or to the parameter when the query
    /// string is taken as an object. Members that are missing or unknown are pointed at, too. A
    /// body of lines is taken as `{"jobs": […]}`.
    #[schema(example = "/priority")]
    pointer: String,
    /// Stable code.
    #[schema(example = "out_of_range")]
    code: String,
    /// One sentence.
    #[schema(example = "must be from 0 to 9")]
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

    /// There is no such thing, or it belongs to somebody else, which looks the same.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}"))
    }

    /// Users of several tenants are the same person, and the request does not say which is meant.
    pub(crate) fn choose_tenant<'a>(slugs: impl Iterator<Item = &'a str>) -> Self {
        let faults: Vec<FieldError> = slugs
            .map(|slug| FieldError::new("/tenant", "choose", slug))
            .collect();
        let names: Vec<&str> = faults.iter().map(|fault| fault.detail.as_str()).collect();
        let detail = format!("say by `tenant` which is meant: {}", names.join(", "));
        Self::new(Code::ChooseTenant, detail).with_field_errors(faults)
    }

    /// The kind of problem.
    pub(crate) fn code(&self) -> Code {
        self.0.code
    }

    /// What is wrong where.
    pub(crate) fn faults(&self) -> &[FieldError] {
        &self.0.errors
    }

    /// As many jobs of the tenant wait as may.
    pub(crate) fn too_deep(detail: String, max: u64, waiting: u64) -> Self {
        let mut problem = Self::new(Code::DepthQuota, detail);
        problem.0.limit = Some(LimitBody {
            name: "max_waiting",
            max,
            waiting,
        });
        problem
    }

    /// The caller asks too often; `wait` is in seconds.
    pub(crate) fn rate_limited(detail: String, violated: Vec<String>, wait: u64) -> Self {
        let mut problem = Self::new(Code::RateLimited, detail);
        problem.0.header = Some((RETRY_AFTER, HeaderValue::from(wait.max(1))));
        problem.0.violated = violated;
        problem
    }

    /// A failure on our side; `cause` goes to the log only.
    pub(crate) fn internal(cause: impl ToString) -> Self {
        let problem = Self::new(
            Code::Internal,
            "the failure is in our log under the request's id",
        );
        problem.caused_by(cause)
    }

    /// The problem of a panic that was caught.
    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let words = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::internal(format!("panic: {}", words.unwrap_or("without words")))
    }

    /// The problem of a database error.
    pub(crate) fn of_database(error: &sqlx::Error) -> Self {
        if is_unavailable(error) {
            Self::new(
                Code::DatabaseUnavailable,
                "the database cannot be reached: try again",
            )
            .caused_by(error)
        } else if is_conflict(error) {
            Self::new(Code::DatabaseBusy, "other work got in the way: try again").caused_by(error)
        } else {
            Self::internal(error)
        }
    }

    /// The problem of an error answer that the framework made by itself, if `response` is one.
    pub(crate) fn of_framework(response: &Response) -> Option<Self> {
        let status = response.status();
        let is_bare = !response.headers().contains_key(CONTENT_TYPE);
        if !(status.is_client_error() || status.is_server_error()) || !is_bare {
            return None;
        }
        let code = Code::of_status(status);
        let mut problem = match code {
            Code::MethodNotAllowed => Self::new(code, "the header Allow names the methods"),
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

    pub(crate) fn with_field_errors(mut self, faults: Vec<FieldError>) -> Self {
        self.0.errors = faults;
        self
    }

    fn caused_by(mut self, cause: impl ToString) -> Self {
        self.0.cause = Some(cause.to_string());
        self
    }

    /// What is wrong this time, for people.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.0.code.parts().1
    }

    /// The answer. This is where a problem of ours is logged, once, inside the request's span.
    pub(crate) fn render(&self, request_id: &str, instance: &str) -> Response {
        let (code, status, title) = self.0.code.parts();
        match &self.0.cause {
            Some(cause) if status == StatusCode::INTERNAL_SERVER_ERROR => {
                tracing::error!(code, cause, "a request failed: {cause}");
            }
            Some(cause) => tracing::warn!(code, cause, "a request was put off: {cause}"),
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
        // A struct of strings and numbers can always be written.
        let body = serde_json::to_vec(&body).unwrap_or_default();
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
    fn every_code_has_a_name_of_its_own() {
        let mut names: Vec<&str> = CODES.iter().map(|code| code.parts().0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CODES.len());
    }

    #[test]
    fn whoever_may_come_back_is_told_when() {
        for code in CODES {
            let response = Problem::new(code, "x").render("id", "/");
            let told = response.headers().contains_key(RETRY_AFTER);
            let may = matches!(response.status().as_u16(), 429 | 503)
                || code == Code::IdempotencyInProgress;
            assert_eq!(told, may, "{code:?}");
        }
    }

    #[test]
    fn the_database_s_errors_are_told_apart() {
        let status = |error: &sqlx::Error| Problem::of_database(error).status().as_u16();
        assert_eq!(status(&sqlx::Error::PoolTimedOut), 503);
        assert_eq!(status(&sqlx::Error::RowNotFound), 500);
    }
}
