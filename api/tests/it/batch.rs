//! Many jobs in one request.

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
async fn a_batch_is_enqueued_in_order_in_either_form() {
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
    for answer in [as_json, as_lines] {
        let answer = answer.expect(201);
        assert_eq!(
            (&answer["inserted"], &answer["existing"]),
            (&json!(3), &json!(0))
        );
        let ids = answer["ids"].as_array().unwrap();
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
async fn jobs_whose_key_is_taken_are_answered_with_its_holder() {
    let platform = Platform::start().await;
    let keyed = |key: &str| a_job_with("unique_key", json!(key));
    let holder = platform
        .client
        .post("/v1/jobs", &keyed("a"))
        .await
        .expect(201);
    let batch = json!({"jobs": [keyed("a"), keyed("b"), keyed("b"), a_job()]});
    let answer = platform
        .client
        .post("/v1/jobs/batch", &batch)
        .await
        .expect(201);
    assert_eq!(
        (&answer["inserted"], &answer["existing"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(answer["ids"][0], holder["id"]);
    assert_eq!(answer["ids"][1], answer["ids"][2]);
    assert_eq!(platform.jobs().await, 3);
}

#[tokio::test]
async fn one_bad_job_among_ten_thousand_stops_them_all() {
    let platform = Platform::start().await;
    let mut jobs = many(10_000);
    jobs[7_777]["priority"] = json!(10);
    let expected = [("/jobs/7777/priority".to_owned(), "out_of_range".to_owned())];
    let answer = platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await;
    assert_eq!(answer.problem(422, "invalid"), expected);
    let answer = platform
        .client
        .post_text("/v1/jobs/batch", NDJSON, lines(&jobs))
        .await;
    assert_eq!(answer.problem(422, "invalid"), expected);
    assert_eq!(platform.jobs().await, 0);
}

#[tokio::test]
async fn ten_thousand_jobs_are_enqueued_and_one_more_is_too_many() {
    let platform = Platform::start().await;
    let mut jobs = many(10_000);
    let answer = platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await
        .expect(201);
    assert_eq!(answer["inserted"], 10_000);
    assert_eq!(platform.jobs().await, 10_000);

    jobs.push(a_job());
    let expected = [("/jobs".to_owned(), "too_many".to_owned())];
    let answer = platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await;
    assert_eq!(answer.problem(422, "invalid"), expected);
    let answer = platform
        .client
        .post_text("/v1/jobs/batch", NDJSON, lines(&jobs))
        .await;
    assert_eq!(answer.problem(422, "invalid"), expected);
    assert_eq!(platform.jobs().await, 10_000);
}

#[tokio::test]
async fn at_most_a_hundred_faults_are_told() {
    let platform = Platform::start().await;
    let jobs: Vec<Value> = (0..300)
        .map(|_| a_job_with("priority", json!(10)))
        .collect();
    let answer = platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await;
    assert_eq!(answer.problem(422, "invalid").len(), 100);
    let answer = platform
        .client
        .post_text("/v1/jobs/batch", NDJSON, lines(&jobs))
        .await;
    assert_eq!(answer.problem(422, "invalid").len(), 100);
}

#[tokio::test]
async fn the_object_around_the_jobs_is_checked() {
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
        let answer = platform.client.post("/v1/jobs/batch", &body).await;
        let expected: Vec<(String, String)> = expected
            .into_iter()
            .map(|(pointer, code)| (pointer.to_owned(), code.to_owned()))
            .collect();
        assert_eq!(answer.problem(422, "invalid"), expected, "{body}");
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
async fn lines_may_end_as_in_windows_and_the_last_without_an_end() {
    let platform = Platform::start().await;
    let text = format!("{}\r\n\r\n{}", a_job(), a_job());
    let answer = platform
        .client
        .post_text("/v1/jobs/batch", NDJSON, text)
        .await
        .expect(201);
    assert_eq!(answer["inserted"], 2);
}
