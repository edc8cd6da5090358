//! Everything that decides whether a job runs now: the object that the SQL function `queue.explain`
//! returns, typed. Its interpretation is in `reasons.rs`.

use chrono::{DateTime, Utc};
use harkara_shared::id::{JobId, WorkerId};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::job::JobState;

/// A job and everything that can hold it back, at one moment.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Facts {
    #[serde(rename = "at")]
    pub(super) now: DateTime<Utc>,
    #[serde(deserialize_with = "job_id")]
    pub(super) job: JobId,
    #[serde(deserialize_with = "state_letter")]
    pub(super) state: JobState,
    pub(super) attempt: u32,
    pub(super) max_attempts: u32,
    pub(super) run_at: DateTime<Utc>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) started_at: Option<DateTime<Utc>>,
    pub(super) finished_at: Option<DateTime<Utc>>,
    pub(super) error_code: Option<String>,
    /// Whether the worker of its last run died, so that the job is retried alone.
    #[serde(rename = "lost")]
    pub(super) worker_lost: bool,
    /// Whether it has been cancelled while it runs.
    pub(super) cancelling: bool,
    pub(super) queue: String,
    /// Set for a job that runs or has run.
    #[serde(default)]
    pub(super) lease: Option<Lease>,
    // The fields below are set for jobs that wait.
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
    /// Whether a live worker serves the queue.
    #[serde(default, rename = "served")]
    pub(super) has_live_worker: bool,
    /// Slots of these workers for the queue, if all of them are taken.
    #[serde(default, rename = "full")]
    pub(super) slots_all_taken: Option<u64>,
    /// When a worker last served the queue, if no live one does.
    #[serde(default, rename = "served_last")]
    pub(super) last_served_at: Option<DateTime<Utc>>,
    /// The last unsuccessful run of a scheduled job.
    #[serde(default)]
    pub(super) last_run: Option<LastRun>,
    /// In an ordered lane: the job that has run before, or else the first ready one.
    #[serde(default)]
    pub(super) head: Option<Head>,
    /// For a ready job: how many jobs of its lane go first.
    #[serde(default)]
    pub(super) ahead: u32,
    /// Whether counting stopped at `ahead`, so that there can be more.
    #[serde(default, rename = "more")]
    pub(super) ahead_is_minimum: bool,
    /// Other lanes of the tenant in the queue that have ready jobs.
    #[serde(default, rename = "rivals")]
    pub(super) other_ready_lanes: u32,
    /// Whether counting stopped at `other_ready_lanes`, so that there can be more.
    #[serde(default, rename = "more_rivals")]
    pub(super) other_ready_lanes_is_minimum: bool,
}

/// The lease under which a worker holds the job.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Lease {
    #[serde(deserialize_with = "worker_id")]
    pub(super) worker: WorkerId,
    pub(super) expires_at: DateTime<Utc>,
}

/// A manual pause.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pause {
    pub(super) since: Option<DateTime<Utc>>,
}

/// The job's lane.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct LaneFacts {
    pub(super) key: String,
    pub(super) breaker: Breaker,
    pub(super) failures: u32,
    pub(super) parked_at: Option<DateTime<Utc>>,
    /// In the future, if set.
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

/// The state of the lane's breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Breaker {
    #[serde(rename = "c")]
    Closed,
    #[serde(rename = "o")]
    Open,
    #[serde(rename = "h")]
    HalfOpen,
}

/// What a limit applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LimitScope {
    Queue,
    Tenant,
    Lane,
    Key,
}

/// A limit that the job must pass, and its current use.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Limiter {
    #[serde(rename = "of")]
    pub(super) scope: LimitScope,
    pub(super) key: Option<String>,
    /// As how many starts the job's start counts.
    pub(super) cost: u32,
    pub(super) max_running: Option<u32>,
    /// Whether `max_running` jobs run.
    pub(super) full: bool,
    /// How many run; unset for a queue, whose jobs belong to all tenants.
    pub(super) running: Option<u32>,
    pub(super) rate_count: Option<u32>,
    pub(super) period_us: Option<u64>,
    pub(super) burst: Option<u32>,
    /// Microseconds between two starts at the full rate.
    pub(super) every_us: Option<i64>,
    /// Microseconds worth of starts that were granted ahead of the rate.
    pub(super) ahead_us: i64,
}

/// The end of the job's last run.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct LastRun {
    pub(super) outcome: String,
    pub(super) finished_at: DateTime<Utc>,
    pub(super) next_run_at: Option<DateTime<Utc>>,
    pub(super) error_code: Option<String>,
}

/// The first job of an ordered lane.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Head {
    #[serde(deserialize_with = "job_id")]
    pub(super) job: JobId,
    #[serde(deserialize_with = "state_letter")]
    pub(super) state: JobState,
    /// Whether it has run before, so that no other job may overtake it.
    pub(super) begun: bool,
}

fn job_id<'de, D: Deserializer<'de>>(from: D) -> Result<JobId, D::Error> {
    i64::deserialize(from).map(JobId::from_i64)
}

fn worker_id<'de, D: Deserializer<'de>>(from: D) -> Result<WorkerId, D::Error> {
    let uuid = sqlx::types::Uuid::deserialize(from)?;
    Ok(WorkerId::from_uuid(uuid))
}

fn state_letter<'de, D: Deserializer<'de>>(from: D) -> Result<JobState, D::Error> {
    let letter = String::deserialize(from)?;
    JobState::from_letter(&letter).map_err(D::Error::custom)
}
