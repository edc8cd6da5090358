//! The demonstration at the first start: one event, delivered to a local receiver that verifies it.
//!
//! A failed demonstration does not stop the platform.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use harkara_accounts as accounts;
use harkara_queue::Engine;
use harkara_shared::database::TenantTx;
use harkara_shared::signature::{TOLERANCE, WebhookSecret, verify};
use harkara_webhooks::{self as webhooks, lane};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::{Notify, OnceCell};
use tokio_util::sync::CancellationToken;

use crate::output::say;

/// Path of the receiver; also identifies endpoints of earlier runs.
const PATH: &str = "/harkara-demo";

/// How long the demonstration waits for its delivery.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// A receiver that verifies deliveries.
#[derive(Default)]
struct Receiver {
    secret: OnceCell<WebhookSecret>,
    verified: Notify,
}

/// Runs the demonstration. Its receiver listens until `stop`; its endpoint exists until
/// [`remove_endpoints`].
///
/// # Errors
/// When the event is not delivered and verified.
pub(super) async fn show(
    base: &str,
    key: &str,
    pool: &PgPool,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    remove_endpoints(pool).await?;
    let receiver = Arc::new(Receiver::default());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}{PATH}", listener.local_addr()?);
    let routes = Router::new()
        .route(PATH, post(receive))
        .with_state(Arc::clone(&receiver));
    tokio::spawn(async move {
        let until = stop.cancelled_owned();
        axum::serve(listener, routes)
            .with_graceful_shutdown(until)
            .await
    });
    say(&format!("  demo       1. a receiver listens on {url}"));

    let client = Client::new(base, key)?;
    let endpoint = client
        .post(
            "/v1/webhook-endpoints",
            &json!({"url": url, "event_types": ["demo.*"]}),
        )
        .await?;
    let secret = text(&endpoint, "secret")?;
    receiver.secret.set(WebhookSecret::parse(secret)?).ok();
    say(&format!(
        "             2. an endpoint for demo.* is created: {}",
        text(&endpoint, "id")?
    ));

    let event = client
        .post(
            "/v1/events",
            &json!({"type": "demo.started", "data": {"hello": "world"}}),
        )
        .await?;
    let delivery = event
        .pointer("/deliveries/0/id")
        .and_then(Value::as_str)
        .context("the event created no delivery")?;
    say(&format!(
        "             3. an event is posted: {}",
        text(&event, "id")?
    ));

    tokio::time::timeout(DELIVERY_TIMEOUT, receiver.verified.notified())
        .await
        .context("the demonstration's delivery did not arrive within 30 s")?;
    let attempt = client.first_attempt(delivery).await?;
    say(&format!(
        "             4. {delivery} is delivered and verified: status {}, {} ms\n",
        attempt.get("status_code").unwrap_or(&Value::Null),
        attempt.get("duration_ms").unwrap_or(&Value::Null),
    ));
    Ok(())
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let parts = (
        header("webhook-id"),
        header("webhook-timestamp"),
        header("webhook-signature"),
    );
    let (Some(id), Some(timestamp), Some(signature)) = parts else {
        return StatusCode::BAD_REQUEST;
    };
    let (Some(secret), Ok(timestamp)) = (receiver.secret.get(), timestamp.parse()) else {
        return StatusCode::BAD_REQUEST;
    };
    let now = harkara_shared::clock::now().timestamp();
    match verify(secret, id, timestamp, signature, &body, now, TOLERANCE) {
        Ok(()) => {
            receiver.verified.notify_one();
            StatusCode::OK
        }
        Err(_) => StatusCode::UNAUTHORIZED,
    }
}

/// Removes the endpoints of this and earlier demonstrations.
///
/// # Errors
/// When the database fails.
pub(super) async fn remove_endpoints(pool: &PgPool) -> anyhow::Result<()> {
    let Some(tenant) = accounts::find_tenant(pool, "demo").await? else {
        return Ok(());
    };
    let engine = Engine::new(pool.clone(), true);
    let mut removed = Vec::new();
    let mut tx = TenantTx::begin(pool, tenant.id).await?;
    for endpoint in webhooks::list_endpoints(&mut tx, None, 200).await? {
        if endpoint.url.starts_with("http://127.0.0.1:") && endpoint.url.ends_with(PATH) {
            webhooks::delete_endpoint(&mut tx, &engine, endpoint.id).await?;
            removed.push(endpoint);
        }
    }
    tx.commit().await?;
    for endpoint in removed {
        lane::remove_limits(&engine, tenant.id, endpoint.id, endpoint.ordering).await?;
    }
    Ok(())
}

/// A client of the API.
struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Client {
    fn new(base: &str, key: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(harkara_shared::egress::client_config()?)
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self {
            http,
            base: base.to_owned(),
            key: key.to_owned(),
        })
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/json")
            .body(body.to_string());
        self.send(request).await
    }

    /// The delivery's first attempt, once recorded, which happens after the receiver's response.
    async fn first_attempt(&self, delivery: &str) -> anyhow::Result<Value> {
        let started = tokio::time::Instant::now();
        loop {
            let path = format!("{}/v1/deliveries/{delivery}/attempts", self.base);
            let response = self.send(self.http.get(path)).await?;
            if let Some(attempt) = response.pointer("/data/0") {
                return Ok(attempt.clone());
            }
            ensure!(
                started.elapsed() < DELIVERY_TIMEOUT,
                "the delivery's attempt was not recorded"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let answer = request.bearer_auth(&self.key).send().await?;
        let (status, body) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "the API returned {status}: {body}");
        Ok(serde_json::from_str(&body)?)
    }
}

fn text<'a>(value: &'a Value, member: &str) -> anyhow::Result<&'a str> {
    value
        .get(member)
        .and_then(Value::as_str)
        .with_context(|| format!("the API's response has no `{member}`"))
}
