//! Security headers of responses, and the layers for cross-origin requests and compression.
//!
//! Cookies are never allowed for another origin, and inline scripts never run.

use std::time::Duration;

use axum::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION,
    REFERRER_POLICY, RETRY_AFTER, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{And, NotForContentType, Predicate, SizeAbove};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::limits::{RATELIMIT, RATELIMIT_POLICY};
use crate::request_context::REQUEST_ID;

/// Content security policy of responses that are not pages: they load nothing.
const DATA_CSP: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// Content security policy of pages: files of this server only. Inline styles are allowed, inline scripts are not.
const PAGE_CSP: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; \
     base-uri 'none'; frame-ancestors 'none'",
);

/// Adds the security headers to a response. Headers that the route has set are kept: a page with forms, for example,
/// relaxes the referrer policy.
pub(crate) fn add(headers: &mut HeaderMap, is_https: bool) {
    let is_page = headers
        .get(CONTENT_TYPE)
        .is_some_and(|media| media.as_bytes().starts_with(b"text/html"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(if is_page { PAGE_CSP } else { DATA_CSP });
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    if is_https {
        let one_year = HeaderValue::from_static("max-age=31536000");
        headers.insert(STRICT_TRANSPORT_SECURITY, one_year);
    }
}

/// Allows requests of scripts from these origins, with an API key but never with cookies. `None` without
/// origins.
pub(crate) fn cors_layer(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> = origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin).ok())
        .collect();
    if origins.is_empty() {
        return None;
    }
    let name = HeaderName::from_static;
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([
                Method::GET,
                Method::HEAD,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ])
            .allow_headers([
                ACCEPT,
                AUTHORIZATION,
                CONTENT_TYPE,
                REQUEST_ID,
                name("idempotency-key"),
                name("traceparent"),
                name("x-reason"),
                name("x-tenant-id"),
            ])
            .expose_headers([
                LOCATION,
                RETRY_AFTER,
                REQUEST_ID,
                name("idempotent-replayed"),
                RATELIMIT,
                RATELIMIT_POLICY,
            ])
            .max_age(Duration::from_secs(600)),
    )
}

/// Compresses responses above 1 KiB. Pages are not compressed: they contain secrets beside text that the
/// address controls, and the compressed length would reveal one by the other (BREACH).
pub(crate) fn compression_layer() -> CompressionLayer<CompressionPredicate> {
    const PAGES: NotForContentType = NotForContentType::const_new("text/html");
    const STREAMS: NotForContentType = NotForContentType::const_new("text/event-stream");
    const IMAGES: NotForContentType = NotForContentType::const_new("image/");
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(1024).and(PAGES).and(STREAMS).and(IMAGES))
}

/// Which responses are compressed.
type CompressionPredicate =
    And<And<And<SizeAbove, NotForContentType>, NotForContentType>, NotForContentType>;
