//! Single jobs: enqueue, show, cancel, retry.

use chrono::{DateTime, TimeDelta, Utc};
use harkara_shared::clock;
use harkara_shared::database::query;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Platform;

/// A job of a kind that every tenant can enqueue.
pub(crate) fn a_job() -> Value {
    json!({"kind": "http.request", "payload": {"url": "http://127.0.0.1:9/hook"}})
}

/// The same job with one member added or changed.
pub(crate) fn a_job_with(name: &str, value: Value) -> Value {
    let mut job = a_job();
    job[name] = value;
    job
}

fn id(job: &Value) -> String {
    job["id"].as_str().expect("an id").to_owned()
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().expect("a time").parse().expect("RFC 3339")
}

#[tokio::test]
async fn job_is_enqueued_with_the_defaults_of_its_kind_and_shown() {
    let platform = Platform::start().await;
    let created = platform.client.post("/v1/jobs", &a_job()).await;
    let job = created.expect(201);
    let path = format!("/v1/jobs/{}", id(&job));
    assert_eq!(created.header("location"), path);
    let mut names: Vec<&str> = job
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    let mut contract = [
        "id",
        "tenant_id",
        "kind",
        "queue",
        "state",
        "priority",
        "attempt",
        "max_attempts",
        "run_at",
        "expires_at",
        "created_at",
        "started_at",
        "finished_at",
        "unique_key",
        "ordering_key",
        "tags",
        "payload",
        "result",
        "progress",
        "last_error",
        "trace_id",
        "request_id",
    ];
    contract.sort_unstable();
    assert_eq!(names, contract);
    assert_eq!(job["tenant_id"], platform.acme.id.to_string());
    assert_eq!(job["kind"], "http.request");
    assert_eq!(job["queue"], "http");
    assert_eq!(job["state"], "ready");
    assert_eq!(job["priority"], 5);
    assert_eq!(
        (&job["attempt"], &job["max_attempts"]),
        (&json!(0), &json!(10))
    );
    assert_eq!(job["payload"], a_job()["payload"]);
    assert_eq!(job["tags"], json!([]));
    assert_eq!(job["request_id"], created.header("x-request-id"));
    for absent in [
        "expires_at",
        "started_at",
        "finished_at",
        "unique_key",
        "ordering_key",
        "result",
        "last_error",
        "trace_id",
    ] {
        assert_eq!(job[absent], Value::Null, "{absent}");
    }
    assert_eq!(platform.client.get(&path).await.expect(200), job);
    let attempts = platform
        .client
        .get(&format!("{path}/attempts"))
        .await
        .expect(200);
    assert_eq!(attempts, json!({"data": []}));
    assert_eq!(platform.jobs().await, 1);
}

#[tokio::test]
async fn every_job_member_is_stored() {
    let platform = Platform::start().await;
    let run_at = clock::now() + TimeDelta::days(365);
    let request = json!({
        "kind": "http.request", "payload": {"url": "https://example.com", "body": {"ü": [1.50, null]}},
        "queue": "slow.lane", "priority": 0, "run_at": run_at, "unique_key": "k", "unique_for": "24h",
        "max_attempts": 3, "timeout": "90s", "tags": ["a", "ü"], "ordering_key": "ö/1",
        "limits": [{"key": "crm", "cost": 3}, {"key": "ü"}],
        "backoff": {"base": "1s", "factor": 2, "max": "1h", "jitter": "full"}
    });
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("traceparent", trace),
        ("x-request-id", "order/42"),
    ];
    let response = platform
        .client
        .send(
            Method::POST,
            "/v1/jobs",
            &headers,
            Some(request.to_string()),
        )
        .await;
    let job = response.expect(201);
    assert_eq!(response.header("x-request-id"), "order/42");
    assert_eq!(job["state"], "scheduled");
    for (name, value) in [
        ("queue", json!("slow.lane")),
        ("priority", json!(0)),
        ("unique_key", json!("k")),
        ("ordering_key", json!("ö/1")),
        ("max_attempts", json!(3)),
        ("tags", json!(["a", "ü"])),
        ("payload", request["payload"].clone()),
        ("request_id", json!("order/42")),
        ("trace_id", json!("4bf92f3577b34da6a3ce929d0e0e4736")),
    ] {
        assert_eq!(job[name], value, "{name}");
    }
    let late = time(&job["run_at"]) - run_at;
    assert!(late.abs() < TimeDelta::milliseconds(1), "{late}");
    let lanes = platform.client.get("/v1/queues/slow.lane/lanes").await;
    let lane = &lanes.expect(200)["data"][0];
    assert_eq!(
        (&lane["key"], &lane["ordered"]),
        (&json!("ö/1"), &json!(true))
    );
    assert_eq!(lane["limits"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn delay_counts_from_now_and_a_recent_past_means_now() {
    let platform = Platform::start().await;
    let before = clock::now();
    let job = platform
        .client
        .post("/v1/jobs", &a_job_with("delay", json!("1h30m")))
        .await;
    let job = job.expect(201);
    let wait = time(&job["run_at"]) - before;
    assert!(
        (TimeDelta::minutes(90)..TimeDelta::minutes(91)).contains(&wait),
        "{wait}"
    );
    assert_eq!(job["state"], "scheduled");

    for (name, value) in [
        ("run_at", json!(before - TimeDelta::hours(23))),
        ("delay", json!("0s")),
    ] {
        let job = platform
            .client
            .post("/v1/jobs", &a_job_with(name, value))
            .await
            .expect(201);
        assert_eq!(job["state"], "ready", "{name}");
        assert!(
            time(&job["run_at"]) > before - TimeDelta::minutes(1),
            "{name}"
        );
    }
}

#[tokio::test]
async fn unique_key_returns_the_job_that_holds_it() {
    let platform = Platform::start().await;
    let first = platform
        .client
        .post("/v1/jobs", &a_job_with("unique_key", json!("order-42")))
        .await;
    let again = platform
        .client
        .post("/v1/jobs", &a_job_with("unique_key", json!("order-42")))
        .await;
    assert_eq!(id(&again.expect(200)), id(&first.expect(201)));
    assert_eq!(again.header("location"), first.header("location"));
    let other = platform
        .client
        .post("/v1/jobs", &a_job_with("unique_key", json!("order-43")))
        .await;
    assert_ne!(id(&other.expect(201)), id(&first.json()));
    assert_eq!(platform.jobs().await, 2);

    let path = format!("/v1/jobs/{}/cancel", id(&first.json()));
    platform.client.post_text(&path, "", "").await.expect(200);
    let recreated = platform
        .client
        .post("/v1/jobs", &a_job_with("unique_key", json!("order-42")))
        .await;
    assert_ne!(id(&recreated.expect(201)), id(&first.json()));
}

#[tokio::test]
async fn unique_key_that_outlives_its_job_is_a_conflict() {
    let platform = Platform::start().await;
    let mut job = a_job_with("unique_key", json!("k"));
    job["unique_for"] = json!("366d");
    platform.client.post("/v1/jobs", &job).await.expect(201);
    query("delete from queue.parcels")
        .execute(&platform.pool)
        .await
        .unwrap();
    platform
        .client
        .post("/v1/jobs", &job)
        .await
        .problem(409, "conflict");
}

#[tokio::test]
async fn concurrent_requests_with_one_unique_key_create_one_job() {
    let platform = Platform::start().await;
    let tasks: Vec<_> = (0..40)
        .map(|_| {
            let client = platform.client.clone();
            let job = a_job_with("unique_key", json!("once"));
            tokio::spawn(async move { client.post("/v1/jobs", &job).await })
        })
        .collect();
    let mut created = 0;
    let mut ids = Vec::new();
    for task in tasks {
        let response = task.await.unwrap();
        assert!([200, 201].contains(&response.status), "{}", response.text);
        created += u32::from(response.status == 201);
        ids.push(id(&response.json()));
    }
    ids.dedup();
    assert_eq!((created, ids.len(), platform.jobs().await), (1, 1, 1));
}

#[tokio::test]
async fn job_is_cancelled_and_retried() {
    let platform = Platform::start().await;
    let job = platform.client.post("/v1/jobs", &a_job()).await.expect(201);
    let act = async |verb: &str| {
        platform
            .client
            .post_text(&format!("/v1/jobs/{}/{verb}", id(&job)), "", "")
            .await
    };
    act("retry").await.problem(409, "conflict");
    let cancelled = act("cancel").await.expect(200);
    assert_eq!(
        (&cancelled["state"], &cancelled["id"]),
        (&json!("cancelled"), &job["id"])
    );
    assert!(cancelled["finished_at"].is_string());
    let refused = act("cancel").await;
    refused.problem(409, "conflict");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("job is cancelled"), "{detail}");
    let retried = act("retry").await.expect(200);
    assert_eq!(
        (&retried["state"], &retried["finished_at"]),
        (&json!("ready"), &Value::Null)
    );
}

#[tokio::test]
async fn retry_names_the_job_that_holds_the_unique_key() {
    let platform = Platform::start().await;
    let request = a_job_with("unique_key", json!("k"));
    let first = platform.client.post("/v1/jobs", &request).await.expect(201);
    let path = format!("/v1/jobs/{}", id(&first));
    platform
        .client
        .post_text(&format!("{path}/cancel"), "", "")
        .await
        .expect(200);
    let second = platform.client.post("/v1/jobs", &request).await.expect(201);
    let refused = platform
        .client
        .post_text(&format!("{path}/retry"), "", "")
        .await;
    refused.problem(409, "conflict");
    assert!(refused.text.contains(&id(&second)), "{}", refused.text);
}

#[tokio::test]
async fn unknown_job_is_not_found() {
    let platform = Platform::start().await;
    for id in [
        "job_0000000000500",
        "job_0000000000501",
        "job_fzzzzzzzzzzzz",
        "job_x",
        "ten_x",
        "1",
        "%ff",
    ] {
        let path = format!("/v1/jobs/{id}");
        platform.client.get(&path).await.problem(404, "not_found");
        platform
            .client
            .get(&format!("{path}/attempts"))
            .await
            .problem(404, "not_found");
        for verb in ["cancel", "retry"] {
            let response = platform
                .client
                .post_text(&format!("{path}/{verb}"), "", "")
                .await;
            response.problem(404, "not_found");
        }
    }
}

#[tokio::test]
async fn only_the_platform_enqueues_maintenance_jobs() {
    let platform = Platform::start().await;
    let job = json!({"kind": "maintenance.retention", "payload": {}});
    let refused = platform.client.post("/v1/jobs", &job).await;
    assert_eq!(
        refused.problem(422, "invalid"),
        [("/kind".to_owned(), "unknown_kind".to_owned())]
    );
    assert!(!refused.text.contains("maintenance"), "{}", refused.text);
    let own = harkara_accounts::ensure_platform(&platform.pool)
        .await
        .unwrap();
    use harkara_accounts::Scope;
    // Platform-only kinds require the scope as well.
    let weak = platform.client_of(&own, &[Scope::JobsWrite]).await;
    weak.post("/v1/jobs", &job).await.problem(422, "invalid");
    let client = platform
        .client_of(&own, &[Scope::JobsWrite, Scope::PlatformAdmin])
        .await;
    client.post("/v1/jobs", &job).await.expect(201);
}
