//! Bulk actions on all matching jobs, and rescheduling of one job, over HTTP.

use chrono::{DateTime, TimeDelta, Utc};
use harkara_accounts::Scope;
use harkara_shared::clock;
use harkara_shared::database::query;
use serde_json::{Value, json};

use crate::jobs::{a_job, a_job_with};
use crate::support::Platform;

fn id(job: &Value) -> String {
    job["id"].as_str().expect("an id").to_owned()
}

/// Enqueues `count` jobs with this tag, and cancels them if requested.
async fn jobs(platform: &Platform, tag: &str, count: usize, cancel: bool) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let job = a_job_with("tags", json!([tag]));
        let job = platform.client.post("/v1/jobs", &job).await.expect(201);
        if cancel {
            let path = format!("/v1/jobs/{}/cancel", id(&job));
            platform.client.post_text(&path, "", "").await.expect(200);
        }
        ids.push(id(&job));
    }
    ids
}

#[tokio::test]
async fn dry_run_counts_matching_jobs_and_changes_nothing() {
    let platform = Platform::start().await;
    jobs(&platform, "red", 3, true).await;
    jobs(&platform, "blue", 2, true).await;
    jobs(&platform, "red", 1, false).await;
    let before = platform.jobs().await;
    for (filter, matched) in [
        (json!({}), 5),
        (json!({"state": "cancelled"}), 5),
        (json!({"tag": "red"}), 3),
        (json!({"tag": "red", "kind": "http.request"}), 3),
        (json!({"tag": "red", "state": "dead"}), 0),
        (json!({"kind": "no.such"}), 0),
        (json!({"created_before": "2020-01-01T00:00:00Z"}), 0),
        (json!({"created_after": "2020-01-01T00:00:00Z"}), 5),
    ] {
        let request = json!({"action": "retry", "filter": filter, "dry_run": true});
        let created = platform.client.post("/v1/jobs/bulk", &request).await;
        assert_eq!(
            created.expect(202),
            json!({"job_id": null, "matched": matched}),
            "{filter}"
        );
    }
    assert_eq!(platform.jobs().await, before);

    let request = json!({"action": "retry", "filter": {"tag": "red"}, "rate_per_second": 7});
    let response = platform.client.post("/v1/jobs/bulk", &request).await;
    let created = response.expect(202);
    assert_eq!(created["matched"], 3);
    let path = format!("/v1/jobs/{}", created["job_id"].as_str().unwrap());
    assert_eq!(response.header("location"), path);
    let job = platform.client.get(&path).await.expect(200);
    assert_eq!(
        (&job["kind"], &job["queue"], &job["state"]),
        (
            &json!("retry.redrive"),
            &json!("maintenance"),
            &json!("ready")
        )
    );
    assert_eq!(
        job["payload"],
        json!({"action": "retry", "filter": {"tag": "red"}, "rate_per_second": 7})
    );
    let progress = json!({"matched": 3, "done": 0, "undone": {}, "cursor": null});
    assert_eq!(job["progress"], progress);
    // Also in lists; other jobs have none.
    let page = platform.client.get("/v1/jobs?limit=2").await.expect(200);
    assert_eq!(page["data"][0]["progress"], progress);
    assert_eq!(page["data"][1]["progress"], Value::Null);
}

#[tokio::test]
async fn bulk_action_affects_no_job_of_another_tenant() {
    let platform = Platform::start().await;
    jobs(&platform, "red", 2, true).await;
    let other = platform.tenant("other").await;
    let stranger = platform.client_of(&other, Scope::ALL).await;
    for (action, filter) in [
        ("retry", json!({})),
        ("delete", json!({"tag": "red"})),
        ("cancel", json!({"queue": "http"})),
    ] {
        let request = json!({"action": action, "filter": filter});
        let created = stranger.post("/v1/jobs/bulk", &request).await.expect(202);
        assert_eq!(created["matched"], 0, "{action}");
    }
}

#[tokio::test]
async fn every_error_in_a_bulk_action_is_reported_by_pointer() {
    let platform = Platform::start().await;
    let cases = [
        (
            json!({}),
            vec![("/action", "missing"), ("/filter", "missing")],
        ),
        (
            json!({"action": "delete", "filter": {"state": null, "kind": "x"}}),
            vec![("/filter/state", "invalid")],
        ),
        (
            json!({"action": "delete", "filter": null}),
            vec![("/filter", "missing")],
        ),
        (
            json!({"action": "shake", "filter": {}}),
            vec![("/action", "invalid")],
        ),
        (
            json!({"action": "retry", "rate_per_second": 0, "filter": {"stat": "dead"}}),
            vec![
                ("/filter/stat", "unknown_field"),
                ("/rate_per_second", "out_of_range"),
            ],
        ),
        (
            json!({"action": "retry", "filter": {}, "rate_per_second": -5}),
            vec![("/rate_per_second", "out_of_range")],
        ),
        (
            json!({"action": "retry", "filter": {}, "rate_per_second": 100_001}),
            vec![("/rate_per_second", "out_of_range")],
        ),
        (
            json!({"action": "retry", "filter": {"state": "ded", "created_after": "yesterday"}}),
            vec![
                ("/filter/state", "invalid"),
                ("/filter/created_after", "invalid"),
            ],
        ),
        (
            json!({"action": "cancel", "filter": {"state": "dead"}}),
            vec![("/filter/state", "not_for_action")],
        ),
        (
            json!({"action": "cancel", "filter": []}),
            vec![("/filter", "invalid")],
        ),
        (
            json!({"action": "cancel", "filter": {}, "dryrun": true}),
            vec![("/dryrun", "unknown_field")],
        ),
    ];
    for (body, expected) in cases {
        let response = platform.client.post("/v1/jobs/bulk", &body).await;
        let mut faults = response.problem(422, "invalid");
        faults.sort();
        let mut expected: Vec<(String, String)> = expected
            .into_iter()
            .map(|(pointer, code)| (pointer.to_owned(), code.to_owned()))
            .collect();
        expected.sort();
        // The most specific error of each member is compared.
        assert_eq!(faults, expected, "{body}");
    }
    // The same rules apply to the kind's payload.
    for (payload, pointer) in [
        (
            json!({"action": "retry", "rate_per_second": 0}),
            "/payload/rate_per_second",
        ),
        (
            json!({"action": "retry", "filter": {"stat": 1}}),
            "/payload/filter/stat",
        ),
        (json!({"filter": {}}), "/payload/action"),
    ] {
        let job = json!({"kind": "retry.redrive", "payload": payload});
        let faults = platform
            .client
            .post("/v1/jobs", &job)
            .await
            .problem(422, "invalid");
        assert_eq!(faults[0].0, pointer);
    }
    let job = json!({"kind": "retry.redrive", "payload": {"action": "retry"}});
    platform.client.post("/v1/jobs", &job).await.expect(201);
}

#[tokio::test]
async fn waiting_job_is_rescheduled() {
    let platform = Platform::start().await;
    let job = platform.client.post("/v1/jobs", &a_job()).await.expect(201);
    let path = format!("/v1/jobs/{}/reschedule", id(&job));
    let to = |time: DateTime<Utc>| json!({"run_at": time});
    let later = clock::now() + TimeDelta::days(3);
    let moved = platform.client.post(&path, &to(later)).await.expect(200);
    assert_eq!(moved["state"], "scheduled");
    let due: DateTime<Utc> = moved["run_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(due.timestamp_micros(), later.timestamp_micros());
    let past = clock::now() - TimeDelta::hours(23);
    let moved = platform.client.post(&path, &to(past)).await.expect(200);
    assert_eq!(moved["state"], "ready");
    let due: DateTime<Utc> = moved["run_at"].as_str().unwrap().parse().unwrap();
    assert!(
        due > past + TimeDelta::hours(22),
        "a past time must mean now"
    );

    for (body, code) in [
        (to(clock::now() - TimeDelta::hours(25)), "out_of_range"),
        (to(clock::now() + TimeDelta::days(3700)), "out_of_range"),
        (json!({}), "missing"),
    ] {
        let faults = platform
            .client
            .post(&path, &body)
            .await
            .problem(422, "invalid");
        assert_eq!(faults, [("/run_at".to_owned(), code.to_owned())]);
    }
    query("update queue.parcels set state = 'r', token = 1")
        .execute(&platform.pool)
        .await
        .unwrap();
    let refused = platform.client.post(&path, &to(later)).await;
    refused.problem(409, "conflict");
    assert!(
        refused
            .text
            .contains("only a job that is scheduled or ready")
    );
}
