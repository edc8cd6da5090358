//! The whole path: HTTP, enqueue, PostgreSQL, claim, handler, outcome.

use std::time::Duration;

use harkara_tests::{Fixture, Receiver, Reply, until};
use serde_json::{Value, json};

const JOB_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn failing_endpoint_exhausts_its_attempts_with_growing_gaps() {
    let Fixture {
        platform, client, ..
    } = &Fixture::start().await;
    let receiver = Receiver::start(|_| Reply::status(500)).await;
    let (_worker, _) = platform.worker("http=4", 30, 5);
    let job = json!({
        "kind": "http.request", "max_attempts": 3,
        "backoff": {"base": "200ms", "factor": 4, "max": "10s", "jitter": "none"},
        "payload": {"url": receiver.url, "body": {"hello": "world"}},
    });
    let id = client.post("/v1/jobs", &job).await.text("id");
    let path = format!("/v1/jobs/{id}");
    let job = until("the job is dead", JOB_TIMEOUT, || async {
        let job = client.get(&path).await.ok();
        (job["state"] == "dead").then_some(job)
    })
    .await;
    assert_eq!(job["attempt"], 3);
    assert_eq!(job["last_error"]["code"], "http_500");
    let attempts = client.get(&format!("{path}/attempts")).await.ok();
    let attempts = attempts["data"].as_array().unwrap();
    let outcomes: Vec<&str> = attempts
        .iter()
        .map(|attempt| attempt["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["retry", "retry", "dead"]);
    assert_eq!(attempts[0]["number"], 1);
    assert!(
        attempts
            .iter()
            .all(|attempt| attempt["worker_id"].is_string())
    );

    // No run started before its backoff had passed, and the second gap is longer.
    let hits = receiver.hits();
    assert_eq!(hits.len(), 3);
    let (first, second) = (hits[1].at - hits[0].at, hits[2].at - hits[1].at);
    assert!(
        first >= Duration::from_millis(200),
        "the first gap was {first:?}"
    );
    assert!(
        second >= Duration::from_millis(800),
        "the second gap was {second:?}"
    );
    // Every attempt names the same job, so that the receiver can detect a repetition.
    assert!(
        hits.iter()
            .all(|hit| hit.headers["idempotency-key"] == id.as_str())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honored_without_using_an_attempt() {
    let Fixture {
        platform, client, ..
    } = &Fixture::start().await;
    let receiver = Receiver::start(|nth| match nth {
        0 => Reply {
            headers: vec![("retry-after", "2".to_owned())],
            ..Reply::status(429)
        },
        _ => Reply::status(204),
    })
    .await;
    let (_worker, _) = platform.worker("http=4", 30, 5);
    let job = json!({
        "kind": "http.request", "max_attempts": 1, "payload": {"url": receiver.url},
    });
    let id = client.post("/v1/jobs", &job).await.text("id");
    let path = format!("/v1/jobs/{id}");
    let job = until("the job has succeeded", JOB_TIMEOUT, || async {
        let job = client.get(&path).await.ok();
        (job["state"] == "succeeded").then_some(job)
    })
    .await;
    assert_eq!(job["attempt"], 1);
    assert_eq!(job["result"]["status"], 204);
    let hits = receiver.hits();
    assert_eq!(hits.len(), 2);
    let gap = hits[1].at - hits[0].at;
    assert!(
        gap >= Duration::from_secs(2),
        "the receiver requested 2 s, but the gap was {gap:?}"
    );
    let attempts = client.get(&format!("{path}/attempts")).await.ok();
    let outcomes: Vec<&Value> = attempts["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| &attempt["outcome"])
        .collect();
    assert_eq!(outcomes, ["rate_limited", "succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_is_delivered_signed_to_subscribed_endpoints() {
    let Fixture {
        database,
        platform,
        client,
        ..
    } = &Fixture::start().await;
    let receiver = Receiver::start(|nth| Reply::status(if nth == 0 { 302 } else { 200 })).await;
    let (_worker, _) = platform.worker("webhook=4", 30, 5);
    let endpoint = json!({
        "url": receiver.url, "event_types": ["invoice.*"], "headers": {"x-team": "billing"},
    });
    let endpoint = client.post("/v1/webhook-endpoints", &endpoint).await.ok();
    let other = json!({"url": receiver.url, "event_types": ["user.created"]});
    client.post("/v1/webhook-endpoints", &other).await.ok();

    let event = json!({"type": "invoice.paid", "data": {"amount": 12, "text": "für dich"}});
    let posted = client.post("/v1/events", &event).await;
    assert_eq!(posted.status, 202);
    let deliveries = posted.body["deliveries"].as_array().unwrap().clone();
    assert_eq!(
        deliveries.len(),
        1,
        "only one endpoint subscribes to invoices"
    );
    assert_eq!(deliveries[0]["endpoint_id"], endpoint["id"]);

    // A redirect is a failure and is not followed. The retry is made due instead of waiting for it.
    let path = format!("/v1/deliveries/{}", deliveries[0]["id"].as_str().unwrap());
    until("the first attempt is recorded", JOB_TIMEOUT, || async {
        let attempts = client.get(&format!("{path}/attempts")).await.ok();
        (attempts["data"][0]["status_code"] == 302).then_some(())
    })
    .await;
    until("the waiting retry is made due", JOB_TIMEOUT, || async {
        harkara_shared::database::query("update queue.parcels set run_at = now() where state = 's'")
            .execute(&database.pool())
            .await
            .is_ok_and(|done| done.rows_affected() == 1)
            .then_some(())
    })
    .await;
    let delivery = until("the delivery has succeeded", JOB_TIMEOUT, || async {
        let delivery = client.get(&path).await.ok();
        (delivery["state"] == "succeeded").then_some(delivery)
    })
    .await;
    assert_eq!(delivery["attempts"], 2);

    let hits = receiver.hits();
    assert_eq!(hits.len(), 2);
    let secret =
        harkara_shared::signature::WebhookSecret::parse(endpoint["secret"].as_str().unwrap())
            .unwrap();
    for hit in &hits {
        let header = |name: &str| hit.headers[name].to_str().unwrap().to_owned();
        assert_eq!(header("webhook-id"), posted.body["id"].as_str().unwrap());
        assert_eq!(header("content-type"), "application/json");
        assert_eq!(header("x-team"), "billing");
        let timestamp: i64 = header("webhook-timestamp").parse().unwrap();
        harkara_shared::signature::verify(
            &secret,
            &header("webhook-id"),
            timestamp,
            &header("webhook-signature"),
            &hit.body,
            timestamp,
            harkara_shared::signature::TOLERANCE,
        )
        .unwrap();
        let body: Value = serde_json::from_slice(&hit.body).unwrap();
        assert_eq!(body["type"], "invoice.paid");
        assert_eq!(body["data"], json!({"amount": 12, "text": "für dich"}));
        assert!(body["timestamp"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_address_is_refused_permanently_without_a_connection() {
    let Fixture {
        platform, client, ..
    } = &Fixture::start().await;
    let (_worker, _) = platform.worker("http=4", 30, 5);
    let job = json!({
        "kind": "http.request", "payload": {"url": "http://169.254.169.254/latest/meta-data"},
    });
    let id = client.post("/v1/jobs", &job).await.text("id");
    let job = until("the job is dead", JOB_TIMEOUT, || async {
        let job = client.get(&format!("/v1/jobs/{id}")).await.ok();
        (job["state"] == "dead").then_some(job)
    })
    .await;
    assert_eq!(job["attempt"], 1, "a refusal must not be retried");
    assert_eq!(job["last_error"]["code"], "egress_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_worker_puts_long_jobs_back_without_using_an_attempt() {
    let Fixture {
        platform, client, ..
    } = &Fixture::start().await;
    let receiver = Receiver::start(|nth| match nth {
        0 => Reply {
            after: Duration::from_secs(600),
            ..Reply::status(200)
        },
        _ => Reply::status(200),
    })
    .await;
    let job = json!({
        "kind": "http.request", "max_attempts": 1, "timeout": "1h",
        "payload": {"url": receiver.url},
    });
    let id = client.post("/v1/jobs", &job).await.text("id");
    let path = format!("/v1/jobs/{id}");
    let (mut worker, _) = platform.worker("http=4", 30, 1);
    until("the job has reached its receiver", JOB_TIMEOUT, || async {
        (!receiver.hits().is_empty()).then_some(())
    })
    .await;
    worker.signal("TERM");
    assert_eq!(
        worker.ended(Duration::from_secs(20)).await,
        Some(0),
        "{}",
        worker.output()
    );
    let job = client.get(&path).await.ok();
    assert_eq!(
        (&job["state"], &job["attempt"]),
        (&json!("ready"), &json!(0))
    );

    let (_worker, _) = platform.worker("http=4", 30, 1);
    let job = until("the job has succeeded", JOB_TIMEOUT, || async {
        let job = client.get(&path).await.ok();
        (job["state"] == "succeeded").then_some(job)
    })
    .await;
    assert_eq!(job["attempt"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_arrives_byte_for_byte_as_posted() {
    let Fixture {
        platform, client, ..
    } = &Fixture::start().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let (_worker, _) = platform.worker("webhook=4", 30, 5);
    let _ = client
        .post("/v1/webhook-endpoints", &json!({"url": receiver.url}))
        .await
        .ok();
    let data = r#"{"z": 1,"a":1.10, "e":1E2,"big":12345678901234567890123,"x":1e307}"#;
    let event = format!(r#"{{"type":"a.b","data":{data}}}"#);
    assert_eq!(client.post_text("/v1/events", event).await.status, 202);
    let hit = until("the delivery has arrived", JOB_TIMEOUT, || async {
        receiver.hits().pop()
    })
    .await;
    let body = String::from_utf8(hit.body.to_vec()).unwrap();
    assert!(body.contains(data), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn resumed_endpoint_receives_its_deliveries_at_once() {
    let Fixture {
        platform, client, ..
    } = &Fixture::start().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let (_worker, _) = platform.worker("webhook=4", 30, 5);
    let endpoint = json!({"url": receiver.url});
    let endpoint = client.post("/v1/webhook-endpoints", &endpoint).await;
    let endpoint = format!("/v1/webhook-endpoints/{}", endpoint.text("id"));
    let _ = client
        .patch(&endpoint, &json!({"status": "paused"}))
        .await
        .ok();
    let posted = client
        .post("/v1/events", &json!({"type": "a.b", "data": {}}))
        .await
        .ok();
    let job = posted["deliveries"][0]["job_id"].as_str().unwrap();
    let job = format!("/v1/jobs/{job}");
    until("the job is waiting", JOB_TIMEOUT, || async {
        let job = client.get(&job).await.ok();
        (job["last_error"]["code"] == "endpoint_paused" && job["state"] == "scheduled")
            .then_some(())
    })
    .await;
    assert!(receiver.hits().is_empty());
    let _ = client
        .patch(&endpoint, &json!({"status": "active"}))
        .await
        .ok();
    let job = until("the job has succeeded", JOB_TIMEOUT, || async {
        let job = client.get(&job).await.ok();
        (job["state"] == "succeeded").then_some(job)
    })
    .await;
    assert_eq!(job["attempt"], 1, "waiting must use no attempt");
    assert_eq!(receiver.hits().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn succeeded_delivery_is_not_repeated() {
    let Fixture {
        platform, client, ..
    } = &Fixture::start().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let (_worker, _) = platform.worker("webhook=4", 30, 5);
    let _ = client
        .post("/v1/webhook-endpoints", &json!({"url": receiver.url}))
        .await
        .ok();
    let posted = client
        .post("/v1/events", &json!({"type": "a.b", "data": {}}))
        .await
        .ok();
    let delivery = posted["deliveries"][0]["id"].as_str().unwrap();
    let path = format!("/v1/deliveries/{delivery}");
    until("the delivery has arrived", JOB_TIMEOUT, || async {
        let delivery = client.get(&path).await.ok();
        (delivery["state"] == "succeeded").then_some(())
    })
    .await;
    let again = json!({"kind": "webhook.deliver", "payload": {"delivery_id": delivery}});
    let job = client.post("/v1/jobs", &again).await.text("id");
    until("the second job has succeeded", JOB_TIMEOUT, || async {
        let job = client.get(&format!("/v1/jobs/{job}")).await.ok();
        (job["state"] == "succeeded").then_some(())
    })
    .await;
    assert_eq!(receiver.hits().len(), 1);
    let delivery = client.get(&path).await.ok();
    assert_eq!(
        (&delivery["state"], &delivery["attempts"]),
        (&json!("succeeded"), &json!(1))
    );
}
