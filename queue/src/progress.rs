//! Room: how far a job has come that tells it while it runs.
//! Takes: a tenant's transaction, a job or a run of it, and what is told: a small JSON value, shown as
//! the job's `progress` and kept as long as the job. Gives: what was told last.
//! Never: lets a run tell that was taken for dead and followed by another, where it matters.

use harkara_shared::database::{query, query_scalar};
use harkara_shared::id::JobId;
use serde_json::Value;
use sqlx::PgConnection;

use crate::claimed::ClaimedJob;
use crate::engine::Engine;
use crate::error::Error;

impl Engine {
    /// Tells how far a job has come, in the transaction that brought it there.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn report_progress(
        &self,
        connection: &mut PgConnection,
        job: JobId,
        progress: &Value,
    ) -> Result<(), Error> {
        query(include_str!("sql/tell_progress.sql"))
            .bind(job)
            .bind(progress)
            .execute(connection)
            .await?;
        Ok(())
    }

    /// Makes this run the one that tells, and answers what was told last: a run that begins where the one
    /// before it ended calls this first, and [`Engine::lock_progress`] in every transaction.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn claim_progress(
        &self,
        connection: &mut PgConnection,
        run: &ClaimedJob,
    ) -> Result<Option<Value>, Error> {
        let told: Value = query_scalar(include_str!("sql/claim_progress.sql"))
            .bind(run.id)
            .bind(run.parcel.token)
            .fetch_one(connection)
            .await?;
        Ok(Some(told).filter(|told| !told.is_null()))
    }

    /// What was told last, locked until the transaction ends: nobody else goes on with the job's work
    /// meanwhile. `None` when another run tells now, and this one should end.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn lock_progress(
        &self,
        connection: &mut PgConnection,
        run: &ClaimedJob,
    ) -> Result<Option<Value>, Error> {
        let told = query_scalar(include_str!("sql/lock_progress.sql"))
            .bind(run.id)
            .bind(run.parcel.token)
            .fetch_optional(connection)
            .await?;
        Ok(told)
    }
}
