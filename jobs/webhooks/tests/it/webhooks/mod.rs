//! Webhook endpoints, tested through deliveries: health, recovery, keys, tokens.

mod guard;
mod health;
mod keys;
mod redelivery;

use std::collections::BTreeMap;

use harkara_kit::{Kit, Receiver, Reply};
use harkara_queue::job::Trace;
use harkara_shared::id::EndpointId;
use harkara_webhooks::{
    self as webhooks, Delivery, DeliveryFilter, Endpoint, EndpointChange, NewEndpoint, NewEvent,
    Posted,
};
use serde_json::Value;
use serde_json::value::to_raw_value;

/// A tenant with endpoints under test.
struct Fixture {
    kit: Kit,
}

impl Fixture {
    async fn new() -> Self {
        Self {
            kit: Kit::start().await,
        }
    }

    /// Creates an endpoint at `receiver` that subscribes to these event types.
    async fn endpoint(&self, receiver: &Receiver, types: &[&str]) -> EndpointId {
        let rest = EndpointChange {
            event_types: Some(types.iter().map(|name| (*name).to_owned()).collect()),
            ..EndpointChange::default()
        };
        self.endpoint_with(receiver, rest).await
    }

    async fn endpoint_with(&self, receiver: &Receiver, rest: EndpointChange) -> EndpointId {
        let new = NewEndpoint {
            url: receiver.url.clone(),
            rest,
            secret: None,
        };
        let mut tx = self.kit.tx().await;
        let made = webhooks::create_endpoint(&mut tx, &self.kit.services.keys, new).await;
        tx.commit().await.unwrap();
        made.unwrap().0.id
    }

    async fn found(&self, id: EndpointId) -> Endpoint {
        let mut tx = self.kit.tx().await;
        webhooks::find_endpoint(&mut tx, id).await.unwrap().unwrap()
    }

    async fn change(&self, id: EndpointId, change: EndpointChange) {
        let services = &self.kit.services;
        let mut tx = self.kit.tx().await;
        let changed =
            webhooks::change_endpoint(&mut tx, &services.engine, &services.keys, id, change).await;
        assert!(changed.unwrap().is_some());
        tx.commit().await.unwrap();
    }

    async fn post(&self, event_type: &str, data: Value) -> Posted {
        let event = NewEvent::new(event_type, to_raw_value(&data).unwrap());
        let mut tx = self.kit.tx().await;
        let engine = &self.kit.services.engine;
        let posted = webhooks::post_event(&mut tx, engine, event, Trace::default()).await;
        tx.commit().await.unwrap();
        posted.unwrap()
    }

    /// Deliveries to an endpoint, oldest first.
    async fn deliveries(&self, endpoint: EndpointId) -> Vec<Delivery> {
        let filter = DeliveryFilter {
            endpoint_id: Some(endpoint),
            ..DeliveryFilter::default()
        };
        let mut tx = self.kit.tx().await;
        let page = webhooks::list_deliveries(&mut tx, &filter, None, 200).await;
        let mut found = page.unwrap().deliveries;
        tx.commit().await.unwrap();
        found.reverse();
        found
    }
}

/// The events of this type that a receiver got, oldest first.
fn events_received(receiver: &Receiver, event_type: &str) -> Vec<Value> {
    let bodies = receiver.hits();
    let events = bodies
        .iter()
        .map(|hit| serde_json::from_slice::<Value>(&hit.body).unwrap());
    events
        .filter(|event| event["type"] == event_type)
        .map(|event| event["data"].clone())
        .collect()
}

/// A receiver that responds with `status` until `healthy` is set, then with 200.
async fn failing_until_healthy(
    status: u16,
    healthy: &std::sync::Arc<std::sync::atomic::AtomicBool>,
) -> Receiver {
    let healthy = std::sync::Arc::clone(healthy);
    Receiver::start(move |_| {
        let is_healthy = healthy.load(std::sync::atomic::Ordering::SeqCst);
        Reply::status(if is_healthy { 200 } else { status })
    })
    .await
}

fn headers(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(pair).collect()
}
