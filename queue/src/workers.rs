//! Lists live workers: the queues they serve and how many jobs they hold.
//!
//! A tenant sees neither host names nor what is run for other tenants.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use harkara_shared::database::query_as;
use harkara_shared::id::{TenantId, WorkerId};
use sqlx::types::Json;

use crate::engine::Engine;
use crate::error::Error;
use crate::settings::QueueView;

/// A worker whose lease has not expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveWorker {
    /// New for each start of a process.
    pub id: WorkerId,
    /// Name of its machine. `None` for a view of one tenant.
    pub host: Option<String>,
    /// Release of Harkara.
    pub version: String,
    /// When its process started.
    pub started_at: DateTime<Utc>,
    /// When it last renewed its lease.
    pub last_seen_at: DateTime<Utc>,
    /// The served queues that are in view, each with its concurrency.
    pub queues: BTreeMap<String, u32>,
    /// Jobs it holds, including those about to start; for a view of one tenant, only that tenant's.
    pub running: u64,
}

#[derive(sqlx::FromRow)]
struct WorkerRow {
    id: WorkerId,
    host: String,
    version: String,
    started_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
    queues: Json<BTreeMap<String, u32>>,
    running: i64,
}

impl Engine {
    /// Returns at most `limit` live workers with ids greater than `after`, in the order of their ids:
    /// the oldest first.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn workers(
        &self,
        view: QueueView<'_>,
        after: Option<WorkerId>,
        limit: u32,
    ) -> Result<Vec<LiveWorker>, Error> {
        let (tenant, known_queues): (Option<TenantId>, &[&str]) = match view {
            QueueView::All => (None, &[]),
            QueueView::VisibleTo(tenant, known) => (Some(tenant), known),
        };
        let rows: Vec<WorkerRow> = query_as(include_str!("workers/list_workers.sql"))
            .bind(tenant)
            .bind(known_queues)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await?;
        let live_worker = |row: WorkerRow| LiveWorker {
            id: row.id,
            host: tenant.is_none().then_some(row.host),
            version: row.version,
            started_at: row.started_at,
            last_seen_at: row.last_seen_at,
            queues: row.queues.0,
            // A count, never negative.
            running: row.running.unsigned_abs(),
        };
        Ok(rows.into_iter().map(live_worker).collect())
    }
}
