//! Room: all that bears on whether a job runs now.
//! Takes: the object that `queue.explain` answers. Gives: the same, typed.
//! Never: decides what it means.

use chrono::{DateTime, Utc};
use harkara_shared::id::{JobId, WorkerId};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::job::JobState;

/// A job and what stands around it, at one moment.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Facts {
    #[serde(rename = "at")]
    pub(super) now: DateTime<Utc>,
    #[serde(deserialize_with = "job_id")]
    pub(super) job: JobId,
    #[serde(deserialize_with = "letter")]
    pub(super) state: JobState,
    pub(super) attempt: u32,
    pub(super) max_attempts: u32,
    pub(super) run_at: DateTime<Utc>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) started_at: Option<DateTime<Utc>>,
    pub(super) finished_at: Option<DateTime<Utc>>,
    pub(super) error_code: Option<String>,
    /// Its worker died under it.
    pub(super) lost: bool,
    /// Somebody cancelled it while it ran.
    pub(super) cancelling: bool,
    pub(super) queue: String,
    /// Of a job that runs or has run.
    #[serde(default)]
    pub(super) lease: Option<Lease>,
    // What follows is told of jobs that wait.
    #[serde(default)]
    pub(super) queue_pause: Option<Pause>,
    #[serde(default)]
    pub(super) tenant_pause: Option<Pause>,
    #[serde(default)]
    pub(super) lane_pause: Option<Pause>,
    #[serde(default)]
    pub(super) lane: LaneFacts,
    #[serde(default)]
    pub(super) limiters: Option<Vec<Limiter>>,
    /// Whether a worker that lives serves the queue.
    #[serde(default)]
    pub(super) served: bool,
    /// How many of its jobs those workers run at once, if all these places are taken.
    #[serde(default)]
    pub(super) full: Option<u64>,
    /// When the last one did, if none does.
    #[serde(default)]
    pub(super) served_last: Option<DateTime<Utc>>,
    /// The last run that did not succeed, of a scheduled job.
    #[serde(default)]
    pub(super) last_run: Option<LastRun>,
    /// Of an ordered lane: the job that has begun, or else the first one that is ready.
    #[serde(default)]
    pub(super) head: Option<Head>,
    /// Jobs that go first in its lane, of a job that is ready; `more` when there may be more.
    #[serde(default)]
    pub(super) ahead: u32,
    #[serde(default)]
    pub(super) more: bool,
    /// Other lanes of the tenant in the queue that have ready jobs.
    #[serde(default)]
    pub(super) rivals: u32,
    #[serde(default)]
    pub(super) more_rivals: bool,
}

/// Who has it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Lease {
    #[serde(deserialize_with = "worker_id")]
    pub(super) worker: WorkerId,
    pub(super) expires_at: DateTime<Utc>,
}

/// Somebody has stopped something.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pause {
    pub(super) since: Option<DateTime<Utc>>,
}

/// The lane it waits in.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct LaneFacts {
    pub(super) key: String,
    pub(super) breaker: Breaker,
    pub(super) failures: u32,
    pub(super) parked_at: Option<DateTime<Utc>>,
    /// In the future, if it is there.
    pub(super) parked_until: Option<DateTime<Utc>>,
}

impl Default for LaneFacts {
    fn default() -> Self {
        Self {
            key: String::new(),
            breaker: Breaker::Closed,
            failures: 0,
            parked_at: None,
            parked_until: None,
        }
    }
}

/// Where the lane's breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Breaker {
    #[serde(rename = "c")]
    Closed,
    #[serde(rename = "o")]
    Open,
    #[serde(rename = "h")]
    HalfOpen,
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LimiterOf {
    Queue,
    Tenant,
    Lane,
    Key,
}

/// A limit in its way.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Limiter {
    pub(super) of: LimiterOf,
    pub(super) key: Option<String>,
    /// How many starts its start counts for.
    pub(super) cost: u32,
    pub(super) max_running: Option<u32>,
    /// Whether so many run.
    pub(super) full: bool,
    /// How many do; not told of queues, which all tenants share.
    pub(super) running: Option<u32>,
    pub(super) rate_count: Option<u32>,
    pub(super) period_us: Option<i64>,
    pub(super) burst: Option<u32>,
    /// Microseconds of one start.
    pub(super) every_us: Option<i64>,
    /// Microseconds of starts granted ahead of time.
    pub(super) ahead_us: i64,
}

/// How its last run ended.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct LastRun {
    pub(super) outcome: String,
    pub(super) finished_at: DateTime<Utc>,
    pub(super) next_run_at: Option<DateTime<Utc>>,
    pub(super) error_code: Option<String>,
}

/// Who goes first in an ordered lane.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Head {
    #[serde(deserialize_with = "job_id")]
    pub(super) job: JobId,
    #[serde(deserialize_with = "letter")]
    pub(super) state: JobState,
    /// Whether it has run before, and is not to be overtaken.
    pub(super) begun: bool,
}

fn job_id<'de, D: Deserializer<'de>>(from: D) -> Result<JobId, D::Error> {
    i64::deserialize(from).map(JobId::from_i64)
}

fn worker_id<'de, D: Deserializer<'de>>(from: D) -> Result<WorkerId, D::Error> {
    let uuid = sqlx::types::Uuid::deserialize(from)?;
    Ok(WorkerId::from_uuid(uuid))
}

fn letter<'de, D: Deserializer<'de>>(from: D) -> Result<JobState, D::Error> {
    let letter = String::deserialize(from)?;
    JobState::from_letter(&letter).map_err(D::Error::custom)
}
