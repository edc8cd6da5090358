//! Ordered delivery of webhooks through real processes.

use std::collections::HashMap;
use std::time::Duration;

use harkara_tests::{Fixture, Receiver, Reply, until};
use serde_json::{Value, json};

const EVENTS: usize = 1000;
const KEYS: usize = 10;

/// Whether the nth request fails: about one in forty, at irregular positions.
fn fails(nth: usize) -> bool {
    let mixed = (nth as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).is_multiple_of(41)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_in_order_per_key_despite_early_failures() {
    let receiver = Receiver::start(|nth| Reply::status(if fails(nth) { 500 } else { 200 })).await;
    let fixture = Fixture::start().await;
    let (_worker, _) = fixture.platform.worker("webhook=32", 30, 5);
    let endpoint = json!({
        "url": receiver.url, "ordering": "fifo", "retry_schedule": vec!["1s"; 20],
    });
    fixture
        .client
        .post("/v1/webhook-endpoints", &endpoint)
        .await
        .ok();
    for nth in 0..EVENTS {
        let event = json!({
            "type": "order.moved", "data": {"nth": nth / KEYS, "key": nth % KEYS},
            "ordering_key": format!("order-{}", nth % KEYS),
        });
        fixture.client.post("/v1/events", &event).await.ok();
    }
    let patience = Duration::from_secs(240);
    let arrived = until("all deliveries have arrived", patience, async || {
        let hits = receiver.hits();
        let taken = hits.iter().enumerate().filter(|(nth, _)| !fails(*nth));
        let bodies: Vec<Value> = taken
            .map(|(_, hit)| serde_json::from_slice(&hit.body).unwrap())
            .collect();
        (bodies.len() >= EVENTS).then_some(bodies)
    })
    .await;
    assert!(
        (0..arrived.len()).filter(|nth| fails(*nth)).count() > 10,
        "some failed"
    );
    let mut last: HashMap<u64, u64> = HashMap::new();
    for event in &arrived {
        let (key, nth) = (&event["data"]["key"], &event["data"]["nth"]);
        let (key, nth) = (key.as_u64().unwrap(), nth.as_u64().unwrap());
        let expected = last.get(&key).map_or(0, |last| last + 1);
        assert_eq!(nth, expected, "of key {key}");
        last.insert(key, nth);
    }
    assert_eq!(last.len(), KEYS);
}
