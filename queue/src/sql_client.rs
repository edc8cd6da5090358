//! Applications that enqueue by SQL in their own transactions.
//!
//! Publishes the kinds to the database and manages which login roles may enqueue. Enqueues nothing
//! itself: that is the SQL function `queue.enqueue`.

use chrono::{DateTime, Utc};
use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::TenantId;
use serde::Serialize;
use serde_json::Value;

use crate::engine::Engine;
use crate::error::Error;

/// A login role of the database that may enqueue by SQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct SqlClient {
    /// Name of the login role.
    pub role: String,
    /// The tenant it may enqueue for; `None` for every tenant.
    pub tenant_id: Option<TenantId>,
    /// Slug of that tenant.
    #[serde(rename = "tenant")]
    pub slug: Option<String>,
    /// When the grant was made.
    pub created_at: DateTime<Utc>,
}

impl Engine {
    /// Publishes the kinds, as an array of rows of `queue.catalogue`, and whether notifications wake the
    /// workers, unless a catalogue of a higher version has been published. Returns whether anything was
    /// written.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn publish_catalogue(&self, version: i32, kinds: &Value) -> Result<bool, Error> {
        Ok(
            query_scalar(include_str!("sql_client/publish_catalogue.sql"))
                .bind(version)
                .bind(self.notify())
                .bind(kinds)
                .fetch_one(self.pool())
                .await?,
        )
    }

    /// Allows a login role to enqueue for a tenant, or for every tenant. Returns whether the grant is
    /// new.
    ///
    /// # Errors
    /// When the role does not exist or the statement fails.
    pub async fn grant_client(&self, role: &str, tenant: Option<TenantId>) -> Result<bool, Error> {
        let mut tx = self.pool().begin().await?;
        let is_new = query_scalar(include_str!("sql_client/grant_client.sql"))
            .bind(role)
            .bind(tenant)
            .fetch_one(&mut *tx)
            .await?;
        self.record_audit(&mut tx).await?;
        tx.commit().await?;
        Ok(is_new)
    }

    /// Revokes a login role's grant for a tenant, or all its grants. Returns how many were revoked.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn revoke_client(&self, role: &str, tenant: Option<TenantId>) -> Result<i64, Error> {
        let mut tx = self.pool().begin().await?;
        let revoked = query_scalar(include_str!("sql_client/revoke_client.sql"))
            .bind(role)
            .bind(tenant)
            .fetch_one(&mut *tx)
            .await?;
        self.record_audit(&mut tx).await?;
        tx.commit().await?;
        Ok(revoked)
    }

    /// The login roles that may enqueue by SQL, one entry per grant.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn sql_clients(&self) -> Result<Vec<SqlClient>, Error> {
        Ok(query_as(include_str!("sql_client/read_sql_clients.sql"))
            .fetch_all(self.pool())
            .await?)
    }
}
