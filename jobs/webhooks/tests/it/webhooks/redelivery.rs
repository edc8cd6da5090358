//! Redelivery and recovery: missed deliveries are made later, completed ones are not repeated.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harkara_kit::{Receiver, Reply};
use harkara_webhooks::kinds::webhook_recover::WebhookRecover;
use harkara_webhooks::{
    self as webhooks, DeliveryState, EndpointChange, EndpointStatus, RedeliverError, RetrySchedule,
};
use serde_json::json;
use serde_json::value::to_raw_value;

use super::{Fixture, events_received, failing_until_healthy};

fn set(status: EndpointStatus) -> EndpointChange {
    EndpointChange {
        status: Some(status),
        ..EndpointChange::default()
    }
}

#[tokio::test]
async fn replay_delivers_100_events_posted_while_disabled_once_each() {
    let fixture = Fixture::new().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let endpoint = fixture.endpoint(&receiver, &[]).await;
    fixture.post("a", json!({"before": true})).await;
    let _ = fixture.kit.drain("webhook").await;
    fixture
        .change(endpoint, set(EndpointStatus::Disabled))
        .await;
    let since = fixture.kit.now();
    let mut posted = BTreeSet::new();
    for nth in 0..100 {
        let event = fixture.post("a", json!({"nth": nth})).await;
        assert_eq!(event.deliveries[0].job_id, None, "it is skipped");
        posted.insert(event.id);
    }
    fixture.change(endpoint, set(EndpointStatus::Active)).await;
    let _ = fixture.kit.drain("webhook").await;
    assert_eq!(receiver.hits().len(), 1, "only earlier events may arrive");

    let args = json!({"endpoint_id": endpoint, "since": since, "until": fixture.kit.now()});
    for made in [100, 0] {
        let result = fixture
            .kit
            .perform::<WebhookRecover>(&args)
            .await
            .done()
            .result;
        assert_eq!(
            result,
            Some(json!({"deliveries": made})),
            "the second recovery must find nothing"
        );
    }
    let _ = fixture.kit.drain("webhook").await;
    let mut deliveries = receiver.deliveries();
    assert_eq!(deliveries.len(), 101);
    assert!(deliveries.values().all(|times| *times == 1));
    deliveries.retain(|id, _| posted.contains(id));
    assert_eq!(deliveries.len(), 100);
    let states = fixture.deliveries(endpoint).await;
    assert!(
        states
            .iter()
            .all(|delivery| delivery.state == DeliveryState::Succeeded)
    );
}

#[tokio::test]
async fn recovery_redelivers_failures_of_its_period_and_skips_delivered_or_waiting_ones() {
    let fixture = Fixture::new().await;
    let healthy = Arc::new(AtomicBool::new(true));
    let receiver = failing_until_healthy(500, &healthy).await;
    let rest = EndpointChange {
        retry_schedule: Some(RetrySchedule::of(&[]).unwrap()),
        ..EndpointChange::default()
    };
    let endpoint = fixture.endpoint_with(&receiver, rest).await;
    let hour = Duration::from_secs(3600);
    let post = async |is_healthy: bool| {
        healthy.store(is_healthy, Ordering::SeqCst);
        fixture.post("a", json!({})).await;
        let _ = fixture.kit.drain("webhook").await;
        fixture.kit.advance(hour).await;
    };
    post(false).await;
    let since = fixture.kit.now();
    post(false).await;
    post(true).await;
    post(false).await;
    let until = fixture.kit.now();
    fixture.kit.advance(hour).await;
    post(false).await;
    healthy.store(true, Ordering::SeqCst);
    let args = json!({"endpoint_id": endpoint, "since": since, "until": until});
    let result = fixture
        .kit
        .perform::<WebhookRecover>(&args)
        .await
        .done()
        .result;
    assert_eq!(result, Some(json!({"deliveries": 2})));
    let _ = fixture.kit.drain("webhook").await;
    let states: Vec<DeliveryState> = fixture
        .deliveries(endpoint)
        .await
        .iter()
        .map(|delivery| delivery.state)
        .collect();
    use DeliveryState::{Failed, Succeeded};
    assert_eq!(states, [Failed, Succeeded, Succeeded, Succeeded, Failed]);
    assert_eq!(receiver.hits().len(), 5 + 2);
}

#[tokio::test]
async fn disabled_endpoint_cannot_be_recovered() {
    let fixture = Fixture::new().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let endpoint = fixture.endpoint(&receiver, &[]).await;
    fixture
        .change(endpoint, set(EndpointStatus::Disabled))
        .await;
    let now = fixture.kit.now();
    let args = json!({"endpoint_id": endpoint, "since": now, "until": now});
    fixture
        .kit
        .perform::<WebhookRecover>(&args)
        .await
        .dead("endpoint_disabled");
}

#[tokio::test]
async fn delivery_in_any_state_can_be_redelivered_manually() {
    let fixture = Fixture::new().await;
    let healthy = Arc::new(AtomicBool::new(false));
    let receiver = failing_until_healthy(500, &healthy).await;
    let endpoint = fixture.endpoint(&receiver, &[]).await;
    let delivery = fixture.post("a", json!({})).await.deliveries[0];
    let redeliver = async || {
        let mut tx = fixture.kit.tx().await;
        let engine = &fixture.kit.services.engine;
        let made = webhooks::redeliver(&mut tx, engine, delivery.id)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        made
    };
    let _ = fixture.kit.drain("webhook").await;
    assert_eq!(
        redeliver().await,
        Ok(delivery.job_id.unwrap()),
        "a waiting delivery runs now"
    );
    let _ = fixture.kit.drain("webhook").await;
    assert_eq!(receiver.hits().len(), 2);

    healthy.store(true, Ordering::SeqCst);
    let start = fixture.kit.now();
    let _ = fixture
        .kit
        .drain("webhook")
        .until(start + Duration::from_secs(3600))
        .await;
    assert_eq!(
        fixture.deliveries(endpoint).await[0].state,
        DeliveryState::Succeeded
    );
    let again = redeliver().await.unwrap();
    assert_ne!(again, delivery.job_id.unwrap());
    let _ = fixture.kit.drain("webhook").await;
    assert_eq!(
        receiver.hits().len(),
        4,
        "a completed delivery can be redelivered"
    );
    let mut tx = fixture.kit.tx().await;
    let attempts = webhooks::delivery_attempts(&mut tx, delivery.id)
        .await
        .unwrap()
        .unwrap();
    tx.commit().await.unwrap();
    let causes: Vec<webhooks::Trigger> = attempts.iter().map(|attempt| attempt.trigger).collect();
    use webhooks::Trigger::{Event, Manual};
    assert_eq!(causes, [Event, Event, Event, Manual]);

    fixture
        .change(endpoint, set(EndpointStatus::Disabled))
        .await;
    assert_eq!(redeliver().await, Err(RedeliverError::EndpointDisabled));
}

#[tokio::test]
async fn manual_redelivery_is_a_single_attempt_and_keeps_an_earlier_success() {
    let fixture = Fixture::new().await;
    let receiver = Receiver::start(|nth| Reply::status(if nth == 0 { 200 } else { 500 })).await;
    let endpoint = fixture.endpoint(&receiver, &[]).await;
    let delivery = fixture.post("a", json!({})).await.deliveries[0];
    let _ = fixture.kit.drain("webhook").await;
    let mut tx = fixture.kit.tx().await;
    let engine = &fixture.kit.services.engine;
    webhooks::redeliver(&mut tx, engine, delivery.id)
        .await
        .unwrap()
        .unwrap();
    tx.commit().await.unwrap();
    let drained = fixture.kit.drain("webhook").await;
    assert_eq!((drained.retried.len(), drained.dead.len()), (0, 1));
    assert_eq!(
        fixture.deliveries(endpoint).await[0].state,
        DeliveryState::Succeeded
    );
}

#[tokio::test]
async fn test_event_reaches_a_disabled_endpoint_not_subscribed_to_it() {
    let fixture = Fixture::new().await;
    let observer = Receiver::start(|_| Reply::status(200)).await;
    let receiver = Receiver::start(|_| Reply::status(500)).await;
    let endpoint = fixture.endpoint(&receiver, &["b"]).await;
    fixture
        .endpoint(&observer, &["webhook.*", "delivery.*", "endpoint.*"])
        .await;
    fixture
        .change(endpoint, set(EndpointStatus::Disabled))
        .await;
    let data = to_raw_value(&json!({"hello": 1})).unwrap();
    let mut tx = fixture.kit.tx().await;
    let engine = &fixture.kit.services.engine;
    let posted = webhooks::test_endpoint(&mut tx, engine, endpoint, "webhook.test", data).await;
    tx.commit().await.unwrap();
    assert_eq!(posted.unwrap().unwrap().deliveries.len(), 1);
    assert_eq!(
        fixture.kit.drain("webhook").await.dead.len(),
        1,
        "one attempt"
    );
    assert_eq!(
        events_received(&receiver, "webhook.test"),
        [json!({"hello": 1})]
    );
    assert_eq!(
        observer.hits().len(),
        0,
        "no other endpoint may get the test event or its failure"
    );
    assert_eq!(fixture.found(endpoint).await.failures(), 0);
}

#[tokio::test]
async fn payloads_are_deleted_before_their_events_by_tenant_setting() {
    let fixture = Fixture::new().await;
    let receiver = Receiver::start(|nth| match nth {
        0 => Reply::status(200).body("secret answer"),
        _ => Reply::status(500),
    })
    .await;
    let endpoint = fixture.endpoint(&receiver, &[]).await;
    let done = fixture.post("a", json!({"secret": 1})).await.deliveries[0];
    let _ = fixture.kit.drain("webhook").await;
    fixture.post("a", json!({"waits": 1})).await;
    let _ = fixture.kit.drain("webhook").await;
    fixture.kit.advance(Duration::from_secs(2 * 3600)).await;
    let forget = async || {
        let mut tx = fixture.kit.tx().await;
        let count = webhooks::remove_old_payloads(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        count
    };
    assert_eq!(forget().await, 0, "no tenant has set a payload retention");
    let mut tx = fixture.kit.tx().await;
    webhooks::set_payload_retention(&mut tx, Some(Duration::from_secs(3600)))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        forget().await,
        1,
        "the payload of a pending delivery must stay"
    );

    let mut tx = fixture.kit.tx().await;
    let attempt = webhooks::delivery_attempts(&mut tx, done.id)
        .await
        .unwrap()
        .unwrap()
        .remove(0);
    assert_eq!(attempt.response_body, None);
    assert_eq!(attempt.request.unwrap().body, None);
    assert_eq!(attempt.status_code, Some(200), "the outcome must stay");
    let engine = &fixture.kit.services.engine;
    let again = webhooks::redeliver(&mut tx, engine, done.id).await.unwrap();
    assert_eq!(again, Err(RedeliverError::PayloadGone));
    tx.commit().await.unwrap();
    assert_eq!(
        fixture.deliveries(endpoint).await[1].state,
        DeliveryState::Pending
    );
}

#[tokio::test]
async fn manual_redelivery_ends_despite_retry_after() {
    let fixture = Fixture::new().await;
    let receiver = Receiver::start(|_| Reply::status(429)).await;
    let endpoint = fixture.endpoint(&receiver, &[]).await;
    let data = to_raw_value(&json!({})).unwrap();
    let mut tx = fixture.kit.tx().await;
    let engine = &fixture.kit.services.engine;
    webhooks::test_endpoint(&mut tx, engine, endpoint, "webhook.test", data)
        .await
        .unwrap()
        .unwrap();
    tx.commit().await.unwrap();
    let drained = fixture.kit.drain("webhook").await;
    assert_eq!((drained.rate_limited.len(), drained.dead.len()), (0, 1));
}

#[tokio::test]
async fn replaced_job_sends_nothing() {
    let fixture = Fixture::new().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    fixture.endpoint(&receiver, &[]).await;
    let delivery = fixture.post("a", json!({})).await.deliveries[0];
    let args = json!({"delivery_id": delivery.id});
    let result = fixture
        .kit
        .perform::<harkara_webhooks::kinds::webhook_deliver::WebhookDeliver>(args)
        .await
        .done()
        .result;
    assert!(result.unwrap()["skipped"].is_string());
    assert!(receiver.hits().is_empty());
}
