//! What was not delivered is delivered later, and what was is not.

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

use super::{House, ailing, told};

fn set(status: EndpointStatus) -> EndpointChange {
    EndpointChange {
        status: Some(status),
        ..EndpointChange::default()
    }
}

#[tokio::test]
async fn a_hundred_events_posted_while_disabled_all_arrive_once_when_they_are_replayed() {
    let house = House::new().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let endpoint = house.endpoint(&receiver, &[]).await;
    house.post("a", json!({"before": true})).await;
    let _ = house.kit.drain("webhook").await;
    house.change(endpoint, set(EndpointStatus::Disabled)).await;
    let since = house.kit.now();
    let mut posted = BTreeSet::new();
    for nth in 0..100 {
        let event = house.post("a", json!({"nth": nth})).await;
        assert_eq!(event.deliveries[0].job_id, None, "it is skipped");
        posted.insert(event.id);
    }
    house.change(endpoint, set(EndpointStatus::Active)).await;
    let _ = house.kit.drain("webhook").await;
    assert_eq!(receiver.hits().len(), 1, "only what came before");

    let args = json!({"endpoint_id": endpoint, "since": since, "until": house.kit.now()});
    for made in [100, 0] {
        let result = house
            .kit
            .perform::<WebhookRecover>(&args)
            .await
            .done()
            .result;
        assert_eq!(
            result,
            Some(json!({"deliveries": made})),
            "the second finds nothing"
        );
    }
    let _ = house.kit.drain("webhook").await;
    let mut deliveries = receiver.deliveries();
    assert_eq!(deliveries.len(), 101);
    assert!(deliveries.values().all(|times| *times == 1));
    deliveries.retain(|id, _| posted.contains(id));
    assert_eq!(deliveries.len(), 100);
    let states = house.deliveries(endpoint).await;
    assert!(
        states
            .iter()
            .all(|delivery| delivery.state == DeliveryState::Succeeded)
    );
}

#[tokio::test]
async fn a_recovery_makes_what_failed_in_its_time_and_leaves_alone_what_arrived_or_waits() {
    let house = House::new().await;
    let well = Arc::new(AtomicBool::new(true));
    let receiver = ailing(500, &well).await;
    let rest = EndpointChange {
        retry_schedule: Some(RetrySchedule::of(&[]).unwrap()),
        ..EndpointChange::default()
    };
    let endpoint = house.endpoint_with(&receiver, rest).await;
    let hour = Duration::from_secs(3600);
    let post = async |is_well: bool| {
        well.store(is_well, Ordering::SeqCst);
        house.post("a", json!({})).await;
        let _ = house.kit.drain("webhook").await;
        house.kit.advance(hour).await;
    };
    post(false).await;
    let since = house.kit.now();
    post(false).await;
    post(true).await;
    post(false).await;
    let until = house.kit.now();
    house.kit.advance(hour).await;
    post(false).await;
    well.store(true, Ordering::SeqCst);
    let args = json!({"endpoint_id": endpoint, "since": since, "until": until});
    let result = house
        .kit
        .perform::<WebhookRecover>(&args)
        .await
        .done()
        .result;
    assert_eq!(result, Some(json!({"deliveries": 2})));
    let _ = house.kit.drain("webhook").await;
    let states: Vec<DeliveryState> = house
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
async fn a_disabled_endpoint_is_not_made_up_to() {
    let house = House::new().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let endpoint = house.endpoint(&receiver, &[]).await;
    house.change(endpoint, set(EndpointStatus::Disabled)).await;
    let now = house.kit.now();
    let args = json!({"endpoint_id": endpoint, "since": now, "until": now});
    house
        .kit
        .perform::<WebhookRecover>(&args)
        .await
        .dead("endpoint_disabled");
}

#[tokio::test]
async fn a_delivery_is_made_again_by_hand_whatever_became_of_it() {
    let house = House::new().await;
    let well = Arc::new(AtomicBool::new(false));
    let receiver = ailing(500, &well).await;
    let endpoint = house.endpoint(&receiver, &[]).await;
    let delivery = house.post("a", json!({})).await.deliveries[0];
    let redeliver = async || {
        let mut tx = house.kit.tx().await;
        let engine = &house.kit.services.engine;
        let made = webhooks::redeliver(&mut tx, engine, delivery.id)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        made
    };
    let _ = house.kit.drain("webhook").await;
    assert_eq!(
        redeliver().await,
        Ok(delivery.job_id.unwrap()),
        "it waits: now, then"
    );
    let _ = house.kit.drain("webhook").await;
    assert_eq!(receiver.hits().len(), 2);

    well.store(true, Ordering::SeqCst);
    let start = house.kit.now();
    let _ = house
        .kit
        .drain("webhook")
        .until(start + Duration::from_secs(3600))
        .await;
    assert_eq!(
        house.deliveries(endpoint).await[0].state,
        DeliveryState::Succeeded
    );
    let again = redeliver().await.unwrap();
    assert_ne!(again, delivery.job_id.unwrap());
    let _ = house.kit.drain("webhook").await;
    assert_eq!(receiver.hits().len(), 4, "although it had arrived");
    let mut tx = house.kit.tx().await;
    let attempts = webhooks::delivery_attempts(&mut tx, delivery.id)
        .await
        .unwrap()
        .unwrap();
    tx.commit().await.unwrap();
    let causes: Vec<webhooks::Cause> = attempts.iter().map(|attempt| attempt.cause).collect();
    use webhooks::Cause::{Event, Manual};
    assert_eq!(causes, [Event, Event, Event, Manual]);

    house.change(endpoint, set(EndpointStatus::Disabled)).await;
    assert_eq!(redeliver().await, Err(RedeliverError::EndpointDisabled));
}

#[tokio::test]
async fn one_try_by_hand_is_one_try_and_what_has_arrived_once_has_arrived() {
    let house = House::new().await;
    let receiver = Receiver::start(|nth| Reply::status(if nth == 0 { 200 } else { 500 })).await;
    let endpoint = house.endpoint(&receiver, &[]).await;
    let delivery = house.post("a", json!({})).await.deliveries[0];
    let _ = house.kit.drain("webhook").await;
    let mut tx = house.kit.tx().await;
    let engine = &house.kit.services.engine;
    webhooks::redeliver(&mut tx, engine, delivery.id)
        .await
        .unwrap()
        .unwrap();
    tx.commit().await.unwrap();
    let drained = house.kit.drain("webhook").await;
    assert_eq!((drained.retried.len(), drained.dead.len()), (0, 1));
    assert_eq!(
        house.deliveries(endpoint).await[0].state,
        DeliveryState::Succeeded
    );
}

#[tokio::test]
async fn a_test_reaches_an_endpoint_that_is_disabled_and_takes_nothing_of_the_kind() {
    let house = House::new().await;
    let observer = Receiver::start(|_| Reply::status(200)).await;
    let receiver = Receiver::start(|_| Reply::status(500)).await;
    let endpoint = house.endpoint(&receiver, &["b"]).await;
    house
        .endpoint(&observer, &["webhook.*", "delivery.*", "endpoint.*"])
        .await;
    house.change(endpoint, set(EndpointStatus::Disabled)).await;
    let data = to_raw_value(&json!({"hello": 1})).unwrap();
    let mut tx = house.kit.tx().await;
    let engine = &house.kit.services.engine;
    let posted = webhooks::test_endpoint(&mut tx, engine, endpoint, "webhook.test", data).await;
    tx.commit().await.unwrap();
    assert_eq!(posted.unwrap().unwrap().deliveries.len(), 1);
    assert_eq!(
        house.kit.drain("webhook").await.dead.len(),
        1,
        "one attempt"
    );
    assert_eq!(told(&receiver, "webhook.test"), [json!({"hello": 1})]);
    assert_eq!(
        observer.hits().len(),
        0,
        "nobody else hears of it, nor of its failure"
    );
    assert_eq!(house.found(endpoint).await.failures(), 0);
}

#[tokio::test]
async fn payloads_are_forgotten_before_their_events_where_the_tenant_wants_that() {
    let house = House::new().await;
    let receiver = Receiver::start(|nth| match nth {
        0 => Reply::status(200).body("secret answer"),
        _ => Reply::status(500),
    })
    .await;
    let endpoint = house.endpoint(&receiver, &[]).await;
    let done = house.post("a", json!({"secret": 1})).await.deliveries[0];
    let _ = house.kit.drain("webhook").await;
    house.post("a", json!({"waits": 1})).await;
    let _ = house.kit.drain("webhook").await;
    house.kit.advance(Duration::from_secs(2 * 3600)).await;
    let forget = async || {
        let mut tx = house.kit.tx().await;
        let count = webhooks::forget_payloads(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        count
    };
    assert_eq!(forget().await, 0, "nobody wants that");
    let mut tx = house.kit.tx().await;
    webhooks::set_payload_retention(&mut tx, Some(Duration::from_secs(3600)))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(forget().await, 1, "the other is still to be delivered");

    let mut tx = house.kit.tx().await;
    let attempt = webhooks::delivery_attempts(&mut tx, done.id)
        .await
        .unwrap()
        .unwrap()
        .remove(0);
    assert_eq!(attempt.response_body, None);
    assert_eq!(attempt.request.unwrap().body, None);
    assert_eq!(attempt.status_code, Some(200), "what became of it stays");
    let engine = &house.kit.services.engine;
    let again = webhooks::redeliver(&mut tx, engine, done.id).await.unwrap();
    assert_eq!(again, Err(RedeliverError::PayloadGone));
    tx.commit().await.unwrap();
    assert_eq!(
        house.deliveries(endpoint).await[1].state,
        DeliveryState::Pending
    );
}

#[tokio::test]
async fn a_try_by_hand_is_over_though_the_receiver_asks_for_time() {
    let house = House::new().await;
    let receiver = Receiver::start(|_| Reply::status(429)).await;
    let endpoint = house.endpoint(&receiver, &[]).await;
    let data = to_raw_value(&json!({})).unwrap();
    let mut tx = house.kit.tx().await;
    let engine = &house.kit.services.engine;
    webhooks::test_endpoint(&mut tx, engine, endpoint, "webhook.test", data)
        .await
        .unwrap()
        .unwrap();
    tx.commit().await.unwrap();
    let drained = house.kit.drain("webhook").await;
    assert_eq!((drained.rate_limited.len(), drained.dead.len()), (0, 1));
}

#[tokio::test]
async fn a_job_that_was_replaced_sends_nothing() {
    let house = House::new().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    house.endpoint(&receiver, &[]).await;
    let delivery = house.post("a", json!({})).await.deliveries[0];
    let args = json!({"delivery_id": delivery.id});
    let result = house
        .kit
        .perform::<harkara_webhooks::kinds::webhook_deliver::WebhookDeliver>(args)
        .await
        .done()
        .result;
    assert!(result.unwrap()["skipped"].is_string());
    assert!(receiver.hits().is_empty());
}
