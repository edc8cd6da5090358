//! `maintenance.retention`: old data is deleted, and nothing else.

use std::time::Duration;

use harkara_kit::{Kit, Receiver, Reply};
use harkara_platform::kinds::http_request::HttpRequest;
use harkara_platform::kinds::maintenance_retention::Retention;
use harkara_queue::job::Trace;
use harkara_queue::read;
use harkara_shared::database::query_scalar;
use harkara_shared::id::JobId;
use harkara_webhooks::{self as webhooks, NewEndpoint, NewEvent};
use serde_json::value::RawValue;
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn retain(kit: &Kit) -> Value {
    kit.perform::<Retention>(json!({}))
        .await
        .done()
        .result
        .unwrap()
}

async fn is_there(kit: &Kit, id: JobId) -> bool {
    let mut tx = kit.tx().await;
    read::job(&mut tx, id).await.unwrap().is_some()
}

/// Enqueues a job whose receiver responds with this status.
async fn call(kit: &Kit, status: u16) -> JobId {
    let receiver = Receiver::start(move |_| Reply::status(status)).await;
    kit.enqueue::<HttpRequest>(json!({"url": receiver.url}))
        .await
}

#[tokio::test]
async fn succeeded_jobs_are_deleted_after_a_week_and_dead_jobs_after_a_month() {
    let kit = Kit::start().await;
    let succeeding = call(&kit, 200).await;
    let dead = call(&kit, 404).await;
    let later = kit
        .enqueue::<HttpRequest>(json!({"url": "http://127.0.0.1:1/"}))
        .delay(DAY * 400)
        .await;
    let drained = kit.drain("http").await;
    assert_eq!(
        (drained.succeeded, drained.dead),
        (vec![succeeding], vec![dead])
    );

    kit.advance(DAY * 7 - Duration::from_secs(1)).await;
    assert_eq!(retain(&kit).await["jobs"], 0);
    kit.advance(Duration::from_secs(2)).await;
    assert_eq!(retain(&kit).await["jobs"], 1);
    assert!(!is_there(&kit, succeeding).await);

    kit.advance(DAY * 23).await;
    assert_eq!(retain(&kit).await["jobs"], 1);
    assert!(!is_there(&kit, dead).await);
    kit.advance(DAY * 360).await;
    assert_eq!(retain(&kit).await["jobs"], 0);
    assert!(
        is_there(&kit, later).await,
        "a job that has not run must stay"
    );
}

#[tokio::test]
async fn events_are_deleted_with_their_deliveries_after_a_month() {
    let kit = Kit::start().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let mut tx = kit.tx().await;
    let new = NewEndpoint {
        url: receiver.url.clone(),
        ..NewEndpoint::default()
    };
    webhooks::create_endpoint(&mut tx, &kit.services.keys, new)
        .await
        .unwrap();
    let event = NewEvent::new("a.b", RawValue::NULL.to_owned());
    webhooks::post_event(&mut tx, &kit.services.engine, event, Trace::default())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(kit.drain("webhook").await.succeeded.len(), 1);
    let rows = async || -> Vec<i64> {
        let mut counts = Vec::new();
        for count in [
            "select count(*) from app.events",
            "select count(*) from app.deliveries",
            "select count(*) from app.delivery_attempts",
        ] {
            let mut tx = kit.tx().await;
            counts.push(query_scalar(count).fetch_one(&mut *tx).await.unwrap());
        }
        counts
    };
    kit.advance(DAY * 29).await;
    assert_eq!(retain(&kit).await["events"], 0);
    assert_eq!(rows().await, [1, 1, 1]);
    kit.advance(DAY * 2).await;
    assert_eq!(retain(&kit).await["events"], 1);
    assert_eq!(rows().await, [0, 0, 0]);
}

#[tokio::test]
async fn attempt_log_is_kept_for_a_month_in_daily_partitions_created_ahead() {
    let kit = Kit::start().await;
    let failing = call(&kit, 500).await;
    assert_eq!(kit.drain("http").await.retried, [failing]);
    let mut days = 0;
    for _ in 0..6 {
        kit.advance(DAY * 6).await;
        days += retain(&kit).await["attempt_days"].as_u64().unwrap();
    }
    assert!(days > 0, "old partitions must be dropped");
    // Later attempts are stored in partitions created for them.
    let other: i64 = query_scalar("select count(*) from queue.attempts_other")
        .fetch_one(&kit.services.pool)
        .await
        .unwrap();
    assert_eq!(other, 0);
    assert!(kit.attempts(failing).await.is_empty());
}

#[tokio::test]
async fn second_retention_run_finds_nothing_and_a_payload_is_refused() {
    let kit = Kit::start().await;
    let id = call(&kit, 200).await;
    assert_eq!(kit.drain("http").await.succeeded, [id]);
    kit.advance(DAY * 8).await;
    assert_eq!(retain(&kit).await["jobs"], 1);
    let again = retain(&kit).await;
    for (what, removed) in again.as_object().unwrap() {
        assert_eq!(removed, 0, "{what}");
    }
    kit.perform::<Retention>(json!({"keep": "1d"}))
        .unchecked()
        .await
        .dead("invalid_payload");
}
