//! Keys that replace each other, tokens, and what of a request is shown.

use std::time::Duration;

use harkara_kit::{Receiver, Reply};
use harkara_queue::settings::Change;
use harkara_shared::id::EndpointId;
use harkara_shared::signature::{
    Ed25519Key, Ed25519PublicKey, SigningKey, TOLERANCE, WebhookSecret, verify,
};
use harkara_webhooks::{
    self as webhooks, EndpointChange, Error, NewOAuth2, current_keys, rotate_key,
};
use serde_json::json;

use super::{House, headers};

const HOUR: Duration = Duration::from_secs(3600);

impl House {
    async fn rotate(&self, id: EndpointId, key: &SigningKey, grace: Duration) -> Result<(), Error> {
        let mut tx = self.kit.tx().await;
        let done = rotate_key(&mut tx, &self.kit.services.keys, id, key, grace).await?;
        assert!(done);
        tx.commit().await.unwrap();
        Ok(())
    }
}

/// Who of them verifies the latest delivery.
fn verifiers(house: &House, receiver: &Receiver, secrets: &[&WebhookSecret]) -> Vec<bool> {
    let hit = receiver.hits().pop().unwrap();
    let header = |name: &str| hit.headers[name].to_str().unwrap().to_owned();
    let at = header("webhook-timestamp").parse().unwrap();
    let (id, signature, now) = (
        header("webhook-id"),
        header("webhook-signature"),
        house.kit.now().timestamp(),
    );
    secrets
        .iter()
        .map(|secret| verify(*secret, &id, at, &signature, &hit.body, now, TOLERANCE).is_ok())
        .collect()
}

#[tokio::test]
async fn a_replaced_secret_signs_along_for_its_grace_and_no_longer() {
    let house = House::new().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let endpoint = house.endpoint(&receiver, &[]).await;
    let [first, second, third] = std::array::from_fn(|_| WebhookSecret::generate());
    let deliver = async || {
        house.post("a", json!({})).await;
        let _ = house.kit.drain("webhook").await;
        verifiers(&house, &receiver, &[&first, &second, &third])
    };
    house
        .rotate(endpoint, &first.clone().into(), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(deliver().await, [true, false, false]);
    house
        .rotate(endpoint, &second.clone().into(), HOUR)
        .await
        .unwrap();
    assert_eq!(deliver().await, [true, true, false]);
    let signatures = receiver.hits().pop().unwrap().headers["webhook-signature"].clone();
    assert_eq!(signatures.to_str().unwrap().split(' ').count(), 2);
    house.kit.advance(HOUR).await;
    assert_eq!(deliver().await, [false, true, false]);
    // Without a grace nobody signs along, not even who still might.
    house
        .rotate(endpoint, &first.clone().into(), HOUR * 24)
        .await
        .unwrap();
    house
        .rotate(endpoint, &third.clone().into(), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(deliver().await, [false, false, true]);
}

#[tokio::test]
async fn ten_replaced_secrets_sign_along_and_no_more() {
    let house = House::new().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let endpoint = house.endpoint(&receiver, &[]).await;
    for _ in 0..10 {
        house
            .rotate(endpoint, &WebhookSecret::generate().into(), HOUR)
            .await
            .unwrap();
    }
    let one_more = house
        .rotate(endpoint, &WebhookSecret::generate().into(), HOUR)
        .await;
    assert!(matches!(one_more, Err(Error::Conflict(_))));
    house
        .rotate(endpoint, &WebhookSecret::generate().into(), Duration::ZERO)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_endpoint_with_a_key_pair_gets_both_signatures() {
    let house = House::new().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let endpoint = house.endpoint(&receiver, &[]).await;
    let pair = SigningKey::from(Ed25519Key::generate());
    house.rotate(endpoint, &pair, HOUR).await.unwrap();
    let shown = house.found(endpoint).await.public_key;
    assert_eq!(shown, pair.public());

    house.post("a", json!({})).await;
    let _ = house.kit.drain("webhook").await;
    let hit = receiver.hits().pop().unwrap();
    let header = |name: &str| hit.headers[name].to_str().unwrap().to_owned();
    let (at, now) = (
        header("webhook-timestamp").parse().unwrap(),
        house.kit.now().timestamp(),
    );
    let signature = header("webhook-signature");
    let public = Ed25519PublicKey::parse(&shown.unwrap()).unwrap();
    verify(
        &public,
        &header("webhook-id"),
        at,
        &signature,
        &hit.body,
        now,
        TOLERANCE,
    )
    .unwrap();
    let mut tx = house.kit.tx().await;
    let keys = current_keys(&mut tx, &house.kit.services.keys, endpoint)
        .await
        .unwrap();
    let secret = WebhookSecret::parse(&keys[0].expose()).unwrap();
    assert_eq!(verifiers(&house, &receiver, &[&secret]), [true]);
}

#[tokio::test]
async fn an_endpoint_that_wants_a_token_gets_one_that_is_asked_for_once() {
    let house = House::new().await;
    let tokens = Receiver::start(|nth| {
        let token =
            json!({"access_token": format!("t{nth}"), "token_type": "bearer", "expires_in": 600});
        Reply::status(200)
            .header("content-type", "application/json")
            .body(token.to_string())
    })
    .await;
    let receiver = Receiver::start(|nth| Reply::status(if nth == 3 { 401 } else { 200 })).await;
    let rest = EndpointChange {
        oauth2: Change::Set(NewOAuth2 {
            token_url: tokens.url.clone(),
            client_id: "har:kara".to_owned(),
            client_secret: "s ecret".to_owned(),
            scope: Some("hooks".to_owned()),
            audience: None,
        }),
        ..EndpointChange::default()
    };
    house.endpoint_with(&receiver, rest).await;
    for _ in 0..3 {
        house.post("a", json!({})).await;
    }
    let _ = house.kit.drain("webhook").await;
    let used = |receiver: &Receiver| -> Vec<String> {
        let header =
            |hit: harkara_kit::Hit| hit.headers["authorization"].to_str().unwrap().to_owned();
        receiver.hits().into_iter().map(header).collect()
    };
    assert_eq!(used(&receiver), ["Bearer t0"; 3]);
    let asked = tokens.hits().pop().unwrap();
    assert_eq!(asked.body, "grant_type=client_credentials&scope=hooks");
    // `har%3Akara:s+ecret` (RFC 6749 §2.3.1).
    assert_eq!(
        asked.headers["authorization"],
        "Basic aGFyJTNBa2FyYTpzK2VjcmV0"
    );

    // One that is not taken any more is asked for anew.
    house.post("a", json!({})).await;
    let start = house.kit.now();
    let _ = house.kit.drain("webhook").until(start + HOUR).await;
    assert_eq!(used(&receiver)[3..], ["Bearer t0", "Bearer t1"]);
}

#[tokio::test]
async fn without_a_token_nothing_is_sent_and_it_is_tried_again() {
    let house = House::new().await;
    let tokens = Receiver::start(|_| Reply::status(500)).await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let rest = EndpointChange {
        oauth2: Change::Set(NewOAuth2 {
            token_url: tokens.url.clone(),
            client_id: "a".to_owned(),
            client_secret: "b".to_owned(),
            scope: None,
            audience: None,
        }),
        ..EndpointChange::default()
    };
    let endpoint = house.endpoint_with(&receiver, rest).await;
    let delivery = house.post("a", json!({})).await.deliveries[0];
    assert_eq!(house.kit.drain("webhook").await.retried.len(), 1);
    assert!(receiver.hits().is_empty());
    let mut tx = house.kit.tx().await;
    let attempts = webhooks::delivery_attempts(&mut tx, delivery.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(attempts[0].error.as_ref().unwrap().code, "oauth2_token");
    assert_eq!(house.found(endpoint).await.failures(), 1);
}

#[tokio::test]
async fn a_request_is_shown_with_its_body_and_without_secrets() {
    let house = House::new().await;
    let receiver = Receiver::start(|_| {
        Reply::status(200)
            .header("set-cookie", "session=secret")
            .header("x-served-by", "node 7")
    })
    .await;
    let rest = EndpointChange {
        headers: Some(headers(&[("x-api-key", "hidden")])),
        ..EndpointChange::default()
    };
    house.endpoint_with(&receiver, rest).await;
    let posted = house.post("invoice.paid", json!({"amount": 12})).await;
    let _ = house.kit.drain("webhook").await;
    let mut tx = house.kit.tx().await;
    let attempts = webhooks::delivery_attempts(&mut tx, posted.deliveries[0].id).await;
    let attempt = attempts.unwrap().unwrap().remove(0);
    let request = attempt.request.clone().unwrap();
    let hit = receiver.hits().pop().unwrap();
    assert_eq!(request.body.as_deref().unwrap().as_bytes(), hit.body);
    assert_eq!(request.url, receiver.url);
    for name in ["webhook-id", "webhook-timestamp", "content-type"] {
        assert_eq!(
            request.headers[name],
            hit.headers[name].to_str().unwrap(),
            "{name}"
        );
    }
    assert_eq!(request.headers["x-api-key"], "redacted");
    assert_eq!(request.headers["webhook-signature"], "redacted");
    assert_eq!(attempt.response_headers["x-served-by"], "node 7");
    assert_eq!(attempt.response_headers["set-cookie"], "redacted");
    assert_eq!(attempt.address.as_deref(), Some("127.0.0.1"));
}
