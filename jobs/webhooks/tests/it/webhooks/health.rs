//! Endpoint health: failing endpoints are reported, throttled, disabled, and recover.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harkara_kit::{Receiver, Reply};
use harkara_queue::job::{JobError, Lane};
use harkara_shared::database::{TenantTx, query, query_scalar};
use harkara_shared::id::EndpointId;
use harkara_webhooks::{
    AttemptedEvent, Delivery, DeliveryState, EndpointAction, EndpointChange, EndpointStatus,
    FinishedAttempt, RetrySchedule, Trigger,
};
use serde_json::json;
use tokio::task::yield_now;

use super::{Fixture, events_received, failing_until_healthy};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Time within which a statement that must wait for a lock is waiting for it.
const LOCK_WAIT_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn endpoint_failing_for_five_days_is_reported_disabled_and_can_recover() {
    let fixture = Fixture::new().await;
    let healthy = Arc::new(AtomicBool::new(false));
    let (failing, observer) = (
        failing_until_healthy(500, &healthy).await,
        Receiver::start(|_| Reply::status(200)).await,
    );
    let endpoint = fixture.endpoint(&failing, &["order.*"]).await;
    fixture
        .endpoint(&observer, &["endpoint.*", "delivery.exhausted"])
        .await;

    let start = fixture.kit.now();
    // Four events a day, of ten attempts each.
    for quarter in 0..22 {
        if fixture.found(endpoint).await.status == EndpointStatus::Disabled {
            break;
        }
        fixture.post("order.paid", json!({"nth": quarter})).await;
        let until = start + DAY / 4 * (quarter + 1);
        let _ = fixture.kit.drain("webhook").until(until).await;
    }
    let percents: Vec<i64> = events_received(&observer, "endpoint.failing")
        .iter()
        .map(|data| data["percent"].as_i64().unwrap())
        .collect();
    assert_eq!(percents, [50, 70, 90, 100]);
    let alert = events_received(&observer, "endpoint.failing").remove(0);
    assert_eq!(alert["endpoint_id"], json!(endpoint));
    assert_eq!(alert["event"]["type"], "order.paid");
    assert_eq!(alert["last_error"]["code"], "http_500");

    let disabled = events_received(&observer, "endpoint.disabled");
    assert_eq!(disabled.len(), 1);
    assert_eq!(disabled[0]["reason"], "failing");
    let now = fixture.found(endpoint).await;
    assert_eq!(now.status, EndpointStatus::Disabled);
    assert_eq!(now.disabled_reason.as_deref(), Some("failing"));
    let states: Vec<DeliveryState> = fixture
        .deliveries(endpoint)
        .await
        .iter()
        .map(|delivery| delivery.state)
        .collect();
    assert!(!states.contains(&DeliveryState::Pending), "{states:?}");
    assert!(states.contains(&DeliveryState::Skipped), "{states:?}");

    // Exhausted deliveries were reported with their events.
    let exhausted = events_received(&observer, "delivery.exhausted");
    let failed = states
        .iter()
        .filter(|state| **state == DeliveryState::Failed);
    assert_eq!(exhausted.len(), failed.count());
    assert_eq!(exhausted[0]["event"]["data"], json!({"nth": 0}));
    assert_eq!(exhausted[0]["attempts"], 10);

    healthy.store(true, Ordering::SeqCst);
    let active = EndpointChange {
        status: Some(EndpointStatus::Active),
        ..EndpointChange::default()
    };
    fixture.change(endpoint, active).await;
    assert_eq!(
        events_received(&observer, "endpoint.recovered").len(),
        0,
        "recovery must not be reported yet"
    );
    fixture.post("order.paid", json!({})).await;
    fixture.post("order.paid", json!({})).await;
    let _ = fixture.kit.drain("webhook").await;
    assert_eq!(
        events_received(&observer, "endpoint.recovered").len(),
        1,
        "recovery must be reported once"
    );
    assert_eq!(fixture.found(endpoint).await.failing_since, None);
}

#[tokio::test]
async fn few_failures_in_five_days_do_not_disable_an_endpoint() {
    let fixture = Fixture::new().await;
    let failing = Receiver::start(|_| Reply::status(500)).await;
    let rest = EndpointChange {
        retry_schedule: Some(RetrySchedule::of(&[]).unwrap()),
        ..EndpointChange::default()
    };
    let endpoint = fixture.endpoint_with(&failing, rest).await;
    for _ in 0..19 {
        fixture.post("order.paid", json!({})).await;
        let _ = fixture.kit.drain("webhook").await;
        fixture.kit.advance(DAY).await;
    }
    let now = fixture.found(endpoint).await;
    assert_eq!((now.status, now.failures()), (EndpointStatus::Active, 19));
}

#[tokio::test]
async fn gone_endpoint_is_disabled_at_once_and_waiting_deliveries_are_skipped() {
    for (reply, reason) in [
        (Reply::status(410), "gone"),
        (
            Reply::status(500).header("webhook-delivery", "disable"),
            "asked",
        ),
    ] {
        let fixture = Fixture::new().await;
        let observer = Receiver::start(|_| Reply::status(200)).await;
        let gone = Receiver::start(move |_| reply.clone()).await;
        let endpoint = fixture.endpoint(&gone, &["a"]).await;
        fixture.endpoint(&observer, &["endpoint.disabled"]).await;
        fixture.post("a", json!({})).await;
        fixture.post("a", json!({})).await;
        let _ = fixture.kit.drain("webhook").await;
        assert_eq!(gone.hits().len(), 1, "{reason}");
        let now = fixture.found(endpoint).await;
        assert_eq!(now.disabled_reason.as_deref(), Some(reason));
        let states: Vec<DeliveryState> = fixture
            .deliveries(endpoint)
            .await
            .iter()
            .map(|delivery| delivery.state)
            .collect();
        assert_eq!(states, [DeliveryState::Failed, DeliveryState::Skipped]);
        assert_eq!(
            events_received(&observer, "endpoint.disabled")[0]["reason"],
            reason
        );
    }
}

#[tokio::test]
async fn receiver_can_accept_a_delivery_and_request_disabling() {
    let fixture = Fixture::new().await;
    let last = Receiver::start(|_| Reply::status(200).header("webhook-delivery", "disable")).await;
    let endpoint = fixture.endpoint(&last, &[]).await;
    fixture.post("a", json!({})).await;
    let _ = fixture.kit.drain("webhook").await;
    assert_eq!(
        fixture.found(endpoint).await.status,
        EndpointStatus::Disabled
    );
    assert_eq!(
        fixture.deliveries(endpoint).await[0].state,
        DeliveryState::Succeeded
    );
}

#[tokio::test]
async fn explicitly_rejected_message_fails_and_the_next_is_tried() {
    let fixture = Fixture::new().await;
    let picky = Receiver::start(|nth| match nth {
        0 => Reply::status(422).header("webhook-delivery", "abort-message"),
        _ => Reply::status(200),
    })
    .await;
    let endpoint = fixture.endpoint(&picky, &[]).await;
    fixture.post("a", json!({})).await;
    let drained = fixture.kit.drain("webhook").await;
    assert_eq!(drained.dead.len(), 1);
    fixture.post("a", json!({})).await;
    let _ = fixture.kit.drain("webhook").await;
    assert_eq!(fixture.found(endpoint).await.status, EndpointStatus::Active);
    assert_eq!(
        fixture.deliveries(endpoint).await[1].state,
        DeliveryState::Succeeded
    );
}

#[tokio::test]
async fn platform_events_go_only_to_subscribers_and_not_to_the_affected_endpoint() {
    let fixture = Fixture::new().await;
    let (failing, everything) = (
        Receiver::start(|_| Reply::status(410)).await,
        Receiver::start(|_| Reply::status(200)).await,
    );
    // It subscribes to endpoint events, but receives none about itself.
    let endpoint = fixture.endpoint(&failing, &["a", "endpoint.*"]).await;
    fixture.endpoint(&everything, &[]).await;
    fixture.post("a", json!({})).await;
    let _ = fixture.kit.drain("webhook").await;
    assert_eq!(
        fixture.found(endpoint).await.status,
        EndpointStatus::Disabled
    );
    assert_eq!(
        everything.hits().len(),
        1,
        "only the posted event must arrive"
    );
    assert_eq!(failing.hits().len(), 1);
}

#[tokio::test]
async fn throttled_endpoint_is_called_at_half_rate_and_recovers_gradually() {
    let fixture = Fixture::new().await;
    let healthy = Arc::new(AtomicBool::new(false));
    let busy = failing_until_healthy(429, &healthy).await;
    let rest = EndpointChange {
        rate_per_second: harkara_queue::settings::Change::Set(8),
        ..EndpointChange::default()
    };
    let endpoint = fixture.endpoint_with(&busy, rest).await;
    let engine = &fixture.kit.services.engine;
    let rate = async || {
        let lane = Lane::Named(endpoint.to_string());
        let lanes = engine
            .lane(fixture.kit.tenant, "webhook", &lane)
            .await
            .unwrap();
        lanes
            .first()
            .and_then(|lane| lane.limit.rate)
            .map(|rate| rate.count)
    };
    fixture.post("a", json!({})).await;
    fixture.post("a", json!({})).await;
    let _ = fixture.kit.drain("webhook").await;
    assert_eq!(fixture.found(endpoint).await.slowed_to(), Some(4));
    assert_eq!(
        rate().await,
        Some(4),
        "the rate must be lowered once, although both were refused"
    );

    healthy.store(true, Ordering::SeqCst);
    // Nothing changes within a minute.
    for (wait, pace, held) in [(40, Some(4), 4), (40, None, 8)] {
        fixture.kit.advance(Duration::from_secs(wait)).await;
        fixture.post("a", json!({})).await;
        let _ = fixture.kit.drain("webhook").await;
        assert_eq!(fixture.found(endpoint).await.slowed_to(), pace);
        assert_eq!(rate().await, Some(held));
    }
}

#[tokio::test]
async fn late_retry_without_a_slot_waits_without_an_attempt_and_a_first_delivery_proceeds() {
    let fixture = Fixture::new().await;
    let healthy = Arc::new(AtomicBool::new(false));
    let receiver = failing_until_healthy(500, &healthy).await;
    let second = Duration::from_secs(1);
    let rest = EndpointChange {
        retry_schedule: Some(RetrySchedule::of(&[second; 3]).unwrap()),
        ..EndpointChange::default()
    };
    let endpoint = fixture.endpoint_with(&receiver, rest).await;
    fixture.post("late", json!({})).await;
    for _ in 0..2 {
        assert_eq!(fixture.kit.drain("webhook").await.retried.len(), 1);
        fixture.kit.advance(second * 2).await;
    }
    healthy.store(true, Ordering::SeqCst);
    let slot = fixture.kit.deliveries.take_retry_slot(fixture.kit.tenant);
    assert!(slot.is_some());
    fixture.post("first", json!({})).await;
    assert_eq!(fixture.kit.drain("webhook").await.succeeded.len(), 1);
    assert_eq!(events_received(&receiver, "first").len(), 1);
    assert_eq!(
        events_received(&receiver, "late").len(),
        2,
        "no slot was free"
    );
    assert_eq!(fixture.deliveries(endpoint).await[0].attempts, 2);
    drop(slot);
    fixture.kit.advance(Duration::from_secs(60)).await;
    assert_eq!(fixture.kit.drain("webhook").await.succeeded.len(), 1);
    assert_eq!(events_received(&receiver, "late").len(), 3);
}

#[tokio::test]
async fn endpoint_hours_count_its_attempts_by_outcome() {
    let fixture = Fixture::new().await;
    let receiver = Receiver::start(|nth| Reply::status(if nth == 0 { 500 } else { 200 })).await;
    let endpoint = fixture.endpoint(&receiver, &[]).await;
    let start = fixture.kit.now();
    fixture.post("a", json!({})).await;
    fixture.post("a", json!({})).await;
    let _ = fixture.kit.drain("webhook").until(start + DAY).await;
    let mut tx = fixture.kit.tx().await;
    let stats = harkara_webhooks::endpoint_stats(&mut tx, endpoint, start)
        .await
        .unwrap();
    assert_eq!((stats.succeeded, stats.failed), (2, 1));
    assert!(stats.percentile(99).is_some());
    assert!(stats.last_success_at >= stats.last_failure_at);
}

#[tokio::test]
async fn endpoint_paused_before_it_is_active_again_has_its_failures_reset() {
    let fixture = Fixture::new().await;
    let failing = Receiver::start(|_| Reply::status(500)).await;
    let endpoint = fixture.endpoint(&failing, &[]).await;
    let mut tx = fixture.kit.tx().await;
    query(
        "update app.webhook_endpoints
         set status = 'disabled', failing_since = now() - interval '6 days', failures = 30,
             alerted = 100",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    for status in [EndpointStatus::Paused, EndpointStatus::Active] {
        let change = EndpointChange {
            status: Some(status),
            ..EndpointChange::default()
        };
        fixture.change(endpoint, change).await;
    }
    fixture.post("a", json!({})).await;
    let _ = fixture.kit.drain("webhook").await;
    let now = fixture.found(endpoint).await;
    assert_eq!((now.status, now.failures()), (EndpointStatus::Active, 1));
}

/// Waits until a statement of this database waits for a lock. Outside of a tenant's role, which sees only its own sessions.
async fn lock_wait(fixture: &Fixture) {
    let pool = fixture.kit.database().pool();
    let wait = async {
        loop {
            let is_waiting: bool = query_scalar(
                "select exists (
                     select from pg_stat_activity
                     where datname = current_database() and wait_event_type = 'Lock'
                 )",
            )
            .fetch_one(&pool)
            .await
            .unwrap();
            if is_waiting {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(LOCK_WAIT_TIMEOUT, wait).await;
    assert!(waited.is_ok(), "no statement waits for a lock");
}

async fn lock_endpoint(tx: &mut TenantTx, id: EndpointId) -> Result<(), sqlx::Error> {
    query("select from app.webhook_endpoints where id = $1 for no key update nowait")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

#[tokio::test]
async fn endpoints_of_a_batch_are_locked_in_the_order_of_their_ids() {
    let fixture = Fixture::new().await;
    let receiver = Receiver::start(|_| Reply::status(500)).await;
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        endpoints.push(fixture.endpoint(&receiver, &[]).await);
    }
    endpoints.sort_unstable();
    fixture.post("order.paid", json!({})).await;
    // All endpoints are failing afterwards, so that a success changes them.
    let _ = fixture.kit.drain("webhook").await;
    let mut deliveries: Vec<Delivery> = Vec::new();
    for id in &endpoints {
        deliveries.extend(fixture.deliveries(*id).await);
    }
    let started_at = fixture.kit.now();
    let record = |delivery: &Delivery, error: Option<JobError>| {
        let attempt = FinishedAttempt {
            delivery: delivery.id,
            job: delivery.job_id.unwrap(),
            endpoint: delivery.endpoint_id,
            trigger: Trigger::Event,
            delivery_outcome: None,
            started_at,
            duration: Duration::from_millis(1),
            url: receiver.url.clone(),
            header_names: Vec::new(),
            address: None,
            response: None,
            error,
            action: EndpointAction::default(),
            event: AttemptedEvent {
                id: delivery.event_id.clone(),
                event_type: "order.paid".to_owned(),
                data: None,
            },
        };
        let (batcher, tenant) = (fixture.kit.deliveries.clone(), fixture.kit.tenant);
        tokio::spawn(async move { batcher.record(tenant, attempt).await })
    };

    // The first call waits for its delivery's row. The other two arrive meanwhile and become one batch.
    let mut first_call_blocker = fixture.kit.tx().await;
    query("select from app.deliveries where id = $1 for update")
        .bind(deliveries[2].id)
        .execute(&mut *first_call_blocker)
        .await
        .unwrap();
    let first_call = record(&deliveries[2], None);
    lock_wait(&fixture).await;
    let batch = [
        record(&deliveries[1], None),
        record(&deliveries[0], Some(JobError::new("http_500", ""))),
    ];
    yield_now().await;

    let mut blocking_tx = fixture.kit.tx().await;
    lock_endpoint(&mut blocking_tx, endpoints[0]).await.unwrap();
    first_call_blocker.commit().await.unwrap();
    first_call.await.unwrap().unwrap();
    lock_wait(&fixture).await;
    lock_endpoint(&mut blocking_tx, endpoints[1])
        .await
        .expect("the batch locked the second endpoint while it waits for the first");
    blocking_tx.commit().await.unwrap();
    for call in batch {
        call.await.unwrap().unwrap();
    }
    assert_eq!(fixture.found(endpoints[0]).await.failures(), 2);
    assert_eq!(fixture.found(endpoints[1]).await.failures(), 0);
}
