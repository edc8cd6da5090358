//! Key rotation, tokens, and the recorded requests.

use std::time::Duration;

use harkara_kit::{Receiver, Reply};
use harkara_queue::settings::Change;
use harkara_shared::id::EndpointId;
use harkara_shared::signature::{
    Ed25519Key, Ed25519PublicKey, SigningKey, TOLERANCE, WebhookSecret, verify,
};
use harkara_webhooks::{
    self as webhooks, EndpointChange, Error, NewOAuth2, current_signing_keys, rotate_signing_key,
};
use serde_json::json;

use super::{Fixture, headers};

const HOUR: Duration = Duration::from_secs(3600);

impl Fixture {
    async fn rotate(&self, id: EndpointId, key: &SigningKey, grace: Duration) -> Result<(), Error> {
        let mut tx = self.kit.tx().await;
        let done = rotate_signing_key(&mut tx, &self.kit.services.keys, id, key, grace).await?;
        assert!(done);
        tx.commit().await.unwrap();
        Ok(())
    }
}

/// Which of these secrets verify the latest delivery.
fn verifiers(fixture: &Fixture, receiver: &Receiver, secrets: &[&WebhookSecret]) -> Vec<bool> {
    let hit = receiver.hits().pop().unwrap();
    let header = |name: &str| hit.headers[name].to_str().unwrap().to_owned();
    let at = header("webhook-timestamp").parse().unwrap();
    let (id, signature, now) = (
        header("webhook-id"),
        header("webhook-signature"),
        fixture.kit.now().timestamp(),
    );
    secrets
        .iter()
        .map(|secret| verify(*secret, &id, at, &signature, &hit.body, now, TOLERANCE).is_ok())
        .collect()
}

#[tokio::test]
async fn replaced_secret_also_signs_until_its_grace_ends() {
    let fixture = Fixture::new().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let endpoint = fixture.endpoint(&receiver, &[]).await;
    let [first, second, third] = std::array::from_fn(|_| WebhookSecret::generate());
    let deliver = async || {
        fixture.post("a", json!({})).await;
        let _ = fixture.kit.drain("webhook").await;
        verifiers(&fixture, &receiver, &[&first, &second, &third])
    };
    fixture
        .rotate(endpoint, &first.clone().into(), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(deliver().await, [true, false, false]);
    fixture
        .rotate(endpoint, &second.clone().into(), HOUR)
        .await
        .unwrap();
    assert_eq!(deliver().await, [true, true, false]);
    let signatures = receiver.hits().pop().unwrap().headers["webhook-signature"].clone();
    assert_eq!(signatures.to_str().unwrap().split(' ').count(), 2);
    fixture.kit.advance(HOUR).await;
    assert_eq!(deliver().await, [false, true, false]);
    // Without a grace period no earlier secret signs, even one whose grace has not ended.
    fixture
        .rotate(endpoint, &first.clone().into(), HOUR * 24)
        .await
        .unwrap();
    fixture
        .rotate(endpoint, &third.clone().into(), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(deliver().await, [false, false, true]);
}

#[tokio::test]
async fn at_most_ten_replaced_secrets_also_sign() {
    let fixture = Fixture::new().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let endpoint = fixture.endpoint(&receiver, &[]).await;
    for _ in 0..10 {
        fixture
            .rotate(endpoint, &WebhookSecret::generate().into(), HOUR)
            .await
            .unwrap();
    }
    let one_more = fixture
        .rotate(endpoint, &WebhookSecret::generate().into(), HOUR)
        .await;
    assert!(matches!(one_more, Err(Error::Conflict(_))));
    fixture
        .rotate(endpoint, &WebhookSecret::generate().into(), Duration::ZERO)
        .await
        .unwrap();
}

#[tokio::test]
async fn endpoint_with_a_key_pair_gets_both_signatures() {
    let fixture = Fixture::new().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let endpoint = fixture.endpoint(&receiver, &[]).await;
    let pair = SigningKey::from(Ed25519Key::generate());
    fixture.rotate(endpoint, &pair, HOUR).await.unwrap();
    let shown = fixture.found(endpoint).await.public_key;
    assert_eq!(shown, pair.public());

    fixture.post("a", json!({})).await;
    let _ = fixture.kit.drain("webhook").await;
    let hit = receiver.hits().pop().unwrap();
    let header = |name: &str| hit.headers[name].to_str().unwrap().to_owned();
    let (at, now) = (
        header("webhook-timestamp").parse().unwrap(),
        fixture.kit.now().timestamp(),
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
    let mut tx = fixture.kit.tx().await;
    let keys = current_signing_keys(&mut tx, &fixture.kit.services.keys, endpoint)
        .await
        .unwrap();
    let secret = WebhookSecret::parse(&keys[0].expose()).unwrap();
    assert_eq!(verifiers(&fixture, &receiver, &[&secret]), [true]);
}

#[tokio::test]
async fn endpoint_token_is_requested_once_and_reused() {
    let fixture = Fixture::new().await;
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
    fixture.endpoint_with(&receiver, rest).await;
    for _ in 0..3 {
        fixture.post("a", json!({})).await;
    }
    let _ = fixture.kit.drain("webhook").await;
    let used = |receiver: &Receiver| -> Vec<String> {
        let header =
            |hit: harkara_kit::Hit| hit.headers["authorization"].to_str().unwrap().to_owned();
        receiver.hits().into_iter().map(header).collect()
    };
    assert_eq!(used(&receiver), ["Bearer t0"; 3]);
    let token_request = tokens.hits().pop().unwrap();
    assert_eq!(
        token_request.body,
        "grant_type=client_credentials&scope=hooks"
    );
    // `har%3Akara:s+ecret` (RFC 6749 §2.3.1).
    assert_eq!(
        token_request.headers["authorization"],
        "Basic aGFyJTNBa2FyYTpzK2VjcmV0"
    );

    // A rejected token is requested again.
    fixture.post("a", json!({})).await;
    let start = fixture.kit.now();
    let _ = fixture.kit.drain("webhook").until(start + HOUR).await;
    assert_eq!(used(&receiver)[3..], ["Bearer t0", "Bearer t1"]);
}

#[tokio::test]
async fn delivery_without_its_token_sends_nothing_and_is_retried() {
    let fixture = Fixture::new().await;
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
    let endpoint = fixture.endpoint_with(&receiver, rest).await;
    let delivery = fixture.post("a", json!({})).await.deliveries[0];
    assert_eq!(fixture.kit.drain("webhook").await.retried.len(), 1);
    assert!(receiver.hits().is_empty());
    let mut tx = fixture.kit.tx().await;
    let attempts = webhooks::delivery_attempts(&mut tx, delivery.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(attempts[0].error.as_ref().unwrap().code, "oauth2_token");
    assert_eq!(fixture.found(endpoint).await.failures(), 1);
}

#[tokio::test]
async fn recorded_request_shows_its_body_and_no_secrets() {
    let fixture = Fixture::new().await;
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
    fixture.endpoint_with(&receiver, rest).await;
    let posted = fixture.post("invoice.paid", json!({"amount": 12})).await;
    let _ = fixture.kit.drain("webhook").await;
    let mut tx = fixture.kit.tx().await;
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
