//! Progress of running jobs: a small JSON value that a run reports, shown as the job's `progress` and
//! kept as long as the job.
//!
//! Works in the caller's transaction, which must be the tenant's. A run that resumes the work of an
//! earlier run uses [`Engine::claim_progress`] and [`Engine::lock_progress`], so that a run whose worker
//! was presumed dead cannot continue beside its successor.

use harkara_shared::database::{query, query_scalar};
use harkara_shared::id::JobId;
use serde_json::Value;
use sqlx::PgConnection;

use crate::claimed::ClaimedJob;
use crate::engine::Engine;
use crate::error::Error;

impl Engine {
    /// Stores the progress of a job, in the transaction that achieved it.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn report_progress(
        &self,
        connection: &mut PgConnection,
        job: JobId,
        progress: &Value,
    ) -> Result<(), Error> {
        query(include_str!("progress/report_progress.sql"))
            .bind(job)
            .bind(progress)
            .execute(connection)
            .await?;
        Ok(())
    }

    /// Makes this run the only one that can [lock](Engine::lock_progress) the job's progress, and returns
    /// the progress last stored, if any. A run that continues where an earlier run ended calls this
    /// first, and [`Engine::lock_progress`] in every transaction.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn claim_progress(
        &self,
        connection: &mut PgConnection,
        run: &ClaimedJob,
    ) -> Result<Option<Value>, Error> {
        let progress: Value = query_scalar(include_str!("progress/claim_progress.sql"))
            .bind(run.id)
            .bind(run.parcel.token)
            .fetch_one(connection)
            .await?;
        Ok(Some(progress).filter(|progress| !progress.is_null()))
    }

    /// Locks the job's progress until the transaction ends and returns it, so that no other run works on
    /// the job meanwhile. `None` when another run has claimed the progress: this one should end.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn lock_progress(
        &self,
        connection: &mut PgConnection,
        run: &ClaimedJob,
    ) -> Result<Option<Value>, Error> {
        let progress = query_scalar(include_str!("progress/lock_progress.sql"))
            .bind(run.id)
            .bind(run.parcel.token)
            .fetch_optional(connection)
            .await?;
        Ok(progress)
    }
}
