//! Room: the kind `webhook.deliver`: one event to one endpoint, as Standard Webhooks 1.0.0 says.
//! Takes: a delivery's id. Gives: a signed POST, and a record of how it went.
//! Never: takes anything but 2xx for success, follows a redirect, or decides about retries.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use harkara_queue::job::JobError;
use harkara_queue::{Run, Verdict};
use harkara_shared::backoff::{Backoff, Jitter};
use harkara_shared::database::{TenantTx, is_unavailable};
use harkara_shared::egress::{EgressError, EgressRequest, EgressResponse};
use harkara_shared::id::DeliveryId;
use harkara_shared::signature::{WebhookSecret, sign_all};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::catalogue::JobKind;
use crate::kinds::database_verdict;
use crate::kinds::http_request::{
    call_timeout, failed_call, judge_failure, tenant_headers, trace_headers,
};
use crate::services::Services;
use crate::webhook::{self, DeliveryState, EndpointStatus, Envoy, FinishedAttempt};

/// Bytes of the answer kept with the attempt.
const KEPT_BODY: usize = 16 * 1024;

/// How often a paused endpoint is looked at again. It goes on by itself when it is made active; a job
/// may be put off so for forty days.
const PAUSE: Duration = Duration::from_secs(60 * 60);

/// - Changes: the delivery's state and its attempts.
/// - Twice: the receiver sees the same `webhook-id`, which the standard makes the idempotency key.
/// - Calls: the endpoint's URL, through the egress rules.
/// - Dead: the delivery is failed; when the receiver is mended, retry the job.
#[derive(Debug)]
pub struct WebhookDeliver;

/// Payload of `webhook.deliver`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// The delivery, made together with its event.
    #[schema(value_type = String, pattern = "^dlv_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    pub delivery_id: DeliveryId,
}

impl JobKind for WebhookDeliver {
    const KIND: &'static str = "webhook.deliver";
    const QUEUE: &'static str = "webhook";
    const MAX_ATTEMPTS: u16 = 10;
    const TIMEOUT: Duration = Duration::from_secs(20);
    type Args = Args;

    /// 5 s, 25 s, 2 min, 10 min, 52 min, 4 h, 22 h, 24 h, 24 h: about three days in all.
    fn backoff() -> Backoff {
        Backoff {
            base: Duration::from_secs(5),
            factor: 5.0,
            max: Duration::from_secs(24 * 60 * 60),
            jitter: Jitter::Equal,
        }
    }

    async fn run(args: Args, run: Run, services: Arc<Services>) -> Verdict {
        match deliver(args.delivery_id, &run, &services).await {
            Ok(verdict) => verdict,
            Err(webhook::Error::Database(error)) => database_verdict(&error),
            Err(error) => Verdict::retry(JobError::new("webhook", error.to_string()), None),
        }
    }
}

async fn deliver(
    id: DeliveryId,
    run: &Run,
    services: &Services,
) -> Result<Verdict, webhook::Error> {
    let mut tx = TenantTx::begin(&services.pool, run.job.tenant).await?;
    let envoy = webhook::envoy(&mut tx, &services.keys, id).await?;
    tx.commit().await?;
    let Some(envoy) = envoy else {
        let error = JobError::new("delivery_not_found", format!("there is no delivery {id}"));
        return Ok(Verdict::Dead { error });
    };
    if envoy.state == DeliveryState::Succeeded {
        // A run before this one made the delivery, and its outcome was lost.
        return Ok(Verdict::done());
    }
    match envoy.status {
        Some(EndpointStatus::Active) => {}
        Some(EndpointStatus::Paused) => {
            let reason = JobError::new("endpoint_paused", "the endpoint is paused");
            return Ok(Verdict::Snooze {
                wait: PAUSE,
                reason,
            });
        }
        Some(EndpointStatus::Disabled) | None => {
            let mut tx = TenantTx::begin(&services.pool, run.job.tenant).await?;
            webhook::skip(&mut tx, id).await?;
            tx.commit().await?;
            let result =
                Some(serde_json::json!({"skipped": "the endpoint is disabled or deleted"}));
            return Ok(Verdict::Done {
                result,
                then: Vec::new(),
            });
        }
    }

    let started_at = harkara_shared::clock::now();
    let answer = match request(&envoy, started_at, run) {
        Ok((headers, body)) => {
            let request = EgressRequest {
                method: Method::POST,
                url: &envoy.url,
                headers,
                body,
                timeout: call_timeout(run),
            };
            services.egress.send(request).await
        }
        Err(error) => return Ok(Verdict::Dead { error }),
    };
    let verdict = match &answer {
        Ok(answer) if answer.status.is_success() => Verdict::done(),
        // Receivers under repair answer 401, 404 and the like for a while: every status but
        // success is tried again on schedule.
        Ok(answer) => judge_failure(answer, true),
        Err(error) => failed_call(error),
    };
    let attempt = attempt(started_at, &answer, &verdict);
    record(id, &attempt, fate(&verdict, run), run, services).await?;
    Ok(verdict)
}

/// Records the request. The receiver has seen it, so a database that is away for a moment is waited
/// for, within what the call leaves of the job's time: giving up has the request made again.
async fn record(
    id: DeliveryId,
    attempt: &FinishedAttempt,
    fate: Option<DeliveryState>,
    run: &Run,
    services: &Services,
) -> Result<(), webhook::Error> {
    let write = || async {
        let mut tx = TenantTx::begin(&services.pool, run.job.tenant).await?;
        webhook::record(&mut tx, id, attempt, fate).await?;
        tx.commit().await?;
        Ok::<(), webhook::Error>(())
    };
    let patience = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_max_times(6);
    write
        .retry(patience)
        .when(|error| matches!(error, webhook::Error::Database(error) if is_unavailable(error)))
        .await
}

/// What the delivery becomes, as far as this run knows; `None` while it goes on.
fn fate(verdict: &Verdict, run: &Run) -> Option<DeliveryState> {
    match verdict {
        Verdict::Done { .. } => Some(DeliveryState::Succeeded),
        Verdict::Dead { .. } => Some(DeliveryState::Failed),
        Verdict::Retry { .. } if run.job.is_last_attempt() => Some(DeliveryState::Failed),
        _ => None,
    }
}

fn attempt(
    started_at: DateTime<Utc>,
    answer: &Result<EgressResponse, EgressError>,
    verdict: &Verdict,
) -> FinishedAttempt {
    let duration = match answer {
        Ok(answer) => answer.duration,
        Err(_) => (harkara_shared::clock::now() - started_at)
            .to_std()
            .unwrap_or_default(),
    };
    let error = match verdict {
        Verdict::Retry { error, .. } | Verdict::Dead { error } => Some(error.clone()),
        Verdict::RateLimited { reason, .. } | Verdict::Snooze { reason, .. } => {
            Some(reason.clone())
        }
        Verdict::Done { .. } | Verdict::Cancelled | Verdict::Yield { .. } => None,
    };
    FinishedAttempt {
        started_at,
        duration,
        status_code: answer.as_ref().ok().map(|answer| answer.status.as_u16()),
        response_body: answer
            .as_ref()
            .ok()
            .map(|answer| answer.body_text(KEPT_BODY)),
        error,
    }
}

#[derive(Serialize)]
struct Message<'a> {
    r#type: &'a str,
    timestamp: DateTime<Utc>,
    data: &'a RawValue,
}

/// Headers and body of the request. The body's bytes are the ones that are signed.
fn request(envoy: &Envoy, now: DateTime<Utc>, run: &Run) -> Result<(HeaderMap, Bytes), JobError> {
    let message = Message {
        r#type: &envoy.event_type,
        timestamp: envoy.event_at,
        data: &envoy.data,
    };
    let body = serde_json::to_vec(&message).map_err(|error| {
        JobError::new(
            "undecodable",
            format!("the event cannot be written: {error}"),
        )
    })?;
    let mut headers = tenant_headers(&envoy.headers)?;
    trace_headers(&mut headers, run);
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    for (name, value) in signature_headers(&envoy.secrets, &envoy.event_id, now.timestamp(), &body)
    {
        let value = HeaderValue::try_from(value)
            .map_err(|_| JobError::new("invalid_header", format!("`{name}` cannot be sent")))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok((headers, Bytes::from(body)))
}

/// The three headers of Standard Webhooks 1.0.0. The timestamp is of this attempt, the id of the
/// event.
fn signature_headers(
    secrets: &[WebhookSecret],
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> [(&'static str, String); 3] {
    [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-signature", sign_all(secrets, id, timestamp, body)),
    ]
}
