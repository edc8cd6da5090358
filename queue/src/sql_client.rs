//! Room: applications that enqueue by SQL, in their own transactions.
//! Takes: what the database must know for that: kinds, and which roles may. Gives: it known.
//! Never: enqueues: that is done by `queue.enqueue`.

use chrono::{DateTime, Utc};
use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::TenantId;
use serde::Serialize;
use serde_json::Value;

use crate::engine::Engine;
use crate::error::Error;

/// A login role of the database that may enqueue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct SqlClient {
    /// The role's name.
    pub role: String,
    /// The tenant whose jobs they are; `None` for all.
    pub tenant_id: Option<TenantId>,
    /// That tenant's slug.
    #[serde(rename = "tenant")]
    pub slug: Option<String>,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

impl Engine {
    /// Says what kinds there are, as an array of rows of `queue.catalogue`, and whether workers are
    /// woken by notifications; unless a catalogue of a higher version stands there. Answers whether
    /// anything was written.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn publish_catalogue(&self, version: i32, kinds: &Value) -> Result<bool, Error> {
        Ok(query_scalar(include_str!("sql/publish.sql"))
            .bind(version)
            .bind(self.notify())
            .bind(kinds)
            .fetch_one(self.pool())
            .await?)
    }

    /// Lets a login role enqueue for a tenant, or for all. Answers whether it could not before.
    ///
    /// # Errors
    /// When there is no such role, or the database refuses.
    pub async fn grant_client(&self, role: &str, tenant: Option<TenantId>) -> Result<bool, Error> {
        let mut tx = self.pool().begin().await?;
        let done = query_scalar(include_str!("sql/grant_client.sql"))
            .bind(role)
            .bind(tenant)
            .fetch_one(&mut *tx)
            .await?;
        self.record_audit(&mut tx).await?;
        tx.commit().await?;
        Ok(done)
    }

    /// Lets a login role enqueue no more: for a tenant, or at all. Answers how many grants ended.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn revoke_client(&self, role: &str, tenant: Option<TenantId>) -> Result<i64, Error> {
        let mut tx = self.pool().begin().await?;
        let done = query_scalar(include_str!("sql/revoke_client.sql"))
            .bind(role)
            .bind(tenant)
            .fetch_one(&mut *tx)
            .await?;
        self.record_audit(&mut tx).await?;
        tx.commit().await?;
        Ok(done)
    }

    /// Which login roles may enqueue, and for whom.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn sql_clients(&self) -> Result<Vec<SqlClient>, Error> {
        Ok(query_as(include_str!("sql/show_clients.sql"))
            .fetch_all(self.pool())
            .await?)
    }
}
