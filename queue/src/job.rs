//! Room: the engine's plain words: what a job is, before, while and after it runs.
//! Takes and gives: data. Never: touches the database.

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

/// A job that is wanted. Its rules (known kind, sizes, ranges) were checked by whoever made it.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Kind, as the catalogue names it.
    pub kind: String,
    /// Queue it waits in.
    pub queue: String,
    /// What the handler is given: JSON, at most [`MAX_PAYLOAD_BYTES`].
    pub payload: Box<RawValue>,
    /// 0 (first) to 9.
    pub priority: u8,
    /// Not before this moment; `None` means now by the database's clock.
    pub run_at: Option<DateTime<Utc>>,
    /// Not before this long after the enqueue, by the database's clock.
    pub delay: Duration,
    /// A job that has not started by this moment is cancelled. It has started when a worker claimed it,
    /// also if that run failed and another one is to come.
    pub expires_at: Option<DateTime<Utc>>,
    /// Runs that may fail before the job is dead, at least 1.
    pub max_attempts: u16,
    /// Longest run; after it the handler is abandoned and the run counts as failed.
    pub timeout: Duration,
    /// Waits between failed runs.
    pub backoff: Backoff,
    /// At most one such job of its tenant and kind at a time.
    pub unique: Option<Unique>,
    /// Which of its tenant's lanes in the queue it waits in.
    pub lane: Lane,
    /// Limits of its tenant that it passes besides those of tenant and queue; at most
    /// [`MAX_LIMITS`]. In a lane by [`Lane::Ordered`] those named last hold for the whole lane.
    pub limits: Vec<LimitUse>,
    /// Words to search by.
    pub tags: Vec<String>,
    /// Where it came from.
    pub trace: Trace,
}

/// Most limits a job may name.
pub const MAX_LIMITS: usize = 3;

/// A line of jobs that share a fate within one queue of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The lane of all jobs that name none.
    #[default]
    Default,
    /// Jobs that are limited, parked and broken together: those to one endpoint, from one number.
    Named(String),
    /// One job after another, in the order of priority, due time and enqueue. A job that failed
    /// stays the first until it has finished.
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

/// A limit that a job passes, and how many starts its one start counts for there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitUse {
    /// The limit's key within the tenant, 1 to 256 characters.
    pub key: String,
    /// Its cost, at least 1.
    pub cost: u16,
}

/// A key that names one job of its tenant and kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// The key, 1 to 256 characters.
    pub key: String,
    /// How long the key stays taken: a time counted from the enqueue, or, when `None`, until the
    /// job has finished.
    pub hold: Option<Duration>,
}

/// What ties a job to the request that caused it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// W3C `traceparent` of the request.
    #[serde(default, rename = "p", skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// `X-Request-Id` of the request.
    #[serde(default, rename = "r", skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The answer to one enqueued job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// A new job.
    New(JobId),
    /// The job that holds the unique key already.
    Existing(JobId),
}

impl Enqueued {
    /// The job's id, new or not.
    #[must_use]
    pub fn id(self) -> JobId {
        match self {
            Self::New(id) | Self::Existing(id) => id,
        }
    }
}

/// Where a job is in its life. See `docs/STATE_MACHINE.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Due in the future, or waiting out a backoff.
    Scheduled,
    /// Due, waiting for a worker.
    Ready,
    /// Claimed by a worker.
    Running,
    /// Finished well.
    Succeeded,
    /// Attempts used up, or a permanent error.
    Dead,
    /// Cancelled by somebody.
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

    /// Whether nothing more happens to the job by itself.
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

/// What went wrong: a stable code for machines, words for people. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Stable snake_case code, listed in `docs/ERRORS.md`.
    pub code: String,
    /// One sentence; cut to 2 KiB when stored.
    pub message: String,
}

impl JobError {
    /// An error from its two parts.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

/// A job as it stands.
#[derive(Debug, Clone)]
pub struct Job {
    /// Id.
    pub id: JobId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Kind.
    pub kind: String,
    /// Queue.
    pub queue: String,
    /// State.
    pub state: JobState,
    /// 0 (first) to 9.
    pub priority: u8,
    /// Runs charged against `max_attempts` since the job was enqueued or last retried by hand, the
    /// running one included.
    pub attempt: u16,
    /// Runs that may fail before it is dead.
    pub max_attempts: u16,
    /// When it is, or was last, due.
    pub run_at: DateTime<Utc>,
    /// When it is cancelled unless it has started.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// Start of the latest run.
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached a final state.
    pub finished_at: Option<DateTime<Utc>>,
    /// Its unique key, if it was enqueued with one.
    pub unique_key: Option<String>,
    /// The key of its ordered lane, if it waits in one.
    pub ordering_key: Option<String>,
    /// Words to search by.
    pub tags: Vec<String>,
    /// What the handler is given.
    pub payload: Box<RawValue>,
    /// What the handler answered.
    pub result: Option<Value>,
    /// How far it has come, of a kind that tells it.
    pub progress: Option<Value>,
    /// Why the latest unsuccessful run ended as it did.
    pub last_error: Option<JobError>,
    /// Where it came from.
    pub trace: Trace,
}

/// How one run of a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// It did what it should.
    Succeeded,
    /// It failed and will be tried again.
    Retry,
    /// It asked to be run later; no attempt used.
    Snoozed,
    /// The other side asked to wait; no attempt used.
    RateLimited,
    /// It failed for good.
    Dead,
    /// It was cancelled while it ran.
    Cancelled,
    /// Its worker died or lost its lease.
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

/// One run of a job that has ended.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// 1 for the job's first run; counts every run, also those that used no attempt.
    pub number: u32,
    /// Which worker ran it, while its record is kept.
    pub worker_id: Option<WorkerId>,
    /// When the run was claimed.
    pub started_at: DateTime<Utc>,
    /// When its outcome was written.
    pub finished_at: DateTime<Utc>,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// What went wrong, if anything did.
    pub error: Option<JobError>,
    /// When the job is due again, if it is.
    pub next_run_at: Option<DateTime<Utc>>,
}
