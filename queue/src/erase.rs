//! Erases a tenant: its jobs and everything else the engine stores for it, in short statements.
//!
//! Takes a tenant for which no new enqueue is permitted any more. Never touches another tenant, never
//! ends a run by force and never waits for one: it reports that runs are left, and the caller repeats.

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::TenantId;

use crate::engine::Engine;
use crate::error::Error;

/// Most rows that one statement removes; a row of jobs may hold 500 of them.
const MAX_ROWS_PER_STATEMENT: i32 = 1000;

/// The tables besides that of jobs, in the order of removal: lanes before the limiters that they
/// refer to.
const TABLES: [&str; 8] = [
    "labels",
    "progress",
    "unique_keys",
    "attempts",
    "lanes",
    "limiters",
    "shares",
    "history",
];

/// What one call of [`Engine::erase_tenant`] achieved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErasureProgress {
    /// Whether nothing of the tenant is left.
    pub finished: bool,
    /// Jobs that still run. They are cancelled, and their workers have been notified.
    pub running: i64,
    /// Jobs removed by this call.
    pub jobs: i64,
    /// Rows of other tables removed by this call.
    pub rows: i64,
}

impl Engine {
    /// Removes everything the engine stores for a tenant, a thousand rows at a time. From the first call
    /// on, no job of the tenant starts; running jobs are cancelled. While runs or transactions that
    /// enqueue for the tenant are still open, `finished` is false and the caller repeats the call later.
    /// Repeating it is always harmless.
    ///
    /// # Errors
    /// When a statement fails; rows removed before stay removed.
    pub async fn erase_tenant(&self, tenant: TenantId) -> Result<ErasureProgress, Error> {
        let mut done = ErasureProgress::default();
        // Called twice, in two transactions: the second one records where transactions begin that are
        // certain to see the tenant stopped, and `erase_end` requires that all older ones have ended.
        self.stop_tenant(tenant).await?;
        let Some(number) = self.stop_tenant(tenant).await? else {
            done.finished = true;
            return Ok(done);
        };
        done.running = query_scalar(include_str!("erase/erase_running.sql"))
            .bind(number)
            .bind(self.notify())
            .fetch_one(self.pool())
            .await?;
        done.jobs = self.erase_jobs(number).await?;
        if done.running > 0 {
            return Ok(done);
        }
        for table in TABLES {
            done.rows += self.erase_rows(number, table).await?;
        }
        self.roll_up().await?;
        // The rollup may have written another minute of history.
        done.rows += self.erase_rows(number, "history").await?;
        done.finished = query_scalar(include_str!("erase/erase_end.sql"))
            .bind(number)
            .fetch_one(self.pool())
            .await?;
        Ok(done)
    }

    /// Stops the tenant and returns its internal number; `None` if the engine does not know it.
    async fn stop_tenant(&self, tenant: TenantId) -> Result<Option<i32>, Error> {
        Ok(query_scalar(include_str!("erase/erase_begin.sql"))
            .bind(tenant)
            .fetch_one(self.pool())
            .await?)
    }

    /// Removes the jobs of the tenant with this internal number and returns how many there were.
    async fn erase_jobs(&self, tenant: i32) -> Result<i64, Error> {
        let (mut total, mut after) = (0, 0_i64);
        loop {
            let (seen, jobs, last): (i64, i64, i64) =
                query_as(include_str!("erase/erase_jobs.sql"))
                    .bind(tenant)
                    .bind(after)
                    .bind(MAX_ROWS_PER_STATEMENT)
                    .fetch_one(self.pool())
                    .await?;
            if seen > 0 {
                self.schedule_rollup();
            }
            total += jobs;
            after = last;
            if seen < i64::from(MAX_ROWS_PER_STATEMENT) {
                return Ok(total);
            }
        }
    }

    /// Removes the tenant's rows of one of [`TABLES`] and returns how many there were.
    async fn erase_rows(&self, tenant: i32, table: &'static str) -> Result<i64, Error> {
        let mut total = 0;
        loop {
            let rows: i64 = query_scalar(include_str!("erase/erase_rows.sql"))
                .bind(tenant)
                .bind(table)
                .bind(MAX_ROWS_PER_STATEMENT)
                .fetch_one(self.pool())
                .await?;
            total += rows;
            if rows < i64::from(MAX_ROWS_PER_STATEMENT) {
                return Ok(total);
            }
        }
    }
}
