//! Maintains the job counters: rolls them up on demand, compares them with the jobs and repairs them.

use harkara_shared::database::{query_as, query_scalar};

use crate::engine::Engine;
use crate::error::Error;
use crate::rollup::roll_up;

/// A counter that differs from the jobs it counts: those of one kind and tenant in one queue, each
/// given by its internal number.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Drift {
    /// Internal number of the tenant.
    pub tenant: i32,
    /// Internal number of the queue.
    pub queue: i32,
    /// Internal number of the kind.
    pub kind: i32,
    /// The counted state: `scheduled`, `ready`, `running` or `dead`.
    pub state: String,
    /// Value of the counter.
    #[sqlx(rename = "recorded")]
    pub recorded: i64,
    /// Number of jobs in the table.
    #[sqlx(rename = "counted")]
    pub actual: i64,
}

impl Engine {
    /// Rolls up counter deltas now. Processes that change jobs do so in the background.
    ///
    /// # Errors
    /// When a statement fails.
    pub async fn roll_up(&self) -> Result<(), Error> {
        Ok(roll_up(self.pool()).await?)
    }

    /// Counts all unfinished jobs, repairs the counters and returns how many were wrong. Does not
    /// block other processes.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn recount(&self) -> Result<i64, Error> {
        Ok(query_scalar(include_str!("counters/recount.sql"))
            .fetch_one(self.pool())
            .await?)
    }

    /// Returns the counters that are wrong at one moment: none, unless jobs were written without the
    /// engine. Counts all unfinished jobs.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn drift(&self) -> Result<Vec<Drift>, Error> {
        Ok(query_as(include_str!("counters/drift.sql"))
            .fetch_all(self.pool())
            .await?)
    }
}
