//! An endpoint that fails is told of, slowed down, disabled, and well again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harkara_kit::{Receiver, Reply};
use harkara_queue::job::Lane;
use harkara_webhooks::{DeliveryState, EndpointChange, EndpointStatus, RetrySchedule};
use serde_json::json;

use super::{House, ailing, told};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn an_endpoint_without_a_success_for_five_days_is_told_of_and_disabled_and_later_recovers() {
    let house = House::new().await;
    let well = Arc::new(AtomicBool::new(false));
    let (ill, observer) = (
        ailing(500, &well).await,
        Receiver::start(|_| Reply::status(200)).await,
    );
    let endpoint = house.endpoint(&ill, &["order.*"]).await;
    house
        .endpoint(&observer, &["endpoint.*", "delivery.exhausted"])
        .await;

    let start = house.kit.now();
    // Four events a day, of ten attempts each.
    for quarter in 0..22 {
        if house.found(endpoint).await.status == EndpointStatus::Disabled {
            break;
        }
        house.post("order.paid", json!({"nth": quarter})).await;
        let until = start + DAY / 4 * (quarter + 1);
        let _ = house.kit.drain("webhook").until(until).await;
    }
    let percents: Vec<i64> = told(&observer, "endpoint.failing")
        .iter()
        .map(|data| data["percent"].as_i64().unwrap())
        .collect();
    assert_eq!(percents, [50, 70, 90, 100]);
    let alert = told(&observer, "endpoint.failing").remove(0);
    assert_eq!(alert["endpoint_id"], json!(endpoint));
    assert_eq!(alert["event"]["type"], "order.paid");
    assert_eq!(alert["last_error"]["code"], "http_500");

    let disabled = told(&observer, "endpoint.disabled");
    assert_eq!(disabled.len(), 1);
    assert_eq!(disabled[0]["reason"], "failing");
    let now = house.found(endpoint).await;
    assert_eq!(now.status, EndpointStatus::Disabled);
    assert_eq!(now.disabled_reason.as_deref(), Some("failing"));
    let states: Vec<DeliveryState> = house
        .deliveries(endpoint)
        .await
        .iter()
        .map(|delivery| delivery.state)
        .collect();
    assert!(!states.contains(&DeliveryState::Pending), "{states:?}");
    assert!(states.contains(&DeliveryState::Skipped), "{states:?}");

    // What was given up was told, with its event.
    let exhausted = told(&observer, "delivery.exhausted");
    let failed = states
        .iter()
        .filter(|state| **state == DeliveryState::Failed);
    assert_eq!(exhausted.len(), failed.count());
    assert_eq!(exhausted[0]["event"]["data"], json!({"nth": 0}));
    assert_eq!(exhausted[0]["attempts"], 10);

    well.store(true, Ordering::SeqCst);
    let active = EndpointChange {
        status: Some(EndpointStatus::Active),
        ..EndpointChange::default()
    };
    house.change(endpoint, active).await;
    assert_eq!(told(&observer, "endpoint.recovered").len(), 0, "not yet");
    house.post("order.paid", json!({})).await;
    house.post("order.paid", json!({})).await;
    let _ = house.kit.drain("webhook").await;
    assert_eq!(told(&observer, "endpoint.recovered").len(), 1, "once");
    assert_eq!(house.found(endpoint).await.failing_since, None);
}

#[tokio::test]
async fn a_few_failures_in_five_days_disable_nobody() {
    let house = House::new().await;
    let ill = Receiver::start(|_| Reply::status(500)).await;
    let rest = EndpointChange {
        retry_schedule: Some(RetrySchedule::of(&[]).unwrap()),
        ..EndpointChange::default()
    };
    let endpoint = house.endpoint_with(&ill, rest).await;
    for _ in 0..19 {
        house.post("order.paid", json!({})).await;
        let _ = house.kit.drain("webhook").await;
        house.kit.advance(DAY).await;
    }
    let now = house.found(endpoint).await;
    assert_eq!((now.status, now.failures()), (EndpointStatus::Active, 19));
}

#[tokio::test]
async fn one_that_is_gone_is_disabled_at_once_and_what_waits_is_skipped() {
    for (reply, reason) in [
        (Reply::status(410), "gone"),
        (
            Reply::status(500).header("webhook-delivery", "disable"),
            "asked",
        ),
    ] {
        let house = House::new().await;
        let observer = Receiver::start(|_| Reply::status(200)).await;
        let gone = Receiver::start(move |_| reply.clone()).await;
        let endpoint = house.endpoint(&gone, &["a"]).await;
        house.endpoint(&observer, &["endpoint.disabled"]).await;
        house.post("a", json!({})).await;
        house.post("a", json!({})).await;
        let _ = house.kit.drain("webhook").await;
        assert_eq!(gone.hits().len(), 1, "{reason}");
        let now = house.found(endpoint).await;
        assert_eq!(now.disabled_reason.as_deref(), Some(reason));
        let states: Vec<DeliveryState> = house
            .deliveries(endpoint)
            .await
            .iter()
            .map(|delivery| delivery.state)
            .collect();
        assert_eq!(states, [DeliveryState::Failed, DeliveryState::Skipped]);
        assert_eq!(told(&observer, "endpoint.disabled")[0]["reason"], reason);
    }
}

#[tokio::test]
async fn a_receiver_that_takes_the_last_one_may_ask_to_be_disabled_with_it() {
    let house = House::new().await;
    let last = Receiver::start(|_| Reply::status(200).header("webhook-delivery", "disable")).await;
    let endpoint = house.endpoint(&last, &[]).await;
    house.post("a", json!({})).await;
    let _ = house.kit.drain("webhook").await;
    assert_eq!(house.found(endpoint).await.status, EndpointStatus::Disabled);
    assert_eq!(
        house.deliveries(endpoint).await[0].state,
        DeliveryState::Succeeded
    );
}

#[tokio::test]
async fn a_message_that_is_refused_by_name_is_given_up_and_the_next_one_is_tried() {
    let house = House::new().await;
    let picky = Receiver::start(|nth| match nth {
        0 => Reply::status(422).header("webhook-delivery", "abort-message"),
        _ => Reply::status(200),
    })
    .await;
    let endpoint = house.endpoint(&picky, &[]).await;
    house.post("a", json!({})).await;
    let drained = house.kit.drain("webhook").await;
    assert_eq!(drained.dead.len(), 1);
    house.post("a", json!({})).await;
    let _ = house.kit.drain("webhook").await;
    assert_eq!(house.found(endpoint).await.status, EndpointStatus::Active);
    assert_eq!(
        house.deliveries(endpoint).await[1].state,
        DeliveryState::Succeeded
    );
}

#[tokio::test]
async fn what_the_platform_tells_goes_to_nobody_who_did_not_ask_and_not_to_whom_it_is_about() {
    let house = House::new().await;
    let (ill, everything) = (
        Receiver::start(|_| Reply::status(410)).await,
        Receiver::start(|_| Reply::status(200)).await,
    );
    // It would like to hear of endpoints, but not of itself.
    let endpoint = house.endpoint(&ill, &["a", "endpoint.*"]).await;
    house.endpoint(&everything, &[]).await;
    house.post("a", json!({})).await;
    let _ = house.kit.drain("webhook").await;
    assert_eq!(house.found(endpoint).await.status, EndpointStatus::Disabled);
    assert_eq!(everything.hits().len(), 1, "the event alone");
    assert_eq!(ill.hits().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_asks_for_less_is_called_half_as_often_and_by_and_by_as_before() {
    let house = House::new().await;
    let well = Arc::new(AtomicBool::new(false));
    let busy = ailing(429, &well).await;
    let rest = EndpointChange {
        rate_per_second: harkara_queue::settings::Change::Set(8),
        ..EndpointChange::default()
    };
    let endpoint = house.endpoint_with(&busy, rest).await;
    let engine = &house.kit.services.engine;
    let rate = async || {
        let lane = Lane::Named(endpoint.to_string());
        let lanes = engine
            .lane(house.kit.tenant, "webhook", &lane)
            .await
            .unwrap();
        lanes
            .first()
            .and_then(|lane| lane.limit.rate)
            .map(|rate| rate.count)
    };
    house.post("a", json!({})).await;
    house.post("a", json!({})).await;
    let _ = house.kit.drain("webhook").await;
    assert_eq!(house.found(endpoint).await.slowed_to(), Some(4));
    assert_eq!(rate().await, Some(4), "once, though both were refused");

    well.store(true, Ordering::SeqCst);
    // Within a minute nothing changes.
    for (wait, pace, held) in [(40, Some(4), 4), (40, None, 8)] {
        house.kit.advance(Duration::from_secs(wait)).await;
        house.post("a", json!({})).await;
        let _ = house.kit.drain("webhook").await;
        assert_eq!(house.found(endpoint).await.slowed_to(), pace);
        assert_eq!(rate().await, Some(held));
    }
}

#[tokio::test]
async fn a_late_delivery_without_a_place_waits_at_no_attempt_and_a_first_one_goes() {
    let house = House::new().await;
    let well = Arc::new(AtomicBool::new(false));
    let receiver = ailing(500, &well).await;
    let second = Duration::from_secs(1);
    let rest = EndpointChange {
        retry_schedule: Some(RetrySchedule::of(&[second; 3]).unwrap()),
        ..EndpointChange::default()
    };
    let endpoint = house.endpoint_with(&receiver, rest).await;
    house.post("late", json!({})).await;
    for _ in 0..2 {
        assert_eq!(house.kit.drain("webhook").await.retried.len(), 1);
        house.kit.advance(second * 2).await;
    }
    well.store(true, Ordering::SeqCst);
    let place = house.kit.deliveries.take_retry_slot(house.kit.tenant);
    assert!(place.is_some());
    house.post("first", json!({})).await;
    assert_eq!(house.kit.drain("webhook").await.succeeded.len(), 1);
    assert_eq!(told(&receiver, "first").len(), 1);
    assert_eq!(told(&receiver, "late").len(), 2, "it has no place");
    assert_eq!(house.deliveries(endpoint).await[0].attempts, 2);
    drop(place);
    house.kit.advance(Duration::from_secs(60)).await;
    assert_eq!(house.kit.drain("webhook").await.succeeded.len(), 1);
    assert_eq!(told(&receiver, "late").len(), 3);
}

#[tokio::test]
async fn an_endpoints_hours_tell_what_became_of_its_attempts() {
    let house = House::new().await;
    let receiver = Receiver::start(|nth| Reply::status(if nth == 0 { 500 } else { 200 })).await;
    let endpoint = house.endpoint(&receiver, &[]).await;
    let start = house.kit.now();
    house.post("a", json!({})).await;
    house.post("a", json!({})).await;
    let _ = house.kit.drain("webhook").until(start + DAY).await;
    let mut tx = house.kit.tx().await;
    let stats = harkara_webhooks::endpoint_stats(&mut tx, endpoint, start)
        .await
        .unwrap();
    assert_eq!((stats.succeeded, stats.failed), (2, 1));
    assert!(stats.percentile(99).is_some());
    assert!(stats.last_success_at >= stats.last_failure_at);
}

#[tokio::test]
async fn an_endpoint_that_is_enabled_by_way_of_a_pause_begins_anew_too() {
    let house = House::new().await;
    let ill = Receiver::start(|_| Reply::status(500)).await;
    let endpoint = house.endpoint(&ill, &[]).await;
    let mut tx = house.kit.tx().await;
    harkara_shared::database::query(
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
        house.change(endpoint, change).await;
    }
    house.post("a", json!({})).await;
    let _ = house.kit.drain("webhook").await;
    let now = house.found(endpoint).await;
    assert_eq!((now.status, now.failures()), (EndpointStatus::Active, 1));
}
