//! The kind `webhook.deliver`: sends one event to one endpoint (Standard Webhooks 1.0.0).
//!
//! Makes a signed POST and records the attempt. It never follows a redirect; the response is judged by
//! `response_policy`, and the queue decides about retries.

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
    AttemptedEvent, Cause, EndpointAction, FinishedAttempt, KEPT_BODY, KeptAnswer,
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

/// How long a delivery of a paused endpoint is put off at a time. It runs at once when the endpoint becomes active; a job
/// can be put off for forty days.
const PAUSE_CHECK_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// From this attempt on a delivery needs a retry slot.
const RETRY_SLOT_MIN_ATTEMPT: u16 = 3;

/// Seconds that a delivery waits when no retry slot is free, at random.
const RETRY_SLOT_WAIT: std::ops::Range<f64> = 10.0..60.0;

/// Bytes of response headers that are stored.
const KEPT_HEADERS: usize = 4 * 1024;

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
    // Held until the run ends.
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
        let error = JobError::new("delivery_not_found", format!("there is no delivery {id}"));
        return Ok(Verdict::Dead { error });
    };
    if context.state == DeliveryState::Succeeded {
        // An earlier run delivered it, and its outcome was lost.
        return Ok(Verdict::done());
    }
    if context.job_id != Some(run.job.id) {
        return Ok(skipped("another job makes this delivery"));
    }
    let target = match &context.target {
        Some(target) if args.cause == Cause::Test => target,
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
    let CallResult { answer, decision } = call(target, headers, body, run, services).await;
    let Decision { verdict, action } = decision;
    let verdict = match verdict {
        // A manual delivery is a single attempt, even if the endpoint's policy would retry it.
        Verdict::Retry { error, .. } | Verdict::RateLimited { reason: error, .. }
            if !args.cause.is_on_schedule() =>
        {
            Verdict::Dead { error }
        }
        verdict => verdict,
    };
    let attempt = FinishedAttempt {
        delivery: id,
        job: run.job.id,
        endpoint: target.id,
        cause: args.cause,
        outcome: outcome(&verdict, run),
        started_at,
        duration: duration(started_at, answer.as_ref()),
        url: target.url.clone(),
        header_names: target.headers.keys().cloned().collect(),
        address: answer
            .as_ref()
            .and_then(|answer| answer.as_ref().ok()?.address),
        answer: answer.and_then(Result::ok).map(kept),
        error: error_of(&verdict),
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
    answer: Option<Result<EgressResponse, EgressError>>,
    decision: Decision,
}

/// Makes the request and decides what its response means. Getting a token, if the endpoint needs one, counts towards the
/// time limit.
async fn call(
    target: &Target,
    headers: HeaderMap,
    body: String,
    run: &Run,
    services: &Services,
) -> CallResult {
    let (attempt, schedule) = (run.job.attempt, &target.schedule);
    let until = Instant::now() + call_timeout(run);
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
                answer: None,
                decision,
            };
        }
    };
    let request = EgressRequest {
        method: Method::POST,
        url: &target.url,
        headers,
        body: Bytes::from(body),
        timeout: until.saturating_duration_since(Instant::now()),
        identity: target.identity.as_ref(),
    };
    let answer = services.common.egress.send(request).await;
    if let Ok(answer) = &answer
        && answer.status == StatusCode::UNAUTHORIZED
        && target.oauth2.is_some()
    {
        services.deliveries.forget_token(target.id);
    }
    let refused = answer
        .as_ref()
        .ok()
        .and_then(|answer| refused_redirect(&services.common.egress, &target.url, answer));
    let outcome = match &refused {
        Some(refused) => Err(refused),
        None => answer.as_ref(),
    };
    let decision = decide(outcome, schedule, attempt, &mut rand::rng());
    CallResult {
        answer: Some(answer),
        decision,
    }
}

fn skipped(reason: &str) -> Verdict {
    Verdict::Done {
        result: Some(serde_json::json!({"skipped": reason})),
        follow_ups: Vec::new(),
    }
}

/// Adds a token, if the endpoint has OAuth 2.0 credentials.
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

/// Final state of the delivery, if this run decides it; `None` while it can be retried.
fn outcome(verdict: &Verdict, run: &Run) -> Option<DeliveryState> {
    match verdict {
        Verdict::Done { .. } => Some(DeliveryState::Succeeded),
        Verdict::Dead { .. } => Some(DeliveryState::Failed),
        Verdict::Retry { .. } if run.job.is_last_attempt() => Some(DeliveryState::Failed),
        _ => None,
    }
}

fn error_of(verdict: &Verdict) -> Option<JobError> {
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
    answer: Option<&Result<EgressResponse, EgressError>>,
) -> Duration {
    match answer {
        Some(Ok(answer)) => answer.duration,
        _ => (harkara_shared::clock::now() - started_at)
            .to_std()
            .unwrap_or_default(),
    }
}

/// The part of a response that is stored.
fn kept(answer: EgressResponse) -> KeptAnswer {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    let mut remaining = KEPT_HEADERS;
    for (name, value) in &answer.headers {
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
    KeptAnswer {
        status: answer.status.as_u16(),
        headers,
        body: answer.body_text(KEPT_BODY),
        is_cut: answer.truncated || answer.body.len() > KEPT_BODY,
    }
}

/// The headers of the request. The signature covers the bytes of `body`; the timestamp is that of this attempt, the id
/// that of the event.
fn headers(
    context: &DeliveryContext,
    target: &Target,
    now: DateTime<Utc>,
    body: &str,
    run: &Run,
) -> Result<HeaderMap, JobError> {
    let mut headers = tenant_headers(&target.headers)?;
    trace_headers(&mut headers, run);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let timestamp = now.timestamp();
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
