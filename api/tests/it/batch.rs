//! Batches: many jobs in one request.

use serde_json::{Value, json};

use crate::jobs::{a_job, a_job_with};
use crate::support::Platform;

const NDJSON: &str = "application/x-ndjson";

fn many(count: usize) -> Vec<Value> {
    (0..count)
        .map(|index| a_job_with("tags", json!([format!("n{index}")])))
        .collect()
}

fn lines(jobs: &[Value]) -> String {
    jobs.iter().map(|job| format!("{job}\n")).collect()
}

#[tokio::test]
async fn batch_is_enqueued_in_order_as_json_and_as_lines() {
    let platform = Platform::start().await;
    let jobs = many(3);
    let as_json = platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await;
    let as_lines = platform
        .client
        .post_text("/v1/jobs/batch", NDJSON, lines(&jobs))
        .await;
    for response in [as_json, as_lines] {
        let response = response.expect(201);
        assert_eq!(
            (&response["inserted"], &response["existing"]),
            (&json!(3), &json!(0))
        );
        let ids = response["ids"].as_array().unwrap();
        assert_eq!(ids.len(), 3);
        for (index, id) in ids.iter().enumerate() {
            let path = format!("/v1/jobs/{}", id.as_str().unwrap());
            let job = platform.client.get(&path).await.expect(200);
            assert_eq!(job["tags"], json!([format!("n{index}")]));
        }
    }
    assert_eq!(platform.jobs().await, 6);
}

#[tokio::test]
async fn jobs_with_a_taken_key_return_its_holder() {
    let platform = Platform::start().await;
    let keyed = |key: &str| a_job_with("unique_key", json!(key));
    let holder = platform
        .client
        .post("/v1/jobs", &keyed("a"))
        .await
        .expect(201);
    let batch = json!({"jobs": [keyed("a"), keyed("b"), keyed("b"), a_job()]});
    let response = platform
        .client
        .post("/v1/jobs/batch", &batch)
        .await
        .expect(201);
    assert_eq!(
        (&response["inserted"], &response["existing"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(response["ids"][0], holder["id"]);
    assert_eq!(response["ids"][1], response["ids"][2]);
    assert_eq!(platform.jobs().await, 3);
}

#[tokio::test]
async fn one_invalid_job_among_10_000_rejects_the_batch() {
    let platform = Platform::start().await;
    let mut jobs = many(10_000);
    jobs[7_777]["priority"] = json!(10);
    let expected = [("/jobs/7777/priority".to_owned(), "out_of_range".to_owned())];
    let response = platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await;
    assert_eq!(response.problem(422, "invalid"), expected);
    let response = platform
        .client
        .post_text("/v1/jobs/batch", NDJSON, lines(&jobs))
        .await;
    assert_eq!(response.problem(422, "invalid"), expected);
    assert_eq!(platform.jobs().await, 0);
}

#[tokio::test]
async fn batch_accepts_10_000_jobs_and_refuses_one_more() {
    let platform = Platform::start().await;
    let mut jobs = many(10_000);
    let response = platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await
        .expect(201);
    assert_eq!(response["inserted"], 10_000);
    assert_eq!(platform.jobs().await, 10_000);

    jobs.push(a_job());
    let expected = [("/jobs".to_owned(), "too_many".to_owned())];
    let response = platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await;
    assert_eq!(response.problem(422, "invalid"), expected);
    let response = platform
        .client
        .post_text("/v1/jobs/batch", NDJSON, lines(&jobs))
        .await;
    assert_eq!(response.problem(422, "invalid"), expected);
    assert_eq!(platform.jobs().await, 10_000);
}

#[tokio::test]
async fn batch_reports_at_most_100_field_errors() {
    let platform = Platform::start().await;
    let jobs: Vec<Value> = (0..300)
        .map(|_| a_job_with("priority", json!(10)))
        .collect();
    let response = platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await;
    assert_eq!(response.problem(422, "invalid").len(), 100);
    let response = platform
        .client
        .post_text("/v1/jobs/batch", NDJSON, lines(&jobs))
        .await;
    assert_eq!(response.problem(422, "invalid").len(), 100);
}

#[tokio::test]
async fn batch_envelope_is_validated() {
    let platform = Platform::start().await;
    for (body, expected) in [
        (json!({}), vec![("/jobs", "missing")]),
        (json!({"jobs": []}), vec![("/jobs", "empty")]),
        (json!({"jobs": {}}), vec![("/jobs", "invalid")]),
        (json!({"jobs": null}), vec![("/jobs", "invalid")]),
        (
            json!({"jobs": [a_job()], "job": 1}),
            vec![("/job", "unknown_field")],
        ),
        (json!({"jobs": [7]}), vec![("/jobs/0", "invalid")]),
        (json!([a_job()]), vec![("", "invalid")]),
    ] {
        let response = platform.client.post("/v1/jobs/batch", &body).await;
        let expected: Vec<(String, String)> = expected
            .into_iter()
            .map(|(pointer, code)| (pointer.to_owned(), code.to_owned()))
            .collect();
        assert_eq!(response.problem(422, "invalid"), expected, "{body}");
    }
    let nothing = platform
        .client
        .post_text("/v1/jobs/batch", NDJSON, "\n \r\n")
        .await;
    assert_eq!(
        nothing.problem(422, "invalid"),
        [("/jobs".to_owned(), "empty".to_owned())]
    );
    assert_eq!(platform.jobs().await, 0);
}

#[tokio::test]
async fn batch_lines_accept_crlf_and_a_missing_final_newline() {
    let platform = Platform::start().await;
    let text = format!("{}\r\n\r\n{}", a_job(), a_job());
    let response = platform
        .client
        .post_text("/v1/jobs/batch", NDJSON, text)
        .await
        .expect(201);
    assert_eq!(response["inserted"], 2);
}
