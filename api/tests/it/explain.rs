//! Explanations of why a job does not run, and lists of workers, over HTTP.

use harkara_accounts::Scope;
use harkara_shared::database::query;
use harkara_shared::id::{JobId, WorkerId};
use serde_json::{Value, json};

use crate::jobs::{a_job, a_job_with};
use crate::support::Platform;

async fn explained(platform: &Platform, job: &Value) -> Value {
    let path = format!("/v1/jobs/{}/explain", job["id"].as_str().unwrap());
    platform.client.get(&path).await.expect(200)
}

/// A live worker that serves these queues.
async fn a_worker(platform: &Platform, host: &str, queues: Value) -> WorkerId {
    let id = WorkerId::new();
    query(
        "insert into queue.workers (id, host, pid, version, queues) values ($1, $2, 1, '0.1', $3)",
    )
    .bind(id)
    .bind(host)
    .bind(queues)
    .execute(&platform.pool)
    .await
    .unwrap();
    query(
        "insert into queue.leases (worker_id, expires_at) values ($1, now() + interval '1 hour')",
    )
    .bind(id)
    .execute(&platform.pool)
    .await
    .unwrap();
    id
}

fn codes(explanation: &Value) -> Vec<&str> {
    let reasons = explanation["reasons"].as_array().unwrap();
    reasons
        .iter()
        .map(|reason| reason["code"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn job_is_explained_with_every_reason_that_applies() {
    let platform = Platform::start().await;
    let first = platform.client.post("/v1/jobs", &a_job()).await.expect(201);
    let second = platform.client.post("/v1/jobs", &a_job()).await.expect(201);
    let alone = explained(&platform, &first).await;
    assert_eq!(alone["state"], "ready");
    assert_eq!(alone["runnable"], false);
    assert_eq!(codes(&alone), ["no_worker"]);
    assert!(alone["reasons"][0].get("since").is_none());
    a_worker(&platform, "one", json!({"http": 8})).await;
    let explanation = explained(&platform, &second).await;
    assert_eq!(
        explanation,
        json!({"state": "ready", "runnable": true, "reasons": [{
            "code": "behind", "detail": "1 job of its lane goes first", "ahead": 1,
            "since": second["run_at"],
        }]})
    );
    let operator = platform
        .client_of(
            &harkara_accounts::find_tenant(&platform.pool, "platform")
                .await
                .unwrap()
                .unwrap(),
            &[Scope::QueuesManage, Scope::PlatformAdmin],
        )
        .await;
    operator.press("/v1/queues/http/pause").await.expect(200);
    let later = a_job_with("delay", json!("1h"));
    let later = platform.client.post("/v1/jobs", &later).await.expect(201);
    let explanation = explained(&platform, &later).await;
    assert_eq!(explanation["state"], "scheduled");
    assert_eq!(codes(&explanation), ["queue_paused", "scheduled"]);
    assert_eq!(explanation["reasons"][1]["until"], later["run_at"]);
    assert!(explanation["reasons"][0]["since"].is_string());
    let cancel = format!("/v1/jobs/{}/cancel", later["id"].as_str().unwrap());
    platform.client.press(&cancel).await.expect(200);
    let ended = explained(&platform, &later).await;
    assert_eq!(
        (&ended["state"], codes(&ended)),
        (&json!("cancelled"), vec!["finished"])
    );
}

#[tokio::test]
async fn missing_or_foreign_job_is_not_explained() {
    let platform = Platform::start().await;
    let job = platform.client.post("/v1/jobs", &a_job()).await.expect(201);
    let path = format!("/v1/jobs/{}/explain", job["id"].as_str().unwrap());
    let other = platform.tenant("other").await;
    let stranger = platform.client_of(&other, &[Scope::JobsRead]).await;
    stranger.get(&path).await.problem(404, "not_found");
    let none = format!("/v1/jobs/{}/explain", JobId::from_i64(1 << 40));
    platform.client.get(&none).await.problem(404, "not_found");
}

#[tokio::test]
async fn workers_are_listed_in_pages_and_hosts_shown_only_to_the_platform() {
    let platform = Platform::start().await;
    assert_eq!(
        platform.client.get("/v1/workers").await.expect(200),
        json!({"data": [], "next_cursor": null})
    );
    let one = a_worker(&platform, "one", json!({"http": 8, "secret": 1})).await;
    let hidden = a_worker(&platform, "hidden", json!({"secret": 1})).await;
    let two = a_worker(&platform, "two", json!({"http": 4})).await;
    let page = platform.client.get("/v1/workers?limit=1").await.expect(200);
    let worker = &page["data"][0];
    assert_eq!(worker["id"], one.to_string());
    assert_eq!(worker["host"], Value::Null);
    assert_eq!(worker["queues"], json!({"http": 8}));
    assert_eq!(
        (&worker["version"], &worker["running"]),
        (&json!("0.1"), &json!(0))
    );
    assert!(worker["started_at"].is_string() && worker["last_seen_at"].is_string());
    let next = format!(
        "/v1/workers?limit=1&cursor={}",
        page["next_cursor"].as_str().unwrap()
    );
    let page = platform.client.get(&next).await.expect(200);
    assert_eq!(page["data"][0]["id"], two.to_string());
    assert_eq!(page["next_cursor"], Value::Null);
    let owner = harkara_accounts::find_tenant(&platform.pool, "platform")
        .await
        .unwrap()
        .unwrap();
    let operator = platform.client_of(&owner, &[Scope::JobsRead]).await;
    let all = operator.get("/v1/workers").await.expect(200);
    let hosts: Vec<&str> = all["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|worker| worker["host"].as_str().unwrap())
        .collect();
    assert_eq!(hosts, ["one", "hidden", "two"]);
    assert_eq!(all["data"][1]["id"], hidden.to_string());
}
