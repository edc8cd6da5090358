//! Explains why a job does not run.
//!
//! Returns the job's state and every reason that holds it back, the most decisive first, all as of one
//! moment. Never reveals ids or counts of another tenant, and never guesses.

mod facts;
mod reasons;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use harkara_shared::database::query_scalar;
use harkara_shared::id::JobId;
use serde_json::Value;
use sqlx::PgConnection;

use crate::error::Error;
use crate::job::JobState;
use facts::Facts;

/// Why a job does not run, or that it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The state of the job.
    pub state: JobState,
    /// Whether it is ready and held back by nothing but earlier jobs of its lane.
    pub runnable: bool,
    /// What holds it back, the most decisive first; never empty.
    pub reasons: Vec<Reason>,
}

/// One reason why a job does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Stable code.
    pub code: ReasonCode,
    /// One sentence for people.
    pub detail: String,
    /// Since when the reason holds, if known.
    pub since: Option<DateTime<Utc>>,
    /// When it ends by itself, if known.
    pub until: Option<DateTime<Utc>>,
    /// How many jobs go first, if that is the reason.
    pub ahead: Option<u32>,
}

/// The kinds of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReasonCode {
    /// The queue is paused.
    QueuePaused,
    /// The tenant is paused.
    TenantPaused,
    /// The lane is paused.
    LanePaused,
    /// The job is due in the future, or waits for its backoff to end.
    Scheduled,
    /// No live worker serves the queue.
    NoWorker,
    /// The breaker of its lane is open because jobs failed.
    BreakerOpen,
    /// Another job of its ordered lane goes first.
    OrderingHead,
    /// A limit on starts is used up, or the receiving side asked for a pause.
    RateLimited,
    /// A limit on running jobs is used up, or all slots of the workers are taken.
    ConcurrencyLimit,
    /// Other jobs of its lane go first, or nothing holds it back.
    Behind,
    /// The job is running.
    Running,
    /// The job has finished.
    Finished,
}

impl ReasonCode {
    /// All codes, the most decisive first: what only a person can end, the job's own time, missing
    /// workers, its lane and its limits, and its position in the lane last.
    pub const ALL: [Self; 12] = [
        Self::QueuePaused,
        Self::TenantPaused,
        Self::LanePaused,
        Self::Scheduled,
        Self::NoWorker,
        Self::BreakerOpen,
        Self::OrderingHead,
        Self::RateLimited,
        Self::ConcurrencyLimit,
        Self::Behind,
        Self::Running,
        Self::Finished,
    ];

    /// The code as the API returns it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueuePaused => "queue_paused",
            Self::TenantPaused => "tenant_paused",
            Self::LanePaused => "lane_paused",
            Self::Scheduled => "scheduled",
            Self::NoWorker => "no_worker",
            Self::BreakerOpen => "breaker_open",
            Self::OrderingHead => "ordering_head",
            Self::RateLimited => "rate_limited",
            Self::ConcurrencyLimit => "concurrency_limit",
            Self::Behind => "behind",
            Self::Running => "running",
            Self::Finished => "finished",
        }
    }
}

/// Explains a job of the tenant whose transaction this is; `None` if it does not exist.
///
/// # Errors
/// As [`super::job`].
pub async fn explain(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Option<Explanation>, Error> {
    let facts: Option<Value> = query_scalar(include_str!("explain/explain_job.sql"))
        .bind(id)
        .fetch_one(connection)
        .await?;
    facts
        .map(|facts| {
            let facts: Facts = serde_json::from_value(facts).map_err(|error| Error::Corrupt {
                job: id.as_i64(),
                reason: format!("facts about it: {error}"),
            })?;
            Ok(facts.explain())
        })
        .transpose()
}
