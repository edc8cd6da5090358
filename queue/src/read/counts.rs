//! Room: how queues are doing.
//! Takes: queues, and whose jobs are meant. Gives: how many there are, what the last minute was like, and
//! how long the oldest has been ready. Never: counts jobs: the counters are read.

use harkara_shared::database::query_as;
use harkara_shared::id::TenantId;

use crate::engine::Engine;
use crate::error::Error;

/// Most lanes of a queue in which the oldest ready job is looked for, and of all queues together.
const LANES: i32 = 1000;
const LANES_TOGETHER: i32 = 4000;

/// How a queue is doing, exactly, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, sqlx::FromRow)]
pub struct QueueCounts {
    /// Number of the queue.
    pub queue: i32,
    /// Jobs that are not due yet.
    pub scheduled: i64,
    /// Jobs that are due.
    pub ready: i64,
    /// Jobs that run.
    pub running: i64,
    /// Jobs that were given up.
    pub dead: i64,
    /// How long the oldest job that could start now has been due. Jobs that are kept from starting, by
    /// a pause or in a parked lane, are left out. Of queues with more than a thousand lanes the first
    /// thousand are looked at.
    pub oldest_ready_seconds: Option<f64>,
    /// Jobs enqueued in the last whole minute.
    pub enqueued: i64,
    /// Jobs that succeeded in it.
    pub succeeded: i64,
    /// Runs that failed in it, for now or for good.
    pub failed: i64,
}

impl Engine {
    /// How the queues of these numbers are doing, in no order: for one tenant, or for all together.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn queue_counts(
        &self,
        queues: &[i32],
        tenant: Option<TenantId>,
    ) -> Result<Vec<QueueCounts>, Error> {
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        let many = i32::try_from(queues.len()).unwrap_or(i32::MAX);
        Ok(query_as(include_str!("../sql/count_queues.sql"))
            .bind(queues)
            .bind(tenant)
            .bind((LANES_TOGETHER / many).clamp(20, LANES))
            .fetch_all(self.pool())
            .await?)
    }
}
