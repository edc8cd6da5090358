//! Room: the end of a tenant.
//! Takes: a tenant that nobody may enqueue for any more. Gives: its jobs, and all that the engine keeps of
//! it, removed step by step; word of what is not over yet. Never: touches another tenant, ends a run by
//! force, or waits for one.

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::TenantId;

use crate::engine::Engine;
use crate::error::Error;

/// Rows removed by one statement; of jobs each may hold 500.
const BATCH: i32 = 1000;

/// Where rows of a tenant lie besides its jobs, in the order in which they go: lanes before the limiters that
/// they pass.
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

/// How far an erasure has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErasureProgress {
    /// Nothing is left.
    pub finished: bool,
    /// Jobs that still run: they are cancelled, and their workers are told.
    pub running: i64,
    /// Jobs removed now.
    pub jobs: i64,
    /// Rows of other tables removed now.
    pub rows: i64,
}

impl Engine {
    /// Removes everything the engine holds of a tenant, a thousand rows at a time. Nothing of it starts
    /// from here on; what runs is cancelled and waited for: until it has ended, and until whoever was
    /// enqueueing meanwhile has, `finished` is false, and the caller comes again later. To repeat it is
    /// harmless at any time.
    ///
    /// # Errors
    /// When the database refuses; what was removed until then stays removed.
    pub async fn erase_tenant(&self, tenant: TenantId) -> Result<ErasureProgress, Error> {
        let mut done = ErasureProgress::default();
        // The second tells who was at work when the first was seen.
        self.stop_tenant(tenant).await?;
        let Some(number) = self.stop_tenant(tenant).await? else {
            done.finished = true;
            return Ok(done);
        };
        done.running = query_scalar(include_str!("sql/erase_running.sql"))
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
        // A fold may have written another minute of the past.
        done.rows += self.erase_rows(number, "history").await?;
        done.finished = query_scalar(include_str!("sql/erase_end.sql"))
            .bind(number)
            .fetch_one(self.pool())
            .await?;
        Ok(done)
    }

    async fn stop_tenant(&self, tenant: TenantId) -> Result<Option<i32>, Error> {
        Ok(query_scalar(include_str!("sql/erase_begin.sql"))
            .bind(tenant)
            .fetch_one(self.pool())
            .await?)
    }

    async fn erase_jobs(&self, number: i32) -> Result<i64, Error> {
        let (mut total, mut after) = (0, 0_i64);
        loop {
            let (seen, jobs, last): (i64, i64, i64) = query_as(include_str!("sql/erase_jobs.sql"))
                .bind(number)
                .bind(after)
                .bind(BATCH)
                .fetch_one(self.pool())
                .await?;
            if seen > 0 {
                self.schedule_rollup();
            }
            total += jobs;
            after = last;
            if seen < i64::from(BATCH) {
                return Ok(total);
            }
        }
    }

    async fn erase_rows(&self, number: i32, table: &'static str) -> Result<i64, Error> {
        let mut total = 0;
        loop {
            let rows: i64 = query_scalar(include_str!("sql/erase_rows.sql"))
                .bind(number)
                .bind(table)
                .bind(BATCH)
                .fetch_one(self.pool())
                .await?;
            total += rows;
            if rows < i64::from(BATCH) {
                return Ok(total);
            }
        }
    }
}
