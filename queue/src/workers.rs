//! Room: who works.
//! Takes: whose eyes look. Gives: the workers that live, which queues they serve and how many jobs they
//! have in hand. Never: shows a tenant a host, or what is done for another.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use harkara_shared::database::query_as;
use harkara_shared::id::{TenantId, WorkerId};
use sqlx::types::Json;

use crate::engine::Engine;
use crate::error::Error;
use crate::settings::QueueView;

/// A worker that lives: its lease has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveWorker {
    /// Id, new for every process start.
    pub id: WorkerId,
    /// Name of its machine; told to whoever sees all queues.
    pub host: Option<String>,
    /// Release.
    pub version: String,
    /// When its process started.
    pub started_at: DateTime<Utc>,
    /// When it was last heard of.
    pub last_seen_at: DateTime<Utc>,
    /// The queues it serves that are in view, with the number of places of each.
    pub queues: BTreeMap<String, u32>,
    /// Jobs in its hands, those about to start included; a tenant is told of its own.
    pub running: u64,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: WorkerId,
    host: String,
    version: String,
    started_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
    queues: Json<BTreeMap<String, u32>>,
    running: i64,
}

impl Engine {
    /// At most `limit` workers that live and whose id is greater than `after`, by id: the oldest first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn workers(
        &self,
        view: QueueView<'_>,
        after: Option<WorkerId>,
        limit: u32,
    ) -> Result<Vec<LiveWorker>, Error> {
        let (tenant, known): (Option<TenantId>, &[&str]) = match view {
            QueueView::All => (None, &[]),
            QueueView::VisibleTo(tenant, known) => (Some(tenant), known),
        };
        let rows: Vec<Row> = query_as(include_str!("sql/show_workers.sql"))
            .bind(tenant)
            .bind(known)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await?;
        let seen = |row: Row| LiveWorker {
            id: row.id,
            host: tenant.is_none().then_some(row.host),
            version: row.version,
            started_at: row.started_at,
            last_seen_at: row.last_seen_at,
            queues: row.queues.0,
            running: u64::try_from(row.running).unwrap_or_default(),
        };
        Ok(rows.into_iter().map(seen).collect())
    }
}
