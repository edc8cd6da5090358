//! Room: who leads.
//! Takes: a candidate. Gives: a term of leadership, held by a lease. Never: trusts a local clock:
//! the database's says when a lease is over.

use std::time::Duration;

use harkara_shared::database::{query, query_scalar};
use harkara_shared::id::WorkerId;
use sqlx::{PgConnection, PgPool};

/// How long a leader that has died is waited for.
const LEASE: Duration = Duration::from_secs(15);

/// A scheduler process that wants to lead.
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

    /// Takes or keeps the lead: the term if this candidate leads now, `None` if another does.
    pub(crate) async fn lead(&self) -> Result<Option<i64>, sqlx::Error> {
        query_scalar(include_str!("sql/lead.sql"))
            .bind(self.id)
            .bind(LEASE.as_secs_f64())
            .fetch_optional(&self.pool)
            .await
    }

    /// Whether the term still holds, and keeps it from ending before the caller's transaction does.
    pub(crate) async fn holds(
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

    /// Gives the lead up.
    pub(crate) async fn resign(&self) -> Result<(), sqlx::Error> {
        query("update app.leaders set expires_at = now() where role = 'scheduler' and holder = $1")
            .bind(self.id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
