//! Browser-facing behavior: security headers, CORS, compression, and the API reference page.

use std::collections::BTreeSet;

use harkara_accounts::{Scope, ensure_platform};
use harkara_shared::config::HttpSettings;
use reqwest::Method;
use serde_json::json;

use crate::jobs::{a_job, a_job_with};
use crate::support::{Client, Platform, listen_with};

/// A client of a second API with these settings.
async fn with(platform: &Platform, http: HttpSettings) -> Client {
    let base = listen_with(&platform.pool, &platform.keys, &platform.stop, http).await;
    let mut client = platform.client.clone();
    client.base = base;
    client
}

#[tokio::test]
async fn every_response_has_browser_security_headers() {
    let platform = Platform::start().await;
    let client = &platform.client;
    for path in [
        "/v1/jobs",
        "/nope",
        "/healthz",
        "/openapi.json",
        "/docs/",
        "/docs/x",
    ] {
        let response = client.get(path).await;
        assert_eq!(
            response.header("x-content-type-options"),
            "nosniff",
            "{path}"
        );
        assert_eq!(response.header("x-frame-options"), "DENY", "{path}");
        assert_eq!(response.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(
            response.header("cross-origin-resource-policy"),
            "same-origin"
        );
        assert!(response.header("permissions-policy").contains("camera=()"));
        let policy = response.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(
            policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(!response.headers.contains_key("strict-transport-security"));
        assert!(!response.headers.contains_key("access-control-allow-origin"));
    }
    let http = HttpSettings {
        public_url: Some("https://jobs.example.com".parse().unwrap()),
        ..HttpSettings::default()
    };
    let response = with(&platform, http).await.get("/nope").await;
    assert_eq!(
        response.header("strict-transport-security"),
        "max-age=31536000"
    );
}

#[tokio::test]
async fn only_configured_origins_are_allowed_by_cors() {
    let platform = Platform::start().await;
    let origin = "https://app.example.com";
    let http = HttpSettings {
        cors_origins: vec![origin.to_owned()],
        ..HttpSettings::default()
    };
    let client = with(&platform, http).await;
    let preflight = async |client: &Client, origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "authorization,idempotency-key,content-type",
            ),
        ];
        let client = client.with_key("");
        client
            .send(Method::OPTIONS, "/v1/jobs", &headers, None)
            .await
    };
    let allowed = preflight(&client, origin).await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), origin);
    assert!(
        allowed
            .header("access-control-allow-methods")
            .contains("POST")
    );
    let headers = allowed.header("access-control-allow-headers");
    assert!(headers.contains("idempotency-key") && headers.contains("authorization"));
    assert!(
        !allowed
            .headers
            .contains_key("access-control-allow-credentials")
    );
    let other = preflight(&client, "https://evil.example.com").await;
    assert!(!other.headers.contains_key("access-control-allow-origin"));
    // Without configured origins, none is allowed.
    let refused = preflight(&platform.client, origin).await;
    assert_eq!(refused.status, 401);
    assert!(!refused.headers.contains_key("access-control-allow-origin"));

    // A successful response, and a problem.
    for path in ["/v1/jobs", "/v1/jobs/job_x"] {
        let headers = [("origin", origin)];
        let response = client.send(Method::GET, path, &headers, None).await;
        assert_eq!(
            response.header("access-control-allow-origin"),
            origin,
            "{path}"
        );
        let shown = response.header("access-control-expose-headers");
        for name in [
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
            "x-request-id",
            "idempotent-replayed",
            "location",
        ] {
            assert!(shown.contains(name), "{name} is not in {shown}");
        }
        assert!(
            !response
                .headers
                .contains_key("access-control-allow-credentials")
        );
    }
}

#[tokio::test]
async fn long_responses_are_compressed_for_clients_that_accept_it() {
    let platform = Platform::start().await;
    let client = &platform.client;
    let headers = [("accept-encoding", "gzip")];
    let plain = client.get("/openapi.json").await;
    assert_eq!(plain.header("content-encoding"), "");
    assert!(plain.header("vary").contains("accept-encoding"));
    let packed = client
        .send(Method::GET, "/openapi.json", &headers, None)
        .await;
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert!(packed.header("vary").contains("accept-encoding"));
    assert!(packed.text.len() < plain.text.len());
    // Short responses are not compressed, and neither are pages, because they contain tokens.
    for path in ["/healthz", "/v1/jobs", "/docs/"] {
        let response = client.send(Method::GET, path, &headers, None).await;
        assert_eq!(response.header("content-encoding"), "", "{path}");
    }
    let job = a_job_with(
        "tags",
        json!((0..20).map(|n| format!("{n:064}")).collect::<Vec<_>>()),
    );
    client.post("/v1/jobs", &job).await.expect(201);
    let response = client.send(Method::GET, "/v1/jobs", &headers, None).await;
    assert_eq!(response.header("content-encoding"), "gzip");
}

#[tokio::test]
async fn streamed_response_completes_with_and_without_compression() {
    let platform = Platform::start().await;
    let all = ensure_platform(&platform.pool).await.unwrap();
    let client = platform.client_of(&all, Scope::ALL).await;
    platform.client.post("/v1/jobs", &a_job()).await.expect(201);
    let path = format!("/v1/tenants/{}/export", platform.acme.id);
    for encoding in ["identity", "gzip"] {
        let headers = [("accept-encoding", encoding)];
        let response = client.send(Method::GET, &path, &headers, None).await;
        assert_eq!(response.status, 200, "{encoding}");
        let is_packed = response.header("content-encoding") == "gzip";
        assert_eq!(is_packed, encoding == "gzip");
    }
}

#[tokio::test]
async fn head_returns_the_get_response_without_a_body() {
    let platform = Platform::start().await;
    for path in [
        "/v1/jobs",
        "/healthz",
        "/openapi.json",
        "/docs/",
        "/v1/jobs/job_x",
    ] {
        let get = platform.client.get(path).await;
        let head = platform.client.send(Method::HEAD, path, &[], None).await;
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"));
        assert_eq!(head.text, "");
    }
    // The Accept header does not matter.
    let headers = [("accept", "application/x-unheard-of")];
    let response = platform
        .client
        .send(Method::GET, "/v1/jobs", &headers, None)
        .await;
    response.expect(200);
}

#[tokio::test]
async fn api_reference_page_loads_nothing_from_other_servers() {
    let platform = Platform::start().await;
    let anyone = platform.client.with_key("");
    let moved = anyone.get("/docs").await;
    assert_eq!(moved.status, 308);
    assert_eq!(moved.header("location"), "/docs/");
    let page = anyone.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    let policy = page.header("content-security-policy");
    assert!(policy.contains("script-src 'self';"), "{policy}");
    assert!(policy.contains("connect-src 'self'"), "{policy}");
    // Inline scripts would not run.
    for part in page.text.split("<script").skip(1) {
        assert!(part.contains("src="), "{part}");
    }
    let mut named = BTreeSet::new();
    for attribute in ["src=\"", "href=\""] {
        named.extend(
            page.text
                .split(attribute)
                .skip(1)
                .filter_map(|rest| rest.split('"').next()),
        );
    }
    assert!(named.len() >= 5, "{named:?}");
    for file in named {
        assert!(!file.contains("//"), "{file} is on another server");
        let path = format!("/docs/{}", file.trim_start_matches("./"));
        let response = anyone.get(&path).await;
        assert_eq!(response.status, 200, "{path}");
        assert!(!response.text.is_empty(), "{path}");
        let media = match path.rsplit('.').next() {
            Some("js") => "javascript",
            Some("css") => "text/css",
            _ => "image/png",
        };
        assert!(response.header("content-type").contains(media), "{path}");
    }
    let begins = anyone.get("/docs/swagger-initializer.js").await;
    assert!(begins.text.contains("/openapi.json"), "{}", begins.text);
    assert!(!begins.text.contains("http"), "{}", begins.text);
    anyone.get("/docs/nope").await.problem(404, "not_found");
}
