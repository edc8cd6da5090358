//! Opens, renews and closes leases.
//!
//! A lease is the right to run the jobs claimed under it. An expired lease is never revived: its worker opens
//! a new lease, and the jobs claimed under the old one are rescued.

use std::time::Duration;

use harkara_shared::database::{query, query_scalar};
use harkara_shared::duration::milliseconds;
use harkara_shared::id::WorkerId;
use serde_json::Value;

use crate::engine::Engine;
use crate::error::Error;

/// How a worker process describes itself.
#[derive(Debug, Clone)]
pub struct WorkerInfo {
    /// New for each start of a process.
    pub id: WorkerId,
    /// Name of the machine.
    pub host: String,
    /// Process id on that machine.
    pub pid: u32,
    /// Release of Harkara.
    pub version: String,
    /// The queues that the worker claims from: `{"queue": concurrency}`.
    pub queues: Value,
}

impl Engine {
    /// Opens a lease that ends after `length` and returns its id.
    pub(crate) async fn open_lease(
        &self,
        worker: &WorkerInfo,
        length: Duration,
    ) -> Result<i64, Error> {
        Ok(query_scalar(include_str!("lease/open_lease.sql"))
            .bind(worker.id)
            .bind(&worker.host)
            .bind(i32::try_from(worker.pid).unwrap_or(i32::MAX))
            .bind(&worker.version)
            .bind(&worker.queues)
            .bind(milliseconds(length))
            .fetch_one(self.pool())
            .await?)
    }

    /// Extends a lease to `length` from now. Returns false if it has expired or is closed.
    pub(crate) async fn renew_lease(&self, lease: i64, length: Duration) -> Result<bool, Error> {
        let renewed: Option<bool> = query_scalar(include_str!("lease/renew_lease.sql"))
            .bind(lease)
            .bind(milliseconds(length))
            .fetch_optional(self.pool())
            .await?;
        Ok(renewed.is_some())
    }

    /// Closes a lease under which no job runs any more; otherwise leaves it to expire.
    pub(crate) async fn close_lease(&self, lease: i64) -> Result<(), Error> {
        query(include_str!("lease/close_lease.sql"))
            .bind(lease)
            .execute(self.pool())
            .await?;
        Ok(())
    }
}
