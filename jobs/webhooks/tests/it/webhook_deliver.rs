//! `webhook.deliver`: the request to the receiver, and the outcome of the delivery.

use std::collections::BTreeMap;
use std::time::Duration;

use harkara_kit::{Kit, Perform, Receiver, Reply};
use harkara_queue::job::{JobState, Trace};
use harkara_shared::id::{DeliveryId, EndpointId, JobId};
use harkara_shared::signature::{TOLERANCE, WebhookSecret, verify};
use harkara_webhooks::kinds::webhook_deliver::WebhookDeliver;
use harkara_webhooks::{
    self as webhooks, Delivery, DeliveryAttempt, DeliveryState, EndpointChange, EndpointStatus,
    NewEndpoint, NewEvent, RetrySchedule,
};
use serde_json::json;
use serde_json::value::RawValue;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// One event with a pending delivery to one receiver.
struct Fixture {
    kit: Kit,
    receiver: Receiver,
    endpoint: EndpointId,
    secret: WebhookSecret,
    delivery: DeliveryId,
    job: JobId,
}

impl Fixture {
    async fn new(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let kit = Kit::start().await;
        let receiver = Receiver::start(script).await;
        let mut tx = kit.tx().await;
        let new = NewEndpoint {
            url: receiver.url.clone(),
            rest: EndpointChange {
                headers: Some(BTreeMap::from([(
                    "x-team".to_owned(),
                    "billing".to_owned(),
                )])),
                ..EndpointChange::default()
            },
            secret: None,
        };
        let made = webhooks::create_endpoint(&mut tx, &kit.services.keys, new).await;
        let (endpoint, secret) = made.unwrap();
        let data = RawValue::from_string(r#"{"b": 1.10,"a":2}"#.to_owned()).unwrap();
        let event = NewEvent {
            id: Some("evt-1".to_owned()),
            ..NewEvent::new("invoice.paid", data)
        };
        let engine = &kit.services.engine;
        let posted = webhooks::post_event(&mut tx, engine, event, Trace::default()).await;
        let posted = posted.unwrap().deliveries[0];
        tx.commit().await.unwrap();
        Self {
            endpoint: endpoint.id,
            secret,
            delivery: posted.id,
            job: posted.job_id.unwrap(),
            kit,
            receiver,
        }
    }

    async fn responding(status: u16) -> Self {
        Self::new(move |_| Reply::status(status)).await
    }

    fn perform(&self) -> Perform<'_> {
        let args = json!({"delivery_id": self.delivery});
        self.kit.perform::<WebhookDeliver>(args).id(self.job)
    }

    async fn delivery(&self) -> Delivery {
        let mut tx = self.kit.tx().await;
        let found = webhooks::find_delivery(&mut tx, self.delivery).await;
        tx.commit().await.unwrap();
        found.unwrap().unwrap()
    }

    async fn requests(&self) -> Vec<DeliveryAttempt> {
        let mut tx = self.kit.tx().await;
        let made = webhooks::delivery_attempts(&mut tx, self.delivery).await;
        made.unwrap().unwrap()
    }

    async fn set(&self, status: EndpointStatus) {
        let mut tx = self.kit.tx().await;
        let change = EndpointChange {
            status: Some(status),
            ..EndpointChange::default()
        };
        let engine = &self.kit.services.engine;
        webhooks::change_endpoint(
            &mut tx,
            engine,
            &self.kit.services.keys,
            self.endpoint,
            change,
        )
        .await
        .unwrap();
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn delivery_is_signed_with_the_time_of_its_attempt() {
    let fixture = Fixture::responding(204).await;
    fixture.kit.advance(DAY).await;
    let _ = fixture.perform().await.done();
    let hit = fixture.receiver.hits().pop().unwrap();
    let header = |name: &str| hit.headers[name].to_str().unwrap().to_owned();
    assert_eq!(header("webhook-id"), "evt-1");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("x-team"), "billing");
    let now = fixture.kit.now().timestamp();
    let timestamp: i64 = header("webhook-timestamp").parse().unwrap();
    assert_eq!(timestamp, now);
    let signature = header("webhook-signature");
    let verified = |at| {
        verify(
            &fixture.secret,
            "evt-1",
            timestamp,
            &signature,
            &hit.body,
            at,
            TOLERANCE,
        )
    };
    verified(now).unwrap();
    assert!(verified(now + 3600).is_err(), "a signature must expire");
    let body = String::from_utf8(hit.body.to_vec()).unwrap();
    assert!(body.contains(r#""data":{"b": 1.10,"a":2}"#), "{body}");
    assert!(body.contains(r#""type":"invoice.paid""#), "{body}");
}

#[tokio::test]
async fn every_unsuccessful_status_is_retried_and_recorded() {
    for status in [200, 202, 204, 301, 302, 400, 401, 404, 422, 429, 500, 503] {
        let fixture = Fixture::responding(status).await;
        let performed = fixture.perform().await;
        let code = format!("http_{status}");
        let (state, error) = match status {
            200..300 => {
                let _ = performed.done();
                (DeliveryState::Succeeded, None)
            }
            429 => {
                let failure = performed.rate_limited(&code);
                assert_eq!(failure.wait, Some(SECOND * 30));
                (DeliveryState::Pending, Some(code))
            }
            _ => {
                let wait = performed.retried(&code).wait.unwrap();
                let least = if status == 503 {
                    SECOND * 60
                } else {
                    SECOND * 5
                };
                assert!(
                    wait >= least && wait < least.mul_f64(1.1),
                    "{status}: {wait:?}"
                );
                (DeliveryState::Pending, Some(code))
            }
        };
        let delivery = fixture.delivery().await;
        assert_eq!((delivery.state, delivery.attempts), (state, 1), "{status}");
        let request = fixture.requests().await.pop().unwrap();
        assert_eq!(request.started_at, fixture.kit.now());
        assert_eq!(request.status_code, Some(status));
        assert!(request.response_body.is_some());
        assert_eq!(request.error.map(|error| error.code), error, "{status}");
    }
}

#[tokio::test]
async fn delivery_fails_with_its_last_failed_attempt() {
    let fixture = Fixture::responding(500).await;
    fixture
        .perform()
        .attempt(9)
        .of(10)
        .await
        .retried("http_500");
    assert!(fixture.delivery().await.finished_at.is_none());
    // The delivery's own row has the state; its job, which is still waiting, is not read.
    fixture
        .perform()
        .attempt(10)
        .of(10)
        .await
        .retried("http_500");
    let stored: String = harkara_shared::database::query_scalar(
        "select state from app.deliveries where finished_at is not null",
    )
    .fetch_one(&mut *fixture.kit.tx().await)
    .await
    .unwrap();
    assert_eq!(stored, "failed");
}

#[tokio::test]
async fn delivery_is_tried_for_75_hours_and_then_fails() {
    let fixture = Fixture::responding(500).await;
    let start = fixture.kit.now();
    let drained = fixture.kit.drain("webhook").until(start + DAY * 5).await;
    assert_eq!(
        (drained.retried.len(), drained.dead),
        (9, vec![fixture.job])
    );
    let delivery = fixture.delivery().await;
    assert_eq!(
        (delivery.state, delivery.attempts),
        (DeliveryState::Failed, 10)
    );
    let took = delivery.finished_at.unwrap() - start;
    let window = RetrySchedule::default().window();
    let took = took.to_std().unwrap();
    assert!(took >= window && took < window.mul_f64(1.1), "{took:?}");
    assert_eq!(fixture.receiver.hits().len(), 10);
}

#[tokio::test]
async fn retry_after_is_honored_without_using_an_attempt() {
    let fixture = Fixture::new(|nth| match nth {
        0 => Reply::status(503).header("retry-after", "3600"),
        _ => Reply::status(200),
    })
    .await;
    assert_eq!(
        fixture.kit.drain("webhook").await.rate_limited,
        [fixture.job]
    );
    let job = fixture.kit.job(fixture.job).await;
    assert_eq!(
        (job.attempt, job.run_at),
        (0, fixture.kit.now() + SECOND * 3600)
    );
    fixture.kit.advance(SECOND * 3600).await;
    assert_eq!(fixture.kit.drain("webhook").await.succeeded, [fixture.job]);
    assert_eq!(fixture.delivery().await.attempts, 2);
}

#[tokio::test]
async fn completed_delivery_is_not_repeated() {
    let fixture = Fixture::responding(200).await;
    let _ = fixture.perform().await.done();
    let _ = fixture.perform().attempt(2).await.done();
    assert_eq!(fixture.receiver.hits().len(), 1);
}

#[tokio::test]
async fn delivery_waits_for_a_paused_endpoint_and_skips_a_disabled_or_deleted_one() {
    let fixture = Fixture::responding(200).await;
    fixture.set(EndpointStatus::Paused).await;
    let failure = fixture.perform().await.snoozed("endpoint_paused");
    assert_eq!(failure.wait, Some(SECOND * 3600));
    assert_eq!(fixture.kit.drain("webhook").await.snoozed, [fixture.job]);
    fixture.set(EndpointStatus::Active).await;
    assert_eq!(fixture.kit.job(fixture.job).await.state, JobState::Ready);

    fixture.set(EndpointStatus::Disabled).await;
    let result = fixture.perform().await.done().result.unwrap();
    assert!(result["skipped"].is_string());
    assert_eq!(fixture.delivery().await.state, DeliveryState::Skipped);
    assert!(fixture.receiver.hits().is_empty());

    let fixture = Fixture::responding(200).await;
    let mut tx = fixture.kit.tx().await;
    assert!(
        webhooks::delete_endpoint(&mut tx, &fixture.kit.services.engine, fixture.endpoint)
            .await
            .unwrap()
    );
    tx.commit().await.unwrap();
    assert_eq!(fixture.kit.drain("webhook").await.succeeded, [fixture.job]);
    assert_eq!(fixture.delivery().await.state, DeliveryState::Skipped);
    assert!(fixture.receiver.hits().is_empty());
}

#[tokio::test]
async fn job_of_a_missing_delivery_is_dead() {
    let kit = Kit::start().await;
    let args = json!({"delivery_id": DeliveryId::new()});
    kit.perform::<WebhookDeliver>(args)
        .await
        .dead("delivery_not_found");
}

#[tokio::test]
async fn slow_receiver_times_out_and_is_recorded_before_the_job_timeout() {
    let fixture = Fixture::new(|_| Reply {
        after: SECOND * 600,
        ..Reply::status(200)
    })
    .await;
    let run = fixture.perform().timeout(Duration::from_millis(400)).await;
    run.retried("egress_timeout");
    let request = fixture.requests().await.pop().unwrap();
    assert_eq!((request.status_code, request.response_body), (None, None));
    assert_eq!(request.error.unwrap().code, "egress_timeout");
}

#[tokio::test]
async fn first_16_kib_of_a_response_are_kept() {
    let fixture = Fixture::new(|_| Reply::status(500).body("x".repeat(1 << 20))).await;
    fixture.perform().await.retried("http_500");
    let request = fixture.requests().await.pop().unwrap();
    assert_eq!(request.response_body.unwrap().len(), 16 * 1024);
}

#[tokio::test]
async fn foreign_delivery_is_not_found() {
    let mut fixture = Fixture::responding(200).await;
    fixture.kit.tenant = fixture.kit.new_tenant("other").await;
    fixture.perform().await.dead("delivery_not_found");
    assert!(fixture.receiver.hits().is_empty());
}
