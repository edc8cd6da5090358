//! Jobs and attempts as the API returns them.

use chrono::{DateTime, Utc};
use harkara_queue::job::{Attempt, AttemptOutcome, Job, JobError, JobState};
use harkara_shared::id::{JobId, TenantId, WorkerId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::request_context::trace_id;

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobResponse {
    /// Id of the job.
    id: JobId,
    /// Id of the tenant that owns the job.
    tenant_id: TenantId,
    /// Kind of the job, which selects its handler.
    #[schema(example = "http.request")]
    kind: String,
    /// Queue of the job.
    #[schema(example = "http")]
    queue: String,
    /// State of the job.
    state: JobStateName,
    /// Priority from 0 (highest) to 9 (lowest).
    #[schema(example = 5, minimum = 0, maximum = 9)]
    priority: u8,
    /// Number of attempts used, including the running one.
    #[schema(example = 0)]
    attempt: u16,
    /// Maximum number of attempts, after which the job is dead.
    #[schema(example = 10)]
    max_attempts: u16,
    /// When the job is or was last due.
    run_at: DateTime<Utc>,
    /// When the job is cancelled with the error `expired` unless it has started.
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
    /// When the job was enqueued.
    created_at: DateTime<Utc>,
    /// When the latest run started.
    #[schema(required)]
    started_at: Option<DateTime<Utc>>,
    /// When the job reached a final state.
    #[schema(required)]
    finished_at: Option<DateTime<Utc>>,
    /// Unique key of the job.
    #[schema(required)]
    unique_key: Option<String>,
    /// Ordering key of the job. Jobs with the same key run strictly one after another.
    #[schema(required)]
    ordering_key: Option<String>,
    /// Labels to filter by.
    tags: Vec<String>,
    /// Input of the job's handler.
    #[schema(value_type = Object, example = json!({"url": "https://example.com/hook"}))]
    payload: Box<RawValue>,
    /// Output of the job's handler.
    #[schema(required)]
    result: Option<Value>,
    /// Progress of the job, for kinds that report it, such as `retry.redrive`; otherwise null.
    #[schema(required)]
    progress: Option<Value>,
    /// Error of the latest unsuccessful run.
    #[schema(required)]
    last_error: Option<ErrorResponse>,
    /// Trace id of the request that enqueued the job.
    #[schema(required, example = "4bf92f3577b34da6a3ce929d0e0e4736")]
    trace_id: Option<String>,
    /// `X-Request-Id` of the request that enqueued the job.
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

/// State of a job. `scheduled`: due in the future or waiting for a retry. `dead`: all attempts were used up
/// or a permanent error occurred.
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

/// An error of a job's run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorResponse {
    /// Stable error code.
    #[schema(example = "http_500")]
    code: String,
    /// Explanation for people, in one sentence.
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

/// A finished run of a job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub(crate) struct AttemptResponse {
    /// Number of the run, starting at 1. Includes runs that used no attempt.
    #[schema(example = 1)]
    number: u32,
    /// Id of the worker that ran the job, while the worker's record is stored.
    #[schema(required)]
    worker_id: Option<WorkerId>,
    /// When the run was claimed.
    started_at: DateTime<Utc>,
    /// When the outcome was recorded.
    finished_at: DateTime<Utc>,
    /// Outcome of the run.
    outcome: AttemptOutcomeName,
    /// Why the run failed, if it did.
    #[schema(required)]
    error: Option<ErrorResponse>,
    /// Duration of the run in milliseconds.
    #[schema(example = 87)]
    duration_ms: u64,
    /// When the job was due again, if it was.
    #[schema(required)]
    next_run_at: Option<DateTime<Utc>>,
}

/// Outcome of a run. `snoozed` and `rate_limited` used no attempt. `lost`: the worker died.
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
