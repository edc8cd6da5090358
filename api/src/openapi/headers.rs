//! Headers of requests and responses in the OpenAPI document, as far as they are common to operations.

use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::Response;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use utoipa::openapi::{Header, Required};

use super::string;
use crate::sign_in::cookie::Cookie;

/// Name of the session cookie over TLS.
pub(super) const SESSION_COOKIE: &str = Cookie::Session.name(true);

/// The header with the CSRF token.
pub(super) const CSRF_HEADER: &str = "X-CSRF-Token";

/// Pattern of an idempotency key: visible ASCII, bare or as a Structured Field string.
const KEY: &str = r#"^([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")$"#;

/// Names of the headers that requests may have.
pub(super) fn names(is_post: bool, is_open: bool) -> Vec<&'static str> {
    let mut names = vec!["X-Request-Id"];
    if !is_open {
        names.push("X-Tenant-Id");
    }
    if is_post {
        names.extend(["traceparent", "Idempotency-Key"]);
    }
    names
}

/// The headers that requests may have.
pub(super) fn of_requests() -> [Parameter; 4] {
    let tenant = "Id or slug of the tenant to act for. Only keys and users of the tenant `platform` \
        with the scope `platform:admin` may name another tenant than their own.";
    let request = "The caller's id for the request, 1 to 128 visible ASCII characters; generated if \
        absent. The response repeats it, and jobs of the request keep it.";
    let trace = "W3C trace context. Jobs that the request enqueues carry it, and so do their outbound requests.";
    let key = "Makes the request run once: sent again with the same key within 24 hours, it gets the \
        first response again. 1 to 255 visible ASCII characters, bare or in double quotes. Keys are \
        separate for each caller, route and tenant.";
    let of_key = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(KEY))
        .build();
    [
        parameter("X-Tenant-Id", tenant, string()),
        parameter("X-Request-Id", request, string()),
        parameter("traceparent", trace, string()),
        parameter("Idempotency-Key", key, of_key),
    ]
}

fn parameter(name: &str, description: &str, schema: Object) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

/// Adds the headers that a response with this status may have.
pub(super) fn add_to(response: &mut Response, status: &str, is_post: bool) {
    let mut add = |name: &str, description: &str, schema: Object, example: &str| {
        let mut header = Header::new(schema);
        header.description = Some(description.to_owned());
        header.example = Some(example.into());
        response.headers.insert(name.to_owned(), header.into());
    };
    add(
        "X-Request-Id",
        "The request's id",
        string(),
        "0199a3b2-6f0c-7a31-9a51-0d4f1f8f3c11",
    );
    if status != "401" {
        add(
            "RateLimit",
            "State of each policy: `r` requests remain, and the whole quota is available again in `t` seconds",
            string(),
            r#""hour";r=998;t=3599"#,
        );
        add(
            "RateLimit-Policy",
            "The caller's policies: `q` requests in `w` seconds, or in a month without `w`",
            string(),
            r#""hour";q=1000;w=3600"#,
        );
    }
    if status == "401" {
        add("WWW-Authenticate", "`Bearer`", string(), "Bearer");
    }
    if matches!(status, "409" | "429" | "503") {
        let seconds = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0))
            .build();
        let description = "Seconds to wait before a retry";
        add("Retry-After", description, seconds, "1");
    }
    if is_post && !status.starts_with('5') && !matches!(status, "401" | "403" | "409" | "429") {
        let yes = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(["true"]))
            .build();
        let description = "Set when this is the response to an earlier request with the same key";
        add("Idempotent-Replayed", description, yes, "true");
    }
}
