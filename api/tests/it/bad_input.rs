//! Invalid input: the problem points at it, and nothing is inserted.

use chrono::{Months, TimeDelta};
use harkara_shared::clock;
use serde_json::{Value, json};

use crate::jobs::{a_job, a_job_with};
use crate::support::Platform;

pub(crate) fn without(name: &str) -> Value {
    let mut job = a_job();
    job.as_object_mut().unwrap().remove(name);
    job
}

fn http_job(payload: Value) -> Value {
    json!({"kind": "http.request", "payload": payload})
}

/// Invalid jobs, each with its only error.
pub(crate) fn bad_jobs() -> Vec<(Value, &'static str, &'static str)> {
    let now = clock::now();
    let far = now.checked_add_months(Months::new(120)).unwrap() + TimeDelta::minutes(1);
    let large = "x".repeat(256 * 1024);
    let tags: Vec<String> = (0..21).map(|tag| tag.to_string()).collect();
    let mut both = a_job_with("run_at", json!(now));
    both["delay"] = json!("5m");
    let mut expires_before_it_is_due = a_job_with("delay", json!("2m"));
    expires_before_it_is_due["expires_at"] = json!(now + TimeDelta::minutes(1));
    vec![
        (
            a_job_with("kind", json!("no.such.kind")),
            "/kind",
            "unknown_kind",
        ),
        (a_job_with("kind", json!(7)), "/kind", "invalid"),
        (without("kind"), "/kind", "missing"),
        (without("payload"), "/payload", "missing"),
        (a_job_with("payload", Value::Null), "/payload", "missing"),
        (a_job_with("payload", json!([])), "/payload", "invalid"),
        (a_job_with("payload", json!("x")), "/payload", "invalid"),
        (
            http_job(json!({"url": "https://example.com", "body": large})),
            "/payload",
            "too_large",
        ),
        (http_job(json!({})), "/payload/url", "missing"),
        (
            http_job(json!({"url": "https://example.com", "ulr": 1})),
            "/payload/ulr",
            "unknown_field",
        ),
        (http_job(json!({"url": 5})), "/payload/url", "invalid"),
        (
            http_job(json!({"url": "https://example.com", "method": "BREW"})),
            "/payload/method",
            "invalid",
        ),
        (
            http_job(json!({"url": "https://example.com", "body": {"a/b": ["\u{0}"]}})),
            "/payload/body/a~1b/0",
            "nul_character",
        ),
        (
            a_job_with("prioritty", json!(1)),
            "/prioritty",
            "unknown_field",
        ),
        (a_job_with("a~/b", json!(1)), "/a~0~1b", "unknown_field"),
        (
            a_job_with("priority", json!(10)),
            "/priority",
            "out_of_range",
        ),
        (
            a_job_with("priority", json!(-1)),
            "/priority",
            "out_of_range",
        ),
        (a_job_with("priority", json!(1.5)), "/priority", "invalid"),
        (
            a_job_with("priority", json!("high")),
            "/priority",
            "invalid",
        ),
        (a_job_with("queue", json!("No Such")), "/queue", "invalid"),
        (a_job_with("queue", json!("")), "/queue", "invalid"),
        (
            a_job_with("run_at", json!(now - TimeDelta::hours(25))),
            "/run_at",
            "out_of_range",
        ),
        (
            a_job_with("run_at", json!("1970-01-01T00:00:00Z")),
            "/run_at",
            "out_of_range",
        ),
        (a_job_with("run_at", json!(far)), "/run_at", "out_of_range"),
        (
            a_job_with("expires_at", json!(now - TimeDelta::seconds(1))),
            "/expires_at",
            "out_of_range",
        ),
        (
            a_job_with("expires_at", json!("soon")),
            "/expires_at",
            "invalid",
        ),
        (expires_before_it_is_due, "/expires_at", "out_of_range"),
        (
            a_job_with("run_at", json!("9999-12-31T23:59:59Z")),
            "/run_at",
            "out_of_range",
        ),
        (
            a_job_with("run_at", json!("tomorrow")),
            "/run_at",
            "invalid",
        ),
        (
            a_job_with("run_at", json!(1_900_000_000)),
            "/run_at",
            "invalid",
        ),
        (
            a_job_with("delay", json!("3660d")),
            "/delay",
            "out_of_range",
        ),
        (
            a_job_with("delay", json!("18446744073709551615s")),
            "/delay",
            "out_of_range",
        ),
        (a_job_with("delay", json!("-5m")), "/delay", "invalid"),
        (a_job_with("delay", json!(300)), "/delay", "invalid"),
        (both, "/delay", "exclusive"),
        (a_job_with("unique_key", json!("")), "/unique_key", "length"),
        (
            a_job_with("unique_key", json!("x".repeat(257))),
            "/unique_key",
            "length",
        ),
        (
            a_job_with("unique_key", json!("a\u{0}")),
            "/unique_key",
            "nul_character",
        ),
        (
            a_job_with("unique_for", json!("1h")),
            "/unique_for",
            "needs_unique_key",
        ),
        (
            a_job_with("unique_for", json!("999ms")),
            "/unique_for",
            "out_of_range",
        ),
        (
            a_job_with("ordering_key", json!("")),
            "/ordering_key",
            "invalid_key",
        ),
        (
            a_job_with("ordering_key", json!("a\u{1f}b")),
            "/ordering_key",
            "invalid_key",
        ),
        (
            a_job_with("ordering_key", json!("x".repeat(257))),
            "/ordering_key",
            "invalid_key",
        ),
        (
            a_job_with("limits", json!([{"key": "a", "cost": 0}])),
            "/limits/0/cost",
            "out_of_range",
        ),
        (
            a_job_with("limits", json!([{"key": "a", "cost": 1001}])),
            "/limits/0/cost",
            "out_of_range",
        ),
        (
            a_job_with("limits", json!([{"key": "a"}, {"cost": 1}])),
            "/limits/1/key",
            "missing",
        ),
        (
            a_job_with("limits", json!([{"key": "a"}, {"key": "a", "cost": 2}])),
            "/limits/1/key",
            "duplicate",
        ),
        (
            a_job_with("limits", json!([{"key": "a\nb"}])),
            "/limits/0/key",
            "invalid_key",
        ),
        (
            a_job_with("limits", json!([{"kee": "a", "key": "b"}])),
            "/limits/0/kee",
            "unknown_field",
        ),
        (
            a_job_with(
                "limits",
                json!([{"key": "a"}, {"key": "b"}, {"key": "c"}, {"key": "d"}]),
            ),
            "/limits",
            "too_many",
        ),
        (a_job_with("limits", json!(["a"])), "/limits/0", "invalid"),
        (a_job_with("limits", json!("a")), "/limits", "invalid"),
        (
            a_job_with("max_attempts", json!(0)),
            "/max_attempts",
            "out_of_range",
        ),
        (
            a_job_with("max_attempts", json!(101)),
            "/max_attempts",
            "out_of_range",
        ),
        (
            a_job_with("timeout", json!("99ms")),
            "/timeout",
            "out_of_range",
        ),
        (
            a_job_with("timeout", json!("25h")),
            "/timeout",
            "out_of_range",
        ),
        (a_job_with("timeout", json!("soon")), "/timeout", "invalid"),
        (
            a_job_with("backoff", json!({"base": "0s"})),
            "/backoff/base",
            "out_of_range",
        ),
        (
            a_job_with("backoff", json!({"factor": 11})),
            "/backoff/factor",
            "out_of_range",
        ),
        (
            a_job_with("backoff", json!({"max": "8d"})),
            "/backoff/max",
            "out_of_range",
        ),
        (
            a_job_with("backoff", json!({"jitter": "some"})),
            "/backoff/jitter",
            "invalid",
        ),
        (
            a_job_with("backoff", json!({"bse": "1s"})),
            "/backoff/bse",
            "unknown_field",
        ),
        (
            a_job_with("backoff", json!(["1s", 2, "1h", "full"])),
            "/backoff",
            "invalid",
        ),
        (a_job_with("tags", json!(tags)), "/tags", "too_many"),
        (
            a_job_with("tags", json!(["a", "a"])),
            "/tags/1",
            "duplicate",
        ),
        (a_job_with("tags", json!(["a", ""])), "/tags/1", "length"),
        (
            a_job_with("tags", json!(["x".repeat(65)])),
            "/tags/0",
            "length",
        ),
        (a_job_with("tags", json!(["a", 7])), "/tags/1", "invalid"),
        (
            a_job_with("tags", json!(["a\u{0}"])),
            "/tags/0",
            "nul_character",
        ),
        (json!([]), "", "invalid"),
        (json!("job"), "", "invalid"),
    ]
}

#[tokio::test]
async fn invalid_member_is_reported_by_pointer_and_nothing_is_inserted() {
    let platform = Platform::start().await;
    for (job, pointer, code) in bad_jobs() {
        let response = platform.client.post("/v1/jobs", &job).await;
        let expected = [(pointer.to_owned(), code.to_owned())];
        let mut shown = job.to_string();
        shown.truncate(200);
        assert_eq!(
            response.problem(422, "invalid"),
            expected,
            "{shown}: {}",
            response.text
        );
    }
    assert_eq!(platform.jobs().await, 0);
}

#[tokio::test]
async fn invalid_job_of_a_batch_is_reported_by_index() {
    let platform = Platform::start().await;
    for (job, pointer, code) in bad_jobs() {
        let expected = [(format!("/jobs/1{pointer}"), code.to_owned())];
        let batch = json!({"jobs": [a_job(), job]});
        let response = platform.client.post("/v1/jobs/batch", &batch).await;
        assert_eq!(response.problem(422, "invalid"), expected);
        let lines = format!("{}\n\n{job}", a_job());
        let response = platform
            .client
            .post_text("/v1/jobs/batch", "application/x-ndjson", lines)
            .await;
        assert_eq!(response.problem(422, "invalid"), expected);
    }
    assert_eq!(platform.jobs().await, 0);
}

#[tokio::test]
async fn all_errors_of_a_job_are_reported_at_once() {
    let platform = Platform::start().await;
    let job = json!({
        "kind": "http.request", "payload": {"url": "x", "method": "BREW"}, "priority": 10,
        "prioritty": 1, "timeout": 5, "max_attempts": "3", "tags": ["a", "a"],
        "backoff": {"base": "x", "factor": 0}
    });
    let mut pointers: Vec<String> = platform
        .client
        .post("/v1/jobs", &job)
        .await
        .problem(422, "invalid")
        .into_iter()
        .map(|(pointer, _)| pointer)
        .collect();
    pointers.sort();
    assert_eq!(
        pointers,
        [
            "/backoff/base",
            "/backoff/factor",
            "/max_attempts",
            "/payload/method",
            "/payload/url",
            "/prioritty",
            "/priority",
            "/tags/1",
            "/timeout",
        ]
    );
    assert_eq!(platform.jobs().await, 0);
}

#[tokio::test]
async fn unknown_kind_error_lists_the_known_kinds() {
    let platform = Platform::start().await;
    let response = platform
        .client
        .post("/v1/jobs", &a_job_with("kind", json!("x")))
        .await;
    let detail = response.json()["errors"][0]["detail"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        detail.contains("http.request, retry.redrive, webhook.deliver"),
        "{detail}"
    );
}

#[tokio::test]
async fn body_that_is_not_json_is_malformed() {
    let platform = Platform::start().await;
    for text in [
        "",
        "{",
        "{\"kind\":}",
        "{\"kind\":\"http.request\"} x",
        "nope",
        "{'a':1}",
    ] {
        let response = platform
            .client
            .post_text("/v1/jobs", "application/json", text)
            .await;
        assert_eq!(response.problem(400, "malformed_body"), [], "{text}");
        let detail = response.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("line 1 column"), "{detail}");
        for path in ["/v1/jobs/batch", "/v1/events", "/v1/webhook-endpoints"] {
            let response = platform
                .client
                .post_text(path, "application/json", text)
                .await;
            response.problem(400, "malformed_body");
        }
    }
    let lines = format!("{}\n{{\n", a_job());
    let response = platform
        .client
        .post_text("/v1/jobs/batch", "application/x-ndjson", lines)
        .await;
    let expected = [("/jobs/1".to_owned(), "malformed".to_owned())];
    assert_eq!(response.problem(400, "malformed_body"), expected);
    assert!(
        response.text.contains("line 2 is not valid JSON"),
        "{}",
        response.text
    );
    assert_eq!(platform.jobs().await, 0);
}

#[tokio::test]
async fn other_content_type_is_not_supported() {
    let platform = Platform::start().await;
    for media in ["", "text/plain", "application/x-www-form-urlencoded"] {
        for path in [
            "/v1/jobs",
            "/v1/jobs/batch",
            "/v1/events",
            "/v1/webhook-endpoints",
        ] {
            let response = platform
                .client
                .post_text(path, media, a_job().to_string())
                .await;
            response.problem(415, "unsupported_media_type");
        }
    }
    let response = platform
        .client
        .post_text("/v1/jobs", "application/x-ndjson", a_job().to_string())
        .await;
    response.problem(415, "unsupported_media_type");
    assert_eq!(platform.jobs().await, 0);
}

#[tokio::test]
async fn body_over_the_limit_is_too_large() {
    let platform = Platform::start().await;
    let job = http_job(json!({"url": "https://example.com", "body": "x".repeat(1 << 20)}));
    platform
        .client
        .post("/v1/jobs", &job)
        .await
        .problem(413, "body_too_large");
    let response = platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": [job]}))
        .await;
    let expected = [("/jobs/0".to_owned(), "too_large".to_owned())];
    assert_eq!(response.problem(422, "invalid"), expected);
    assert_eq!(platform.jobs().await, 0);
}

#[tokio::test]
async fn payload_of_exactly_256_kib_is_accepted() {
    let platform = Platform::start().await;
    let empty = json!({"url": "https://example.com", "body": ""})
        .to_string()
        .len();
    let body = "x".repeat(256 * 1024 - empty);
    let job = http_job(json!({"url": "https://example.com", "body": body}));
    platform.client.post("/v1/jobs", &job).await.expect(201);
}
