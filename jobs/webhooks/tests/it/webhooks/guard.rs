//! Forbidden addresses: the delivery is not sent and not retried.

use harkara_kit::{Receiver, Reply};
use harkara_shared::id::EndpointId;
use harkara_webhooks::{self as webhooks, DeliveryState, NewEndpoint};
use serde_json::json;

use super::Fixture;

impl Fixture {
    /// Creates an endpoint at a URL that the API would refuse.
    async fn endpoint_at(&self, url: &str) -> EndpointId {
        let new = NewEndpoint {
            url: url.to_owned(),
            ..NewEndpoint::default()
        };
        let mut tx = self.kit.tx().await;
        let made = webhooks::create_endpoint(&mut tx, &self.kit.services.keys, new).await;
        tx.commit().await.unwrap();
        made.unwrap().0.id
    }

    /// Posts an event to an endpoint and returns the error code of its only attempt.
    async fn only_attempt(&self, endpoint: EndpointId) -> String {
        self.post("a", json!({})).await;
        let drained = self.kit.drain("webhook").await;
        assert_eq!((drained.dead.len(), drained.retried.len()), (1, 0));
        let delivery = self.deliveries(endpoint).await.remove(0);
        assert_eq!(delivery.state, DeliveryState::Failed);
        let mut tx = self.kit.tx().await;
        let attempts = webhooks::delivery_attempts(&mut tx, delivery.id).await;
        let mut attempts = attempts.unwrap().unwrap();
        assert_eq!(attempts.len(), 1);
        attempts.remove(0).error.unwrap().code
    }
}

#[tokio::test]
async fn forbidden_address_ends_the_delivery_at_once() {
    for url in [
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://user:password@example.com/",
        "https://8.8.8.8:22/",
        "http://8.8.8.8/",
        "ftp://example.com/",
    ] {
        let fixture = Fixture::new().await;
        let endpoint = fixture.endpoint_at(url).await;
        let code = fixture.only_attempt(endpoint).await;
        assert!(
            code == "egress_refused" || code == "egress_invalid_url",
            "{url}: {code}"
        );
    }
}

#[tokio::test]
async fn redirect_to_a_forbidden_address_is_not_followed_and_ends_the_delivery() {
    for target in [
        "https://169.254.169.254/latest",
        "//10.0.0.1/",
        "http://[::1]:22/",
    ] {
        let fixture = Fixture::new().await;
        let receiver =
            Receiver::start(move |_| Reply::status(302).header("location", target)).await;
        let endpoint = fixture.endpoint(&receiver, &[]).await;
        assert_eq!(
            fixture.only_attempt(endpoint).await,
            "egress_refused",
            "{target}"
        );
        assert_eq!(receiver.hits().len(), 1);
    }
}

#[tokio::test]
async fn other_redirects_are_retryable_failures() {
    let fixture = Fixture::new().await;
    let receiver = Receiver::start(|_| Reply::status(301).header("location", "/elsewhere")).await;
    fixture.endpoint(&receiver, &[]).await;
    fixture.post("a", json!({})).await;
    assert_eq!(fixture.kit.drain("webhook").await.retried.len(), 1);
    assert!(receiver.hits().iter().all(|hit| hit.path != "/elsewhere"));
}
