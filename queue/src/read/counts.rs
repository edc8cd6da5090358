//! The current state of queues: how many jobs are in each state, the throughput of the last minute, and
//! the age of the oldest ready job.
//!
//! Reads counters; never counts jobs.

use harkara_shared::database::query_as;
use harkara_shared::id::TenantId;

use crate::engine::Engine;
use crate::error::Error;

/// Most lanes of one queue that are searched for the oldest ready job.
const MAX_LANES_PER_QUEUE: i32 = 1000;

/// Fewest lanes of one queue that are searched, however many queues are read.
const MIN_LANES_PER_QUEUE: i32 = 20;

/// Most lanes that are searched in all queues together.
const MAX_LANES: i32 = 4000;

/// The exact state of a queue at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, sqlx::FromRow)]
pub struct QueueCounts {
    /// Internal number of the queue.
    pub queue: i32,
    /// Jobs that are not due yet.
    pub scheduled: i64,
    /// Jobs that are due.
    pub ready: i64,
    /// Jobs that are running.
    pub running: i64,
    /// Jobs that failed for good.
    pub dead: i64,
    /// How long the oldest job that could start now has been due. Jobs of paused or parked lanes are left
    /// out. At most the first thousand lanes of a queue are searched.
    pub oldest_ready_seconds: Option<f64>,
    /// Jobs enqueued in the last full minute.
    pub enqueued: i64,
    /// Jobs that succeeded in the last full minute.
    pub succeeded: i64,
    /// Runs that failed in the last full minute, whether or not they are retried.
    pub failed: i64,
}

impl Engine {
    /// The state of the queues with these internal numbers, in no particular order: the jobs of one
    /// tenant, or of all tenants together.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn queue_counts(
        &self,
        queues: &[i32],
        tenant: Option<TenantId>,
    ) -> Result<Vec<QueueCounts>, Error> {
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        let queue_count = i32::try_from(queues.len()).unwrap_or(i32::MAX);
        let lanes = (MAX_LANES / queue_count).clamp(MIN_LANES_PER_QUEUE, MAX_LANES_PER_QUEUE);
        Ok(query_as(include_str!("count_queues.sql"))
            .bind(queues)
            .bind(tenant)
            .bind(lanes)
            .fetch_all(self.pool())
            .await?)
    }
}
