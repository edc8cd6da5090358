//! Room: why a job does not run.
//! Takes: a job's id. Gives: its state and every reason that keeps it, the most decisive first, all of
//! one moment.
//! Never: tells a tenant another's ids or counts, or guesses what the database does not say.

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
    /// Where the job is in its life.
    pub state: JobState,
    /// Whether it is ready, and nothing but other jobs of its lane stands in its way.
    pub runnable: bool,
    /// What keeps it, the most decisive first; never empty.
    pub reasons: Vec<Reason>,
}

/// One thing that keeps a job from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What sort of thing.
    pub code: ReasonCode,
    /// One sentence for people.
    pub detail: String,
    /// Since when it holds, where that is known.
    pub since: Option<DateTime<Utc>>,
    /// When it ends by itself, where that is known.
    pub until: Option<DateTime<Utc>>,
    /// How many jobs go first, where that is what keeps it.
    pub ahead: Option<u32>,
}

/// What sort of thing keeps a job from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReasonCode {
    /// Somebody has stopped the queue.
    QueuePaused,
    /// Somebody has stopped the tenant.
    TenantPaused,
    /// Somebody has stopped the lane.
    LanePaused,
    /// It is due in the future, or waits out a backoff.
    Scheduled,
    /// No worker that lives serves the queue.
    NoWorker,
    /// Jobs of its lane failed one after another, and it rests.
    BreakerOpen,
    /// Another job of its ordered lane goes first.
    OrderingHead,
    /// A limit on starts is used up, or the other side asked the lane to rest.
    RateLimited,
    /// As many jobs run as may run at once.
    ConcurrencyLimit,
    /// It waits for its turn, and nothing else.
    Behind,
    /// It runs.
    Running,
    /// It has ended.
    Finished,
}

impl ReasonCode {
    /// All codes, the most decisive first: what only a person ends, then the job's own time, then that
    /// nobody could take it, then its lane and its limits, and its place in the line last.
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

    /// The code as people and programs read it.
    #[must_use]
    pub fn word(self) -> &'static str {
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

/// Why a job of the tenant whose transaction this is does not run; `None` when it has no such job.
///
/// # Errors
/// As [`super::job`].
pub async fn explain(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Option<Explanation>, Error> {
    let facts: Option<Value> = query_scalar(include_str!("../sql/explain_job.sql"))
        .bind(id)
        .fetch_one(connection)
        .await?;
    facts
        .map(|facts| {
            let facts: Facts = serde_json::from_value(facts).map_err(|error| Error::Corrupt {
                job: id.as_i64(),
                reason: format!("what is known of it: {error}"),
            })?;
            Ok(facts.explain())
        })
        .transpose()
}
