//! Room: jobs and attempts as the API shows them.
//! Takes: what the queue reads. Gives: JSON. Never: leaves a member of the contract out.

use chrono::{DateTime, Utc};
use harkara_queue::job::{Attempt, AttemptOutcome, Job, JobError, JobState};
use harkara_shared::id::{JobId, TenantId, WorkerId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::origin::trace_id;

/// A job as it stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobResponse {
    /// Id.
    #[schema(value_type = String, example = "job_0000000000500")]
    id: JobId,
    /// Whose it is.
    #[schema(value_type = String, example = "ten_01h455vb4pex5vsknk084sn02q")]
    tenant_id: TenantId,
    /// Kind.
    #[schema(example = "http.request")]
    kind: String,
    /// Queue.
    #[schema(example = "http")]
    queue: String,
    /// State.
    state: JobStateName,
    /// 0 (first) to 9.
    #[schema(example = 5, minimum = 0, maximum = 9)]
    priority: u8,
    /// Runs charged against `max_attempts`, the running one included.
    #[schema(example = 0)]
    attempt: u16,
    /// Runs that may fail before the job is dead.
    #[schema(example = 10)]
    max_attempts: u16,
    /// When it is, or was last, due.
    run_at: DateTime<Utc>,
    /// When it is cancelled, with the error `expired`, unless it has started.
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
    /// When it was enqueued.
    created_at: DateTime<Utc>,
    /// Start of the latest run.
    #[schema(required)]
    started_at: Option<DateTime<Utc>>,
    /// When it reached a final state.
    #[schema(required)]
    finished_at: Option<DateTime<Utc>>,
    /// Its unique key.
    #[schema(required)]
    unique_key: Option<String>,
    /// The key whose jobs it runs in order with.
    #[schema(required)]
    ordering_key: Option<String>,
    /// Words to search by.
    tags: Vec<String>,
    /// What its handler is given.
    #[schema(value_type = Object, example = json!({"url": "https://example.com/hook"}))]
    payload: Box<RawValue>,
    /// What its handler answered.
    #[schema(required)]
    result: Option<Value>,
    /// How far it has come, of a kind that tells it, such as `retry.redrive`; else null.
    #[schema(required)]
    progress: Option<Value>,
    /// Why the latest unsuccessful run ended as it did.
    #[schema(required)]
    last_error: Option<ErrorResponse>,
    /// The trace of the request that caused it.
    #[schema(required, example = "4bf92f3577b34da6a3ce929d0e0e4736")]
    trace_id: Option<String>,
    /// `X-Request-Id` of the request that caused it.
    #[schema(required, example = "0199a3b2-6f0c-7a31-9a51-0d4f1f8f3c11")]
    request_id: Option<String>,
}

impl From<Job> for JobResponse {
    fn from(job: Job) -> Self {
        Self {
            id: job.id,
            tenant_id: job.tenant_id,
            kind: job.kind,
            queue: job.queue,
            state: job.state.into(),
            priority: job.priority,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            run_at: job.run_at,
            expires_at: job.expires_at,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
            unique_key: job.unique_key,
            ordering_key: job.ordering_key,
            tags: job.tags,
            payload: job.payload,
            result: job.result,
            progress: job.progress,
            last_error: job.last_error.map(ErrorResponse::from),
            trace_id: job
                .trace
                .traceparent
                .as_deref()
                .and_then(trace_id)
                .map(str::to_owned),
            request_id: job.trace.request_id,
        }
    }
}

/// Where a job is in its life: `scheduled` is due in the future or waits out a backoff; `dead` has
/// used up its attempts or met a permanent error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JobState)]
pub(crate) enum JobStateName {
    Scheduled,
    Ready,
    Running,
    Succeeded,
    Dead,
    Cancelled,
}

impl JobStateName {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<JobState> for JobStateName {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Scheduled => Self::Scheduled,
            JobState::Ready => Self::Ready,
            JobState::Running => Self::Running,
            JobState::Succeeded => Self::Succeeded,
            JobState::Dead => Self::Dead,
            JobState::Cancelled => Self::Cancelled,
        }
    }
}

impl From<JobStateName> for JobState {
    fn from(name: JobStateName) -> Self {
        match name {
            JobStateName::Scheduled => Self::Scheduled,
            JobStateName::Ready => Self::Ready,
            JobStateName::Running => Self::Running,
            JobStateName::Succeeded => Self::Succeeded,
            JobStateName::Dead => Self::Dead,
            JobStateName::Cancelled => Self::Cancelled,
        }
    }
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorResponse {
    /// Stable code, for machines.
    #[schema(example = "http_500")]
    code: String,
    /// One sentence, for people.
    #[schema(example = "the receiver answered 500 Internal Server Error")]
    message: String,
}

impl From<JobError> for ErrorResponse {
    fn from(error: JobError) -> Self {
        Self {
            code: error.code,
            message: error.message,
        }
    }
}

/// One run of a job that has ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub(crate) struct AttemptResponse {
    /// 1 for the job's first run; counts every run, also those that used no attempt.
    #[schema(example = 1)]
    number: u32,
    /// Which worker ran it, while its record is kept.
    #[schema(required, value_type = Option<String>, example = "wrk_01h455vb4pex5vsknk084sn02q")]
    worker_id: Option<WorkerId>,
    /// When the run was claimed.
    started_at: DateTime<Utc>,
    /// When its outcome was written.
    finished_at: DateTime<Utc>,
    /// How it ended.
    outcome: AttemptOutcomeName,
    /// What went wrong, if anything did.
    #[schema(required)]
    error: Option<ErrorResponse>,
    /// Milliseconds from start to end.
    #[schema(example = 87)]
    duration_ms: u64,
    /// When the job was due again, if it was.
    #[schema(required)]
    next_run_at: Option<DateTime<Utc>>,
}

/// How a run ended: `snoozed` and `rate_limited` used no attempt; a run is `lost` when its worker
/// died.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AttemptOutcome)]
pub(crate) enum AttemptOutcomeName {
    Succeeded,
    Retry,
    Snoozed,
    RateLimited,
    Dead,
    Cancelled,
    Lost,
}

impl From<Attempt> for AttemptResponse {
    fn from(attempt: Attempt) -> Self {
        let duration = (attempt.finished_at - attempt.started_at).num_milliseconds();
        Self {
            number: attempt.number,
            worker_id: attempt.worker_id,
            started_at: attempt.started_at,
            finished_at: attempt.finished_at,
            outcome: match attempt.outcome {
                AttemptOutcome::Succeeded => AttemptOutcomeName::Succeeded,
                AttemptOutcome::Retry => AttemptOutcomeName::Retry,
                AttemptOutcome::Snoozed => AttemptOutcomeName::Snoozed,
                AttemptOutcome::RateLimited => AttemptOutcomeName::RateLimited,
                AttemptOutcome::Dead => AttemptOutcomeName::Dead,
                AttemptOutcome::Cancelled => AttemptOutcomeName::Cancelled,
                AttemptOutcome::Lost => AttemptOutcomeName::Lost,
            },
            error: attempt.error.map(ErrorResponse::from),
            duration_ms: u64::try_from(duration).unwrap_or_default(),
            next_run_at: attempt.next_run_at,
        }
    }
}
