//! Reads one job from JSON into [`NewJob`].
//!
//! Returns a valid job, or everything that is wrong with it. Never touches the database.

mod lane;
mod reader;

use chrono::{DateTime, Months, TimeDelta, Utc};
use harkara_queue::job::{NewJob, Trace};
use harkara_shared::backoff::Jitter;
use harkara_shared::duration::HumanDuration;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::field_errors::FieldErrors;
use crate::json;
use crate::time::Timestamp;
pub(crate) use lane::{KEY_RULE, LimitUseRequest};
use reader::JobReader;

/// Maximum difference between the clocks of this machine and of the database.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::minutes(1);

/// Maximum size of one job's JSON in bytes: its payload and room for the other members.
const MAX_JOB_BYTES: usize = 1 << 20;
/// How far ahead `run_at` may be: ten years.
const MAX_RUN_AT_AHEAD: Months = Months::new(120);
/// How far in the past `run_at` may be: a client's clock may be wrong, or its request delayed.
const MAX_RUN_AT_AGE: TimeDelta = TimeDelta::hours(24);

/// A job to enqueue.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewJob, example = json!({
    "kind": "http.request",
    "payload": {"method": "POST", "url": "https://example.com/hook", "body": {"order": 42}},
    "delay": "5m",
    "unique_key": "order-42",
    "tags": ["orders"]
}))]
pub(crate) struct JobRequest {
    /// Kind of the job, which selects its handler.
    #[schema(value_type = String, required, nullable = false, example = "http.request")]
    kind: Option<String>,
    /// Input of the job's handler, at most 256 KiB of JSON.
    #[schema(value_type = Object, required, nullable = false)]
    payload: Option<Box<RawValue>>,
    /// Queue of the job. Default: the kind's queue.
    #[schema(pattern = "^[a-z0-9][a-z0-9_.-]{0,63}$", example = "http")]
    queue: Option<String>,
    /// Priority from 0 (highest) to 9 (lowest).
    #[schema(minimum = 0, maximum = 9, default = 5)]
    priority: Option<i64>,
    /// Earliest time to run, at most ten years ahead. A time within the last 24 hours means now.
    #[schema(value_type = Option<String>, format = DateTime)]
    run_at: Option<Timestamp>,
    /// Minimum time from now until the job runs, at most ten years. Cannot be combined with `run_at`.
    delay: Option<HumanDuration>,
    /// If the job has not started by this time, it is cancelled with the error `expired`. Must be in the
    /// future and later than the job's due time.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// Key that at most one job of the same kind can hold at a time.
    #[schema(min_length = 1, max_length = 256)]
    unique_key: Option<String>,
    /// How long the key is held, `1s` to `366d`. Default: until the job has finished.
    unique_for: Option<HumanDuration>,
    /// Jobs of a queue with the same key run strictly one after another, by priority, due time and time of
    /// enqueue. A failed job blocks the ones after it until it has finished. Must not contain control
    /// characters.
    #[schema(min_length = 1, max_length = 256, example = "customer-42")]
    ordering_key: Option<String>,
    /// Maximum number of attempts, after which the job is dead. Default: the kind's.
    #[schema(minimum = 1, maximum = 100)]
    max_attempts: Option<i64>,
    /// Maximum duration of a run, `100ms` to `24h`. Default: the kind's.
    timeout: Option<HumanDuration>,
    /// Delays between failed attempts. Members that are omitted default to the kind's.
    #[schema(value_type = Option<BackoffRequest>)]
    backoff: Option<Box<RawValue>>,
    /// Labels to filter by, at most 20 distinct tags of 1 to 64 characters.
    #[schema(value_type = Option<Vec<Tag>>, max_items = 20)]
    tags: Option<Vec<String>>,
    /// Limits of the tenant that apply to the job, in addition to those of its tenant and queue. At most 3,
    /// each with a distinct key.
    #[schema(value_type = Option<Vec<LimitUseRequest>>, max_items = 3)]
    limits: Option<Vec<Box<RawValue>>>,
}

/// A label to filter by.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 64, example = "orders")]
#[expect(
    dead_code,
    reason = "describes a string that is validated together with the others"
)]
pub(crate) struct Tag(String);

/// Delays between failed attempts: `base × factor^(failures − 1)`, at most `max`, spread by `jitter`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Backoff)]
pub(crate) struct BackoffRequest {
    /// Delay after the first failure, from `1ms` to `max`.
    base: Option<HumanDuration>,
    /// Factor by which each further failure multiplies the delay.
    #[schema(minimum = 1, maximum = 10, example = 2)]
    factor: Option<f64>,
    /// Maximum delay, at most `7d`.
    max: Option<HumanDuration>,
    /// How delays are spread.
    jitter: Option<JitterName>,
}

/// How delays are spread. `full`: a random delay up to the computed one. `equal`: half of the computed delay
/// plus a random part of the other half. `none`: exactly the computed delay.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Jitter)]
pub(crate) enum JitterName {
    Full,
    Equal,
    None,
}

/// What all jobs of one request share.
#[derive(Debug, Clone)]
pub(crate) struct EnqueueContext {
    /// Whether the caller acts for the built-in tenant, which can enqueue every kind.
    pub(crate) is_platform: bool,
    /// Trace context and request id of the request.
    pub(crate) trace: Trace,
    /// Time at which the request is validated.
    pub(crate) now: DateTime<Utc>,
}

/// Reads one job from its JSON text, located at `prefix` of the request. Returns `None` only if it added an
/// error.
pub(crate) fn read_job(
    text: &str,
    prefix: &str,
    context: &EnqueueContext,
    errors: &mut FieldErrors,
) -> Option<NewJob> {
    if text.len() > MAX_JOB_BYTES {
        errors.add(prefix, "", "too_large", "must be at most 1 MiB of JSON");
        return None;
    }
    json::check_storable(text, prefix, errors);
    let request: JobRequest = json::decode(text, prefix, errors)?;
    let mut reader = JobReader {
        prefix,
        context,
        errors,
    };
    let kind = reader.kind(request.kind.as_deref());
    let payload = reader.payload(request.payload, kind);
    let lane = reader.ordering_key(request.ordering_key);
    let limits = reader.limits(request.limits);
    let (run_at, delay) = reader.due(request.run_at, request.delay);
    let expires_at = reader.expiry(request.expires_at, run_at, delay);
    let queue = reader.queue(request.queue);
    let priority = reader.number("/priority", request.priority, 0, 9);
    let max_attempts = reader.number("/max_attempts", request.max_attempts, 1, 100);
    let timeout = reader.timeout(request.timeout);
    let backoff = reader.backoff(request.backoff.as_deref(), kind);
    let unique = reader.unique(request.unique_key, request.unique_for);
    let tags = reader.tags(request.tags);
    let mut job = kind?.job(payload?);
    if let Some(queue) = queue {
        job.queue = queue;
    }
    if let Some(priority) = priority {
        job.priority = priority;
    }
    if let Some(max_attempts) = max_attempts {
        job.max_attempts = u16::from(max_attempts);
    }
    if let Some(timeout) = timeout {
        job.timeout = timeout;
    }
    if let Some(backoff) = backoff {
        job.backoff = backoff;
    }
    if let Some(lane) = lane {
        job.lane = lane;
    }
    job.limits = limits;
    job.run_at = run_at;
    job.delay = delay;
    job.expires_at = expires_at;
    job.unique = unique;
    job.tags = tags;
    job.trace = context.trace.clone();
    Some(job)
}

/// Validates the `run_at` member of the object at `prefix` and returns when the job is due; `None` means
/// now.
pub(crate) fn read_run_at(
    given: Option<Timestamp>,
    now: DateTime<Utc>,
    prefix: &str,
    errors: &mut FieldErrors,
) -> Option<DateTime<Utc>> {
    let moment = given?.0;
    if moment < now - MAX_RUN_AT_AGE {
        let detail = "must be at most 24 hours ago";
        errors.add(prefix, "/run_at", "out_of_range", detail);
    } else if moment > now.checked_add_months(MAX_RUN_AT_AHEAD).unwrap_or(now) {
        errors.add(
            prefix,
            "/run_at",
            "out_of_range",
            "must be at most ten years ahead",
        );
    }
    // A time in the past means now. Whether a time within the clock skew is past is decided by the
    // database's clock.
    Some(moment).filter(|moment| *moment > now - MAX_CLOCK_SKEW)
}

impl From<JitterName> for Jitter {
    fn from(name: JitterName) -> Self {
        match name {
            JitterName::Full => Self::Full,
            JitterName::Equal => Self::Equal,
            JitterName::None => Self::None,
        }
    }
}
