//! The kind `webhook.deliver`: sends one event to one endpoint (Standard Webhooks 1.0.0).
//!
//! Makes a signed POST and records the attempt. It never follows a redirect; the response is interpreted
//! by `response_policy`, and the queue decides about retries.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use harkara_kind::JobKind;
use harkara_kind::database_verdict;
use harkara_kind::http_call::{call_timeout, tenant_headers, trace_headers};
use harkara_queue::job::JobError;
use harkara_queue::{Run, Verdict};
use harkara_shared::backoff::Backoff;
use harkara_shared::database::TenantTx;
use harkara_shared::egress::{EgressError, EgressRequest, EgressResponse};
use harkara_shared::signature::sign_all;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use rand::RngExt as _;

use crate::attempt::{
    AttemptedEvent, EndpointAction, FinishedAttempt, MAX_STORED_BODY_BYTES, StoredResponse, Trigger,
};
use crate::delivery::{DeliveryState, skip_delivery};
use crate::delivery_context::{DeliveryContext, Target};
pub use crate::delivery_job::Args;
use crate::endpoint::EndpointStatus;
use crate::error::Error;
use crate::response_policy::{Decision, decide, refused_redirect, retry_on_schedule};
use crate::services::Services;
use crate::token::NoToken;
use crate::{delivery_job, message};

/// How long a delivery to a paused endpoint is put off at a time. Resuming an endpoint runs its waiting deliveries
/// immediately, except the oldest of a very long backlog, which this interval makes due. A job can be put off for forty
/// days in total.
const PAUSE_CHECK_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// From this attempt on a delivery needs a retry slot.
const RETRY_SLOT_MIN_ATTEMPT: u16 = 3;

/// Range in seconds of the random wait of a delivery that found no free retry slot.
const RETRY_SLOT_WAIT: std::ops::Range<f64> = 10.0..60.0;

/// Maximum length of the stored response headers, names and values together.
const MAX_STORED_HEADER_BYTES: usize = 4 * 1024;

/// Maximum length of event data that is included in an event about a failed delivery.
const MAX_REPORTED_DATA: usize = 16 * 1024;

/// - Changes: the delivery's state, its attempts, its endpoint's health.
/// - Twice: the receiver sees the same `webhook-id`, which the standard makes the idempotency key.
/// - Calls: the endpoint's URL, and its token server if it has one, through the egress rules.
/// - Dead: the delivery failed; when the receiver works again, recover the endpoint or redeliver.
#[derive(Debug)]
pub struct WebhookDeliver;

impl JobKind for WebhookDeliver {
    const KIND: &'static str = delivery_job::KIND;
    const QUEUE: &'static str = delivery_job::QUEUE;
    const MAX_ATTEMPTS: u16 = delivery_job::MAX_ATTEMPTS;
    const TIMEOUT: Duration = delivery_job::TIMEOUT;
    type Services = Services;
    type Args = Args;

    fn backoff() -> Backoff {
        delivery_job::backoff()
    }

    async fn run(args: Args, run: Run, services: &Services) -> Verdict {
        match deliver(&args, &run, services).await {
            Ok(verdict) => verdict,
            Err(error) => match error.database() {
                Some(error) => database_verdict(error),
                None => Verdict::retry(JobError::new("webhook", error.to_string()), None),
            },
        }
    }
}

async fn deliver(args: &Args, run: &Run, services: &Services) -> Result<Verdict, Error> {
    let id = args.delivery_id;
    // The slot is held until the run ends.
    let _slot = if run.job.attempt >= RETRY_SLOT_MIN_ATTEMPT {
        let Some(slot) = services.deliveries.take_retry_slot(run.job.tenant) else {
            let wait = Duration::from_secs_f64(rand::rng().random_range(RETRY_SLOT_WAIT));
            return Ok(Verdict::Yield { wait });
        };
        Some(slot)
    } else {
        None
    };
    let context = services.deliveries.load_context(run.job.tenant, id).await?;
    let Some(context) = context else {
        let error = JobError::new("delivery_not_found", format!("delivery {id} not found"));
        return Ok(Verdict::Dead { error });
    };
    if context.state == DeliveryState::Succeeded {
        // An earlier run delivered the event, but its job outcome was lost.
        return Ok(Verdict::done());
    }
    if context.job_id != Some(run.job.id) {
        return Ok(skipped("another job makes this delivery"));
    }
    let target = match &context.target {
        Some(target) if args.trigger == Trigger::Test => target,
        Some(target) if target.status == EndpointStatus::Active => target,
        Some(target) if target.status == EndpointStatus::Paused => {
            let reason = JobError::new("endpoint_paused", "the endpoint is paused");
            return Ok(Verdict::Snooze {
                wait: PAUSE_CHECK_INTERVAL,
                reason,
            });
        }
        _ => {
            let mut tx = TenantTx::begin(&services.common.pool, run.job.tenant).await?;
            skip_delivery(&mut tx, id, run.job.id).await?;
            tx.commit().await?;
            return Ok(skipped("the endpoint is disabled or deleted"));
        }
    };
    let Some(data) = &context.data else {
        let error = JobError::new("payload_gone", "the event's payload was removed");
        return Ok(Verdict::Dead { error });
    };

    let started_at = harkara_shared::clock::now();
    let body = message::body(&context.event_type, context.event_at, data.get());
    let headers = match headers(&context, target, started_at, &body, run) {
        Ok(headers) => headers,
        Err(error) => return Ok(Verdict::Dead { error }),
    };
    let CallResult { response, decision } = call(target, headers, body, run, services).await;
    let Decision { verdict, action } = decision;
    let verdict = match verdict {
        // A manual delivery is a single attempt, even if the endpoint's policy would retry it.
        Verdict::Retry { error, .. } | Verdict::RateLimited { reason: error, .. }
            if !args.trigger.is_scheduled() =>
        {
            Verdict::Dead { error }
        }
        verdict => verdict,
    };
    let attempt = FinishedAttempt {
        delivery: id,
        job: run.job.id,
        endpoint: target.id,
        trigger: args.trigger,
        delivery_outcome: delivery_outcome(&verdict, run),
        started_at,
        duration: duration(started_at, response.as_ref()),
        url: target.url.clone(),
        header_names: target.headers.keys().cloned().collect(),
        address: response
            .as_ref()
            .and_then(|response| response.as_ref().ok()?.address),
        response: response.and_then(Result::ok).map(stored_response),
        error: verdict_error(&verdict),
        action,
        event: AttemptedEvent {
            data: Some(data.get())
                .filter(|data| data.len() <= MAX_REPORTED_DATA)
                .map(ToOwned::to_owned),
            id: context.event_id,
            event_type: context.event_type,
        },
    };
    services.deliveries.record(run.job.tenant, attempt).await?;
    Ok(verdict)
}

/// The result of a request.
struct CallResult {
    /// The response, or why there is none; `None` when no request was made.
    response: Option<Result<EgressResponse, EgressError>>,
    decision: Decision,
}

/// Makes the request and decides what its response means. Requesting an access token, if the endpoint needs one, counts
/// towards the time limit.
async fn call(
    target: &Target,
    headers: HeaderMap,
    body: String,
    run: &Run,
    services: &Services,
) -> CallResult {
    let (attempt, schedule) = (run.job.attempt, &target.schedule);
    let deadline = Instant::now() + call_timeout(run);
    let headers = match authorize(headers, target, run, services).await {
        Ok(headers) => headers,
        Err(NoToken { error, is_terminal }) => {
            let verdict = match is_terminal {
                true => Verdict::Dead { error },
                false => {
                    retry_on_schedule(error, schedule, attempt, Duration::ZERO, &mut rand::rng())
                }
            };
            let decision = Decision {
                verdict,
                action: EndpointAction::default(),
            };
            return CallResult {
                response: None,
                decision,
            };
        }
    };
    let request = EgressRequest {
        method: Method::POST,
        url: &target.url,
        headers,
        body: Bytes::from(body),
        timeout: deadline.saturating_duration_since(Instant::now()),
        identity: target.identity.as_ref(),
    };
    let response = services.common.egress.send(request).await;
    if let Ok(response) = &response
        && response.status == StatusCode::UNAUTHORIZED
        && target.oauth2.is_some()
    {
        services.deliveries.forget_token(target.id);
    }
    let refused = response
        .as_ref()
        .ok()
        .and_then(|response| refused_redirect(&services.common.egress, &target.url, response));
    let result = match &refused {
        Some(refused) => Err(refused),
        None => response.as_ref(),
    };
    let decision = decide(result, schedule, attempt, &mut rand::rng());
    CallResult {
        response: Some(response),
        decision,
    }
}

fn skipped(reason: &str) -> Verdict {
    Verdict::Done {
        result: Some(serde_json::json!({"skipped": reason})),
        follow_ups: Vec::new(),
    }
}

/// Adds an access token, if the endpoint has OAuth 2.0 credentials. A third of the time limit is for requesting the token.
async fn authorize(
    mut headers: HeaderMap,
    target: &Target,
    run: &Run,
    services: &Services,
) -> Result<HeaderMap, NoToken> {
    if let Some(credentials) = &target.oauth2 {
        let timeout = call_timeout(run) / 3;
        let token = services
            .deliveries
            .bearer(&services.common.egress, target, credentials, timeout)
            .await?;
        headers.insert(AUTHORIZATION, token);
    }
    Ok(headers)
}

/// Final state of the delivery, if this run decides it; `None` while the delivery can be retried.
fn delivery_outcome(verdict: &Verdict, run: &Run) -> Option<DeliveryState> {
    match verdict {
        Verdict::Done { .. } => Some(DeliveryState::Succeeded),
        Verdict::Dead { .. } => Some(DeliveryState::Failed),
        Verdict::Retry { .. } if run.job.is_last_attempt() => Some(DeliveryState::Failed),
        _ => None,
    }
}

fn verdict_error(verdict: &Verdict) -> Option<JobError> {
    match verdict {
        Verdict::Retry { error, .. } | Verdict::Dead { error } => Some(error.clone()),
        Verdict::RateLimited { reason, .. } | Verdict::Snooze { reason, .. } => {
            Some(reason.clone())
        }
        Verdict::Done { .. } | Verdict::Cancelled | Verdict::Yield { .. } => None,
    }
}

fn duration(
    started_at: DateTime<Utc>,
    response: Option<&Result<EgressResponse, EgressError>>,
) -> Duration {
    match response {
        Some(Ok(response)) => response.duration,
        _ => (harkara_shared::clock::now() - started_at)
            .to_std()
            .unwrap_or_default(),
    }
}

/// The part of a response that is stored.
fn stored_response(response: EgressResponse) -> StoredResponse {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    let mut remaining = MAX_STORED_HEADER_BYTES;
    for (name, value) in &response.headers {
        let value = match name.as_str() {
            "set-cookie" | "authorization" | "www-authenticate" | "proxy-authenticate" => {
                "redacted".to_owned()
            }
            _ => String::from_utf8_lossy(value.as_bytes()).replace('\0', ""),
        };
        let Some(left) = remaining.checked_sub(name.as_str().len() + value.len()) else {
            break;
        };
        remaining = left;
        headers.insert(name.as_str().to_owned(), value);
    }
    StoredResponse {
        status: response.status.as_u16(),
        headers,
        body: response.body_text(MAX_STORED_BODY_BYTES),
        is_body_truncated: response.truncated || response.body.len() > MAX_STORED_BODY_BYTES,
    }
}

/// The headers of the request. The signature covers the id of the event, the start time of this attempt, and the bytes of
/// `body`.
fn headers(
    context: &DeliveryContext,
    target: &Target,
    started_at: DateTime<Utc>,
    body: &str,
    run: &Run,
) -> Result<HeaderMap, JobError> {
    let mut headers = tenant_headers(&target.headers)?;
    trace_headers(&mut headers, run);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let timestamp = started_at.timestamp();
    let id = &context.event_id;
    for (name, value) in [
        ("webhook-id", id.clone()),
        ("webhook-timestamp", timestamp.to_string()),
        (
            "webhook-signature",
            sign_all(&target.keys, id, timestamp, body.as_bytes()),
        ),
    ] {
        let value = HeaderValue::try_from(value)
            .map_err(|_| JobError::new("invalid_header", format!("`{name}` cannot be sent")))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}
