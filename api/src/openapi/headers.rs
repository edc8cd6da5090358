//! Room: headers in the OpenAPI document.
//! Takes: an answer's status. Gives: the headers of requests, and those of the answer.
//! Never: describes a header of one route.

use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::Response;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use utoipa::openapi::{Header, Required};

use super::string;
use crate::people::cookie::Cookie;

/// The cookie of a person's session, as it is called over TLS.
pub(super) const SESSION_COOKIE: &str = Cookie::Session.name(true);

/// The header that shows that a page of ours asks.
pub(super) const CSRF_HEADER: &str = "X-CSRF-Token";

/// What an idempotency key is: visible ASCII, bare or as a Structured Field string.
const KEY: &str = r#"^([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")$"#;

/// The names of the headers that requests may bear.
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

/// The headers that requests may bear.
pub(super) fn of_requests() -> [Parameter; 4] {
    let tenant = "Id or slug of the tenant to act for. Only a key of the tenant `platform` with the \
        scope `platform:admin` may name another tenant than its own.";
    let request = "The caller's name for the request, 1 to 128 visible ASCII characters; one is \
        made up otherwise. It is answered, and its jobs remember it.";
    let trace = "W3C trace context, carried by jobs that the request makes, and out again.";
    let key = "Makes the request one that is carried out once: when it is sent again with the same \
        key within 24 hours, the first answer is given again. 1 to 255 visible ASCII characters, bare or \
        in double quotes. Of callers, routes and tenants each has keys of its own.";
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

fn parameter(name: &str, words: &str, schema: Object) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(words))
        .schema(Some(schema))
        .build()
}

/// Adds the headers that an answer of this status may bear.
pub(super) fn tell(response: &mut Response, status: &str, is_post: bool) {
    let mut add = |name: &str, words: &str, schema: Object, example: &str| {
        let mut header = Header::new(schema);
        header.description = Some(words.to_owned());
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
            "How each policy stands: `r` requests remain, and all of them are back in `t` seconds",
            string(),
            r#""hour";r=998;t=3599"#,
        );
        add(
            "RateLimit-Policy",
            "The caller's policies: `q` requests in any `w` seconds, or in a month",
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
        let words = "Seconds to wait before another try";
        add("Retry-After", words, seconds, "1");
    }
    if is_post && !status.starts_with('5') && !matches!(status, "401" | "403" | "409" | "429") {
        let yes = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(["true"]))
            .build();
        let words = "That this is the answer an earlier request with the key was given";
        add("Idempotent-Replayed", words, yes, "true");
    }
}
