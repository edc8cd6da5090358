//! Idempotency keys: requests that are sent more than once.

use harkara_accounts::Scope;
use harkara_shared::database::{query, query_scalar};
use reqwest::Method;
use serde_json::{Value, json};

use crate::jobs::{a_job, a_job_with};
use crate::support::{Client, Platform, TestResponse};

async fn post(client: &Client, path: &str, key: &str, body: &Value) -> TestResponse {
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", key),
    ];
    let body = Some(body.to_string());
    client.send(Method::POST, path, &headers, body).await
}

/// The number of stored requests in a state.
async fn rows(platform: &Platform, state: &str) -> i64 {
    query_scalar("select count(*) from app.idempotency where state = $1")
        .bind(state.to_owned())
        .fetch_one(&platform.pool)
        .await
        .unwrap()
}

async fn set(platform: &Platform, sql: &'static str) {
    query(sql).execute(&platform.pool).await.unwrap();
}

#[track_caller]
fn is_replay(response: &TestResponse, first: &TestResponse) {
    assert_eq!(response.header("idempotent-replayed"), "true");
    assert_eq!(response.status, first.status);
    assert_eq!(response.text, first.text);
    for name in ["content-type", "location"] {
        assert_eq!(response.header(name), first.header(name), "{name}");
    }
    assert_ne!(
        response.header("x-request-id"),
        first.header("x-request-id")
    );
}

#[tokio::test]
async fn repeated_request_with_the_same_key_runs_once_and_gets_the_same_response() {
    let platform = Platform::start().await;
    let first = post(&platform.client, "/v1/jobs", "order-42", &a_job()).await;
    first.expect(201);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    for key in ["order-42", "\"order-42\""] {
        let again = post(&platform.client, "/v1/jobs", key, &a_job()).await;
        is_replay(&again, &first);
    }
    assert_eq!(platform.jobs().await, 1);
    post(&platform.client, "/v1/jobs", "order-43", &a_job())
        .await
        .expect(201);
    platform.client.post("/v1/jobs", &a_job()).await.expect(201);
    assert_eq!(platform.jobs().await, 3);
}

#[tokio::test]
async fn different_request_with_the_same_key_is_refused() {
    let platform = Platform::start().await;
    let client = &platform.client;
    let job = post(client, "/v1/jobs", "k", &a_job()).await.expect(201);
    let other = a_job_with("priority", json!(1));
    post(client, "/v1/jobs", "k", &other)
        .await
        .problem(422, "idempotency_key_reused");
    post(client, "/v1/jobs?x=1", "k", &a_job())
        .await
        .problem(422, "idempotency_key_reused");
    let headers = [
        ("content-type", "application/cloudevents+json"),
        ("idempotency-key", "k"),
    ];
    let body = Some(a_job().to_string());
    client
        .send(Method::POST, "/v1/jobs", &headers, body)
        .await
        .problem(422, "idempotency_key_reused");
    // Keys are scoped to a route: the same for every path of it, separate between routes.
    let headers = [("idempotency-key", "k")];
    let id = job["id"].as_str().unwrap();
    let path = format!("/v1/jobs/{id}/cancel");
    let press = async |path: &str| client.send(Method::POST, path, &headers, None).await;
    press(&path).await.expect(200);
    press("/v1/jobs/job_0000000000500/cancel")
        .await
        .problem(422, "idempotency_key_reused");
    assert_eq!(platform.jobs().await, 1);
}

#[tokio::test]
async fn malformed_idempotency_key_is_refused_before_any_work() {
    let platform = Platform::start().await;
    for key in ["", "a b", "\"abc", "é", &"x".repeat(256)] {
        post(&platform.client, "/v1/jobs", key, &a_job())
            .await
            .problem(400, "invalid_idempotency_key");
    }
    assert_eq!(platform.jobs().await, 0);
    // Only POST requests use one.
    let headers = [("idempotency-key", "a b")];
    let response = platform
        .client
        .send(Method::GET, "/v1/jobs", &headers, None)
        .await;
    response.expect(200);
}

#[tokio::test]
async fn twenty_concurrent_requests_with_one_key_enqueue_one_job() {
    let platform = Platform::start().await;
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let client = platform.client.clone();
            tokio::spawn(async move { post(&client, "/v1/jobs", "one", &a_job()).await })
        })
        .collect();
    let mut bodies = Vec::new();
    for task in tasks {
        let response = task.await.unwrap();
        if response.status == 409 {
            response.problem(409, "idempotency_in_progress");
        } else {
            response.expect(201);
            bodies.push(response.text);
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
    assert_eq!(platform.jobs().await, 1);
}

#[tokio::test]
async fn crash_between_work_and_response_repeats_nothing() {
    let platform = Platform::start().await;
    post(&platform.client, "/v1/jobs", "k", &a_job())
        .await
        .expect(201);
    // The state left by a process that dies after its commit.
    set(
        &platform,
        "update app.idempotency set state = 'committed', status = null, headers = null, body = null,
             locked_until = now() - interval '1 hour'",
    )
    .await;
    for _ in 0..2 {
        post(&platform.client, "/v1/jobs", "k", &a_job())
            .await
            .problem(409, "idempotency_outcome_unknown");
    }
    assert_eq!(platform.jobs().await, 1);
    // The key can be used again after a day.
    set(
        &platform,
        "update app.idempotency set expires_at = now() - interval '1 second'",
    )
    .await;
    post(
        &platform.client,
        "/v1/jobs",
        "k",
        &a_job_with("priority", json!(1)),
    )
    .await
    .expect(201);
    assert_eq!(platform.jobs().await, 2);
}

#[tokio::test]
async fn crash_before_the_work_releases_the_key() {
    let platform = Platform::start().await;
    post(&platform.client, "/v1/jobs", "k", &a_job())
        .await
        .expect(201);
    // The state left by a process that dies before its commit.
    set(
        &platform,
        "update app.idempotency set state = 'running', status = null, headers = null, body = null,
             locked_until = now() + interval '1 hour'",
    )
    .await;
    let refused = post(&platform.client, "/v1/jobs", "k", &a_job()).await;
    refused.problem(409, "idempotency_in_progress");
    set(
        &platform,
        "update app.idempotency set locked_until = now() - interval '1 second'",
    )
    .await;
    let first = post(&platform.client, "/v1/jobs", "k", &a_job()).await;
    first.expect(201);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let again = post(&platform.client, "/v1/jobs", "k", &a_job()).await;
    is_replay(&again, &first);
}

#[tokio::test]
async fn stored_secret_response_is_repeated_and_unreadable_in_the_database() {
    let platform = Platform::start().await;
    let endpoint = json!({"url": "https://example.com/hooks"});
    let path = "/v1/webhook-endpoints";
    let first = post(&platform.client, path, "k", &endpoint).await;
    let secret = first.expect(201)["secret"].as_str().unwrap().to_owned();
    let again = post(&platform.client, path, "k", &endpoint).await;
    is_replay(&again, &first);
    let body: Vec<u8> = query_scalar("select body from app.idempotency")
        .fetch_one(&platform.pool)
        .await
        .unwrap();
    let shown = String::from_utf8_lossy(&body).into_owned();
    for part in [secret.as_str(), "whsec_", "example.com", "secret"] {
        assert!(!shown.contains(part), "{part}");
    }
    let list = platform.client.get(path).await.expect(200);
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn idempotency_keys_are_separate_per_caller() {
    let platform = Platform::start().await;
    let other = platform.tenant("other").await;
    let scopes = [Scope::JobsWrite];
    let clients = [
        platform.client.clone(),
        platform.client_of(&platform.acme, &scopes).await,
        platform.client_of(&other, &scopes).await,
    ];
    for client in clients {
        let response = post(&client, "/v1/jobs", "k", &a_job()).await;
        response.expect(201);
        assert!(!response.headers.contains_key("idempotent-replayed"));
    }
    assert_eq!(platform.jobs().await, 3);
}

#[tokio::test]
async fn repeated_batch_of_10_000_is_enqueued_once() {
    let platform = Platform::start().await;
    let batch = json!({"jobs": vec![a_job(); 10_000]});
    let first = post(&platform.client, "/v1/jobs/batch", "k", &batch).await;
    assert_eq!(first.expect(201)["inserted"], 10_000);
    let again = post(&platform.client, "/v1/jobs/batch", "k", &batch).await;
    is_replay(&again, &first);
    assert_eq!(platform.jobs().await, 10_000);
}

#[tokio::test]
async fn transient_errors_are_not_stored() {
    let platform = Platform::start().await;
    let client = &platform.client;
    let headers = [("idempotency-key", "k")];
    let press = async |path: &str| client.send(Method::POST, path, &headers, None).await;
    let job = client.post("/v1/jobs", &a_job()).await.expect(201);
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    press(&format!("{path}/retry"))
        .await
        .problem(409, "conflict");
    client.press(&format!("{path}/cancel")).await.expect(200);
    press(&format!("{path}/retry")).await.expect(200);
    // Validation errors are permanent and are stored.
    let bad = json!({"kind": "nope"});
    let first = post(client, "/v1/jobs", "bad", &bad).await;
    assert!(!first.problem(422, "invalid").is_empty());
    let again = post(client, "/v1/jobs", "bad", &bad).await;
    is_replay(&again, &first);
    let reader = platform.client_of(&platform.acme, &[Scope::JobsRead]).await;
    post(&reader, "/v1/jobs", "k", &a_job())
        .await
        .problem(403, "missing_scope");
    assert_eq!(rows(&platform, "done").await, 2);
    assert_eq!(rows(&platform, "running").await, 0);
    assert_eq!(rows(&platform, "committed").await, 0);
}

#[tokio::test]
async fn disconnected_caller_gets_the_response_later() {
    let platform = Platform::start().await;
    let path = "/v1/webhook-endpoints";
    let endpoint = json!({"url": "https://example.com/hooks"});
    // No endpoint can be created until this transaction ends.
    let mut held = platform.pool.begin().await.unwrap();
    query("lock table app.webhook_endpoints in share row exclusive mode")
        .execute(&mut *held)
        .await
        .unwrap();
    let client = platform.client.clone();
    let body = endpoint.clone();
    let gone = tokio::spawn(async move { post(&client, path, "k", &body).await });
    let waits = "select count(*) from pg_locks
        where not granted and relation = 'app.webhook_endpoints'::regclass
            and database = (select oid from pg_database where datname = current_database())";
    while query_scalar::<i64>(waits)
        .fetch_one(&platform.pool)
        .await
        .unwrap()
        == 0
    {
        tokio::task::yield_now().await;
    }
    gone.abort();
    post(&platform.client, path, "k", &endpoint)
        .await
        .problem(409, "idempotency_in_progress");
    held.rollback().await.unwrap();
    let response = loop {
        let response = post(&platform.client, path, "k", &endpoint).await;
        if response.status != 409 {
            break response;
        }
    };
    response.expect(201);
    assert_eq!(response.header("idempotent-replayed"), "true");
    let list = platform.client.get(path).await.expect(200);
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
}
