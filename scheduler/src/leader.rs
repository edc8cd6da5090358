//! Leadership of schedulers: a lease row with a term.
//!
//! The database's clock decides when the lease ends; local clocks are not trusted.

use std::time::Duration;

use harkara_shared::database::{query, query_scalar};
use harkara_shared::id::WorkerId;
use sqlx::{PgConnection, PgPool};

/// How long the lead of a dead scheduler lasts.
const LEADER_LEASE: Duration = Duration::from_secs(15);

/// A scheduler process that can become the leader.
#[derive(Debug)]
pub(crate) struct Candidate {
    pool: PgPool,
    id: WorkerId,
}

impl Candidate {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self {
            pool,
            id: WorkerId::new(),
        }
    }

    /// Acquires or renews the lead. Returns the term, or `None` while another scheduler leads.
    pub(crate) async fn acquire_lead(&self) -> Result<Option<i64>, sqlx::Error> {
        query_scalar(include_str!("sql/lead.sql"))
            .bind(self.id)
            .bind(LEADER_LEASE.as_secs_f64())
            .fetch_optional(&self.pool)
            .await
    }

    /// Whether the term is still valid. If so, it cannot end before the caller's transaction does.
    pub(crate) async fn lock_term(
        &self,
        connection: &mut PgConnection,
        term: i64,
    ) -> Result<bool, sqlx::Error> {
        let held: Option<bool> = query_scalar(include_str!("sql/hold_lead.sql"))
            .bind(self.id)
            .bind(term)
            .fetch_optional(connection)
            .await?;
        Ok(held.is_some())
    }

    /// Releases the lead.
    pub(crate) async fn resign(&self) -> Result<(), sqlx::Error> {
        query("update app.leaders set expires_at = now() where role = 'scheduler' and holder = $1")
            .bind(self.id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
