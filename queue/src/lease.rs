//! Room: a worker's right to its claims.
//! Takes: who the worker is. Gives: a lease that is opened, renewed and closed.
//! Never: revives an expired lease: its holder opens another, and what it held is rescued.

use std::time::Duration;

use harkara_shared::database::{query, query_scalar};
use harkara_shared::duration::milliseconds;
use harkara_shared::id::WorkerId;
use serde_json::Value;

use crate::engine::Engine;
use crate::error::Error;

/// How a worker process introduces itself.
#[derive(Debug, Clone)]
pub struct WorkerInfo {
    /// Id, new for every process start.
    pub id: WorkerId,
    /// Name of its machine.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// Release.
    pub version: String,
    /// `{"queue": concurrency}`.
    pub queues: Value,
}

impl Engine {
    pub(crate) async fn open_lease(
        &self,
        worker: &WorkerInfo,
        length: Duration,
    ) -> Result<i64, Error> {
        Ok(query_scalar(include_str!("sql/open_lease.sql"))
            .bind(worker.id)
            .bind(&worker.host)
            .bind(i32::try_from(worker.pid).unwrap_or(i32::MAX))
            .bind(&worker.version)
            .bind(&worker.queues)
            .bind(milliseconds(length))
            .fetch_one(self.pool())
            .await?)
    }

    /// Whether the lease was still alive and is now good for another `length`.
    pub(crate) async fn renew_lease(&self, lease: i64, length: Duration) -> Result<bool, Error> {
        let renewed: Option<bool> = query_scalar(include_str!("sql/renew_lease.sql"))
            .bind(lease)
            .bind(milliseconds(length))
            .fetch_optional(self.pool())
            .await?;
        Ok(renewed.is_some())
    }

    pub(crate) async fn close_lease(&self, lease: i64) -> Result<(), Error> {
        query(include_str!("sql/close_lease.sql"))
            .bind(lease)
            .execute(self.pool())
            .await?;
        Ok(())
    }
}
