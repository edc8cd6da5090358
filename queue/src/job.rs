//! The data types of jobs: a job to enqueue, a stored job, its state and its attempts.
//!
//! Plain data; nothing here touches the database.

use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::backoff::Backoff;
use harkara_shared::id::{JobId, TenantId, WorkerId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// Largest payload of one job, in bytes of JSON.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// A job to enqueue. The caller has validated it: the kind is known, sizes and ranges are allowed.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Name of the kind, which selects the handler.
    pub kind: String,
    /// Name of the queue; a new name creates the queue.
    pub queue: String,
    /// The handler's arguments: JSON, at most [`MAX_PAYLOAD_BYTES`] long.
    pub payload: Box<RawValue>,
    /// 0 runs first, 9 last.
    pub priority: u8,
    /// Earliest start. `None` is the time of the enqueue, by the database's clock.
    pub run_at: Option<DateTime<Utc>>,
    /// Earliest start as a time after the enqueue, by the database's clock.
    pub delay: Duration,
    /// The job is cancelled if no run has started by then. A failed run counts as started.
    pub expires_at: Option<DateTime<Utc>>,
    /// How many runs may fail before the job is dead; at least 1.
    pub max_attempts: u16,
    /// Longest run. A longer one is dropped and counts as failed.
    pub timeout: Duration,
    /// Delays between failed runs.
    pub backoff: Backoff,
    /// Allows only one job with this key for each tenant and kind at a time.
    pub unique: Option<Unique>,
    /// The lane within the tenant's share of the queue.
    pub lane: Lane,
    /// Limits of the tenant that apply in addition to those of tenant, lane and queue; at most
    /// [`MAX_LIMITS`]. The jobs of an ordered lane share the limits named by the latest one.
    pub limits: Vec<LimitUse>,
    /// Labels to search by.
    pub tags: Vec<String>,
    /// The request that caused the job.
    pub trace: Trace,
}

/// Most limits that a job can name.
pub const MAX_LIMITS: usize = 3;

/// A lane: jobs of one tenant in one queue that are limited, paused and parked together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The lane of all jobs without a key.
    #[default]
    Default,
    /// Jobs with this key run concurrently, for example those that call the same endpoint.
    Named(String),
    /// Jobs with this key run one after another, by priority, due time and enqueue. A failed job
    /// blocks the lane until it has finished.
    Ordered(String),
}

impl Lane {
    /// The lane's key; empty for the default lane.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Default => "",
            Self::Named(key) | Self::Ordered(key) => key,
        }
    }
}

/// A limit that applies to a job, and what a start of the job costs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitUse {
    /// The limit's key within the tenant, 1 to 256 characters.
    pub key: String,
    /// How many starts one start of the job counts as; at least 1.
    pub cost: u16,
}

/// A key that only one job of a tenant and kind can hold at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// The key, 1 to 256 characters.
    pub key: String,
    /// How long the job holds the key, from its enqueue. `None` is until the job has finished.
    pub hold: Option<Duration>,
}

/// Identifies the request that caused a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// `traceparent` header of the request (W3C Trace Context).
    #[serde(default, rename = "p", skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// `X-Request-Id` header of the request.
    #[serde(default, rename = "r", skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The result of enqueuing one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// The job was created.
    New(JobId),
    /// An earlier job holds the unique key; nothing was created.
    Existing(JobId),
}

impl Enqueued {
    /// Id of the new or the earlier job.
    #[must_use]
    pub fn id(self) -> JobId {
        match self {
            Self::New(id) | Self::Existing(id) => id,
        }
    }
}

/// State of a job. `scheduled` and `ready` jobs wait, a `running` job is held by a worker;
/// `succeeded`, `dead` and `cancelled` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Due in the future, or waiting for its next attempt.
    Scheduled,
    /// Due and waiting for a worker.
    Ready,
    /// Claimed by a worker.
    Running,
    /// Finished successfully.
    Succeeded,
    /// Failed permanently, or without attempts left.
    Dead,
    /// Cancelled by a user or because it expired.
    Cancelled,
}

impl JobState {
    /// All states, in the order of a job's life.
    pub const ALL: [Self; 6] = [
        Self::Scheduled,
        Self::Ready,
        Self::Running,
        Self::Succeeded,
        Self::Dead,
        Self::Cancelled,
    ];

    /// The letter of the `state` column.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Scheduled => "s",
            Self::Ready => "a",
            Self::Running => "r",
            Self::Succeeded => "d",
            Self::Dead => "x",
            Self::Cancelled => "c",
        }
    }

    /// The state that a letter of the `state` column stands for.
    ///
    /// # Errors
    /// [`UnknownState`] for a letter that no release has written.
    pub fn from_letter(letter: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.letter() == letter)
            .ok_or_else(|| UnknownState(letter.to_owned()))
    }

    /// Whether the job stays in this state unless it is retried manually.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Cancelled)
    }
}

/// A stored state letter that no release has written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown job state `{0}`")]
pub struct UnknownState(String);

/// A stored attempt outcome that no release has written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown attempt outcome `{0}`")]
pub struct UnknownOutcome(String);

/// What went wrong: a stable code for programs and a message for people. Must not contain secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Stable snake_case code, listed in `docs/ERRORS.md`.
    pub code: String,
    /// One sentence; cut to 2 KiB when stored.
    pub message: String,
}

impl JobError {
    /// Creates an error with a code and a message.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

/// A stored job.
#[derive(Debug, Clone)]
pub struct Job {
    /// The job's public id.
    pub id: JobId,
    /// The tenant the job belongs to.
    pub tenant_id: TenantId,
    /// Name of the kind.
    pub kind: String,
    /// Name of the queue.
    pub queue: String,
    /// Where the job is in its life cycle.
    pub state: JobState,
    /// 0 runs first, 9 last.
    pub priority: u8,
    /// Runs counted against `max_attempts` since the job was enqueued or last retried manually,
    /// including a running one.
    pub attempt: u16,
    /// How many runs may fail before the job is dead.
    pub max_attempts: u16,
    /// When the job is due, or was last due.
    pub run_at: DateTime<Utc>,
    /// When the job is cancelled unless a run has started.
    pub expires_at: Option<DateTime<Utc>>,
    /// When the job was enqueued.
    pub created_at: DateTime<Utc>,
    /// When the latest run started.
    pub started_at: Option<DateTime<Utc>>,
    /// When the job reached a final state.
    pub finished_at: Option<DateTime<Utc>>,
    /// The unique key it was enqueued with.
    pub unique_key: Option<String>,
    /// Key of its lane, if the lane is ordered.
    pub ordering_key: Option<String>,
    /// Labels to search by.
    pub tags: Vec<String>,
    /// The handler's arguments.
    pub payload: Box<RawValue>,
    /// What the handler returned.
    pub result: Option<Value>,
    /// The progress last reported by a handler whose kind reports it.
    pub progress: Option<Value>,
    /// Error of the latest run that did not succeed.
    pub last_error: Option<JobError>,
    /// The request that caused the job.
    pub trace: Trace,
}

/// How one run of a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The job succeeded.
    Succeeded,
    /// The run failed; the job runs again.
    Retry,
    /// The handler deferred the job; no attempt used.
    Snoozed,
    /// The called service asked to wait; no attempt used.
    RateLimited,
    /// The job failed permanently, or without attempts left.
    Dead,
    /// The job was cancelled while it ran.
    Cancelled,
    /// The worker died or lost its lease.
    Lost,
}

impl AttemptOutcome {
    /// All outcomes.
    const ALL: [Self; 7] = [
        Self::Succeeded,
        Self::Retry,
        Self::Snoozed,
        Self::RateLimited,
        Self::Dead,
        Self::Cancelled,
        Self::Lost,
    ];

    /// The value of the `outcome` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Retry => "retry",
            Self::Snoozed => "snoozed",
            Self::RateLimited => "rate_limited",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }

    /// The outcome that a value of the `outcome` column stands for.
    ///
    /// # Errors
    /// [`UnknownOutcome`] for a value that no release has written.
    pub fn parse(outcome: &str) -> Result<Self, UnknownOutcome> {
        Self::ALL
            .into_iter()
            .find(|known| known.as_str() == outcome)
            .ok_or_else(|| UnknownOutcome(outcome.to_owned()))
    }
}

/// A run of a job that has ended.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// 1 for the first run; counts every run, including those that used no attempt.
    pub number: u32,
    /// The worker that ran it, as long as the worker's record is kept.
    pub worker_id: Option<WorkerId>,
    /// When the run was claimed.
    pub started_at: DateTime<Utc>,
    /// When its outcome was written.
    pub finished_at: DateTime<Utc>,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why it did not succeed.
    pub error: Option<JobError>,
    /// When the job was to run again, if it was.
    pub next_run_at: Option<DateTime<Utc>>,
}
