//! Changes that people make to jobs: cancel, retry, delete, reschedule; one job or many at a time.
//!
//! Works in a tenant's transaction and returns the outcome for each job. Never reaches a job of another
//! tenant: row-level security hides it. [`Engine::tenant_of`] serves operators who have only a job's id.

use chrono::{DateTime, Utc};
use harkara_shared::database::{TenantTx, query_as, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use sqlx::PgConnection;

use crate::engine::Engine;
use crate::error::Error;
use crate::ids::parcel_of;
use crate::job::JobState;
use crate::read;

/// Parcel ids within which claims merge jobs: a job is stored in a parcel of its id's block. The same
/// number as in the SQL function `queue.find_jobs`.
const MERGE_BLOCK_PARCELS: i64 = 1024;

/// Most jobs that one call changes: more would hold their locks for too long.
pub const MAX_JOBS_PER_CHANGE: usize = 5000;

/// The SQLSTATE with which `queue.lock_jobs` gives up on a job that keeps moving from row to row.
const KEEPS_MOVING: &str = "HK001";

/// The outcome of a change to one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// The change was made, and this is the job's state; after a delete, its last one. `Running` after a
    /// cancel means that the job's worker has been notified.
    Applied(JobState),
    /// The job is in this state, which does not allow the change.
    Refused(JobState),
    /// This live job holds the unique key. Of a delete: the job itself still holds its key.
    KeyTaken(JobId),
    /// The tenant has no job with this id.
    NotFound,
}

impl Engine {
    /// The tenant of a job; `None` when the job does not exist.
    ///
    /// # Errors
    /// When a statement fails.
    pub async fn tenant_of(&self, job: JobId) -> Result<Option<TenantId>, Error> {
        let parcel = parcel_of(job);
        let block = parcel / MERGE_BLOCK_PARCELS * MERGE_BLOCK_PARCELS;
        let tenants: Vec<TenantId> = query_scalar(include_str!("control/tenants_of_parcel.sql"))
            .bind(block)
            .bind(parcel)
            .fetch_all(self.pool())
            .await?;
        for tenant in tenants {
            let mut tx = TenantTx::begin(self.pool(), tenant).await?;
            if read::job(&mut tx, job).await?.is_some() {
                return Ok(Some(tenant));
            }
        }
        Ok(None)
    }

    /// Cancels a job: a waiting job at once, a running one through its worker. A finished job is left as
    /// it is.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn cancel(
        &self,
        connection: &mut PgConnection,
        job: JobId,
    ) -> Result<ChangeOutcome, Error> {
        let outcomes = self.cancel_jobs(connection, &[job]).await?;
        Ok(single_outcome(&outcomes))
    }

    /// Cancels at most [`MAX_JOBS_PER_CHANGE`] jobs, as [`Engine::cancel`] does. Returns the outcome for
    /// each job that exists, in no particular order.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn cancel_jobs(
        &self,
        connection: &mut PgConnection,
        jobs: &[JobId],
    ) -> Result<Vec<(JobId, ChangeOutcome)>, Error> {
        let rows = query_as(include_str!("control/cancel_jobs.sql"))
            .bind(ids(jobs))
            .bind(self.notify())
            .fetch_all(connection)
            .await;
        self.outcomes(rows)
    }

    /// Makes a dead or cancelled job ready again, with all its attempts available and its log kept.
    /// Refused while another live job holds its unique key.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn retry(
        &self,
        connection: &mut PgConnection,
        job: JobId,
    ) -> Result<ChangeOutcome, Error> {
        let outcomes = self.retry_jobs(connection, &[job]).await?;
        Ok(single_outcome(&outcomes))
    }

    /// Retries at most [`MAX_JOBS_PER_CHANGE`] jobs, as [`Engine::retry`] does. Of two with the same
    /// unique key the older one gets it. Returns the outcome for each job that exists, in no particular
    /// order.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn retry_jobs(
        &self,
        connection: &mut PgConnection,
        jobs: &[JobId],
    ) -> Result<Vec<(JobId, ChangeOutcome)>, Error> {
        let rows = query_as(include_str!("control/retry_jobs.sql"))
            .bind(ids(jobs))
            .bind(self.notify())
            .fetch_all(connection)
            .await;
        self.outcomes(rows)
    }

    /// Deletes at most [`MAX_JOBS_PER_CHANGE`] finished jobs with everything stored for them except the
    /// log of their runs. A job that still holds its unique key for a time is kept, because an enqueue
    /// that repeats the key returns it. Returns the outcome for each job that exists, in no particular
    /// order.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn delete_jobs(
        &self,
        connection: &mut PgConnection,
        jobs: &[JobId],
    ) -> Result<Vec<(JobId, ChangeOutcome)>, Error> {
        let rows = query_as(include_str!("control/delete_jobs.sql"))
            .bind(ids(jobs))
            .fetch_all(connection)
            .await;
        self.outcomes(rows)
    }

    /// Moves a scheduled or ready job to another time; `None`, or a time that has passed, means now. In
    /// an ordered lane, a job that has run before stays the first.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn reschedule(
        &self,
        connection: &mut PgConnection,
        job: JobId,
        run_at: Option<DateTime<Utc>>,
    ) -> Result<ChangeOutcome, Error> {
        let waiting = [JobState::Scheduled, JobState::Ready];
        let outcomes = self.move_jobs(connection, &[job], &waiting, run_at).await?;
        Ok(single_outcome(&outcomes))
    }

    /// Makes scheduled jobs due now. Jobs in other states are left as they are.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn run_now(
        &self,
        connection: &mut PgConnection,
        jobs: &[JobId],
    ) -> Result<(), Error> {
        self.move_jobs(connection, jobs, &[JobState::Scheduled], None)
            .await?;
        Ok(())
    }

    async fn move_jobs(
        &self,
        connection: &mut PgConnection,
        jobs: &[JobId],
        from: &[JobState],
        run_at: Option<DateTime<Utc>>,
    ) -> Result<Vec<(JobId, ChangeOutcome)>, Error> {
        let from: Vec<&str> = from.iter().map(|state| state.letter()).collect();
        let rows = query_as(include_str!("control/move_jobs.sql"))
            .bind(ids(jobs))
            .bind(from)
            .bind(run_at)
            .bind(self.notify())
            .fetch_all(connection)
            .await;
        self.outcomes(rows)
    }

    /// Decodes the rows of a change. Schedules a rollup of the counters if any job changed.
    fn outcomes(
        &self,
        rows: Result<Vec<OutcomeRow>, sqlx::Error>,
    ) -> Result<Vec<(JobId, ChangeOutcome)>, Error> {
        let rows = rows.map_err(|error| match error {
            sqlx::Error::Database(error) if error.code().as_deref() == Some(KEEPS_MOVING) => {
                Error::Contended(error.message().to_owned())
            }
            other => Error::Database(other),
        })?;
        let outcomes: Vec<(JobId, ChangeOutcome)> = rows
            .into_iter()
            .map(OutcomeRow::decode)
            .collect::<Result<_, _>>()?;
        if outcomes
            .iter()
            .any(|(_, outcome)| matches!(outcome, ChangeOutcome::Applied(_)))
        {
            self.schedule_rollup();
        }
        Ok(outcomes)
    }
}

fn ids(jobs: &[JobId]) -> Vec<i64> {
    jobs.iter().map(|job| job.as_i64()).collect()
}

/// The outcome for the only job of a change.
fn single_outcome(outcomes: &[(JobId, ChangeOutcome)]) -> ChangeOutcome {
    outcomes
        .first()
        .map_or(ChangeOutcome::NotFound, |(_, outcome)| *outcome)
}

#[derive(sqlx::FromRow)]
struct OutcomeRow {
    job: JobId,
    state: String,
    changed: bool,
    /// The job that holds the unique key.
    holder: Option<JobId>,
}

impl OutcomeRow {
    fn decode(self) -> Result<(JobId, ChangeOutcome), Error> {
        let state = JobState::from_letter(&self.state)
            .map_err(|unknown| Error::corrupt(self.job, unknown))?;
        let outcome = match (self.changed, self.holder) {
            (true, _) => ChangeOutcome::Applied(state),
            (false, Some(holder)) => ChangeOutcome::KeyTaken(holder),
            (false, None) => ChangeOutcome::Refused(state),
        };
        Ok((self.job, outcome))
    }
}
