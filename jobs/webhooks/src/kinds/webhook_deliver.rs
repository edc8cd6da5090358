//! Room: the kind `webhook.deliver`: one event to one endpoint, as Standard Webhooks 1.0.0 says.
//! Takes: a delivery's id. Gives: a signed POST, and a record of how it went.
//! Never: follows a redirect, judges an answer (that is `webhook::judge`), or decides about retries.

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
use crate::delivery::{DeliveryState, skip};
use crate::delivery_context::{DeliveryContext, Target};
pub use crate::delivery_job::Args;
use crate::endpoint::EndpointStatus;
use crate::error::Error;
use crate::response_policy::{Decision, decide, refused_redirect, retry_on_schedule};
use crate::services::Services;
use crate::token::NoToken;
use crate::{delivery_job, message};

/// How often a paused endpoint is looked at again. It goes on by itself when it is made active; a job
/// may be put off so for forty days.
const PAUSE: Duration = Duration::from_secs(60 * 60);

/// From this attempt on a delivery is late, and needs a place for such.
const LATE: u16 = 3;

/// How long, and up to how long, a late delivery waits that finds no such place.
const LATE_WAIT: std::ops::Range<f64> = 10.0..60.0;

/// Bytes of headers kept of an answer, and of an event's data shown when it was given up.
const KEPT_HEADERS: usize = 4 * 1024;
const TOLD_DATA: usize = 16 * 1024;

/// - Changes: the delivery's state, its attempts, its endpoint's health.
/// - Twice: the receiver sees the same `webhook-id`, which the standard makes the idempotency key.
/// - Calls: the endpoint's URL, and its token server if it has one, through the egress rules.
/// - Dead: the delivery is failed; when the receiver is mended, recover the endpoint or redeliver.
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
    // Held until the end.
    let _place = if run.job.attempt >= LATE {
        let Some(place) = services.deliveries.take_retry_slot(run.job.tenant) else {
            let wait = Duration::from_secs_f64(rand::rng().random_range(LATE_WAIT));
            return Ok(Verdict::Yield { wait });
        };
        Some(place)
    } else {
        None
    };
    let context = services.deliveries.context(run.job.tenant, id).await?;
    let Some(context) = context else {
        let error = JobError::new("delivery_not_found", format!("there is no delivery {id}"));
        return Ok(Verdict::Dead { error });
    };
    if context.state == DeliveryState::Succeeded {
        // A run before this one made the delivery, and its outcome was lost.
        return Ok(Verdict::done());
    }
    if context.job_id != Some(run.job.id) {
        return Ok(done_without("another job makes this delivery"));
    }
    let target = match &context.target {
        Some(target) if args.cause == Cause::Test => target,
        Some(target) if target.status == EndpointStatus::Active => target,
        Some(target) if target.status == EndpointStatus::Paused => {
            let reason = JobError::new("endpoint_paused", "the endpoint is paused");
            return Ok(Verdict::Snooze {
                wait: PAUSE,
                reason,
            });
        }
        _ => {
            let mut tx = TenantTx::begin(&services.common.pool, run.job.tenant).await?;
            skip(&mut tx, id, run.job.id).await?;
            tx.commit().await?;
            return Ok(done_without("the endpoint is disabled or deleted"));
        }
    };
    let Some(data) = &context.data else {
        let error = JobError::new("payload_gone", "the event's payload is not kept any more");
        return Ok(Verdict::Dead { error });
    };

    let started_at = harkara_shared::clock::now();
    let body = message::text(&context.event_type, context.event_at, data.get());
    let headers = match headers(&context, target, started_at, &body, run) {
        Ok(headers) => headers,
        Err(error) => return Ok(Verdict::Dead { error }),
    };
    let Called { answer, decision } = call(target, headers, body, run, services).await;
    let Decision { verdict, action } = decision;
    let verdict = match verdict {
        // One try by hand is one try, also where the endpoint's breaker would give it another.
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
        fate: fate(&verdict, run),
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
                .filter(|data| data.len() <= TOLD_DATA)
                .map(ToOwned::to_owned),
            id: context.event_id,
            event_type: context.event_type,
        },
    };
    services.deliveries.record(run.job.tenant, attempt).await?;
    Ok(verdict)
}

/// What came of a request.
struct Called {
    /// The answer, or why there is none; `None` when no request was made.
    answer: Option<Result<EgressResponse, EgressError>>,
    decision: Decision,
}

/// Makes the request, and has the answer judged. A token, if the endpoint wants one, takes its part of the time.
async fn call(
    target: &Target,
    headers: HeaderMap,
    body: String,
    run: &Run,
    services: &Services,
) -> Called {
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
            return Called {
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
    let told = match &refused {
        Some(refused) => Err(refused),
        None => answer.as_ref(),
    };
    let decision = decide(told, schedule, attempt, &mut rand::rng());
    Called {
        answer: Some(answer),
        decision,
    }
}

fn done_without(why: &str) -> Verdict {
    Verdict::Done {
        result: Some(serde_json::json!({"skipped": why})),
        follow_ups: Vec::new(),
    }
}

/// Adds the token, if the endpoint wants one.
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

/// What the delivery becomes, as far as this run knows; `None` while it goes on.
fn fate(verdict: &Verdict, run: &Run) -> Option<DeliveryState> {
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

/// As much of an answer as is kept.
fn kept(answer: EgressResponse) -> KeptAnswer {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    let mut room = KEPT_HEADERS;
    for (name, value) in &answer.headers {
        let value = match name.as_str() {
            "set-cookie" | "authorization" | "www-authenticate" | "proxy-authenticate" => {
                "redacted".to_owned()
            }
            _ => String::from_utf8_lossy(value.as_bytes()).replace('\0', ""),
        };
        let Some(left) = room.checked_sub(name.as_str().len() + value.len()) else {
            break;
        };
        room = left;
        headers.insert(name.as_str().to_owned(), value);
    }
    KeptAnswer {
        status: answer.status.as_u16(),
        headers,
        body: answer.body_text(KEPT_BODY),
        is_cut: answer.truncated || answer.body.len() > KEPT_BODY,
    }
}

/// The headers of the request; `body`'s bytes are the ones that are signed. The timestamp is of this attempt,
/// the id of the event.
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
