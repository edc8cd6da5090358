//! Room: what people do to jobs, one or many at a time.
//! Takes: a tenant's transaction and job ids. Gives: the change, or why it cannot be made, for each.
//! Never: reaches a job of another tenant: row-level security hides it. For tools that are given a job's id
//! alone, it tells whose the job is.

use chrono::{DateTime, Utc};
use harkara_shared::database::{TenantTx, query_as, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use sqlx::PgConnection;

use crate::engine::Engine;
use crate::error::Error;
use crate::ids::parcel_of;
use crate::job::JobState;
use crate::read;

/// Parcels among which jobs are merged: see `queue.find_jobs`.
const BLOCK: i64 = 1024;

/// Most jobs that are changed in one call: more would hold their locks for too long.
pub const MAX_JOBS_PER_CHANGE: usize = 5000;

/// What came of an action on one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// The job is now in this state; `Running` after a cancel means that its worker was told. After a
    /// delete, the state it was in.
    Applied(JobState),
    /// The job's state does not allow the action.
    Refused(JobState),
    /// Another live job holds the job's unique key. Of a delete: the job itself still holds it.
    KeyTaken(JobId),
    /// There is no such job for this tenant.
    NotFound,
}

impl Engine {
    /// Whose job this is: for those who look after all tenants.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn tenant_of(&self, job: JobId) -> Result<Option<TenantId>, Error> {
        let parcel = parcel_of(job);
        let block = parcel / BLOCK * BLOCK;
        let tenants: Vec<TenantId> = query_scalar(include_str!("sql/whose_job.sql"))
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

    /// Cancels a job: at once when it waits, through its worker when it runs, not at all when it
    /// has finished.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn cancel(
        &self,
        connection: &mut PgConnection,
        job: JobId,
    ) -> Result<ChangeOutcome, Error> {
        let changed = self.cancel_jobs(connection, &[job]).await?;
        Ok(only(&changed))
    }

    /// Cancels jobs, at most [`MAX_JOBS_PER_CHANGE`], as [`Engine::cancel`] does. Answers what became of those
    /// that there are, in no order.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn cancel_jobs(
        &self,
        connection: &mut PgConnection,
        jobs: &[JobId],
    ) -> Result<Vec<(JobId, ChangeOutcome)>, Error> {
        let rows = query_as(include_str!("sql/cancel_jobs.sql"))
            .bind(numbers(jobs))
            .bind(self.notify())
            .fetch_all(connection)
            .await;
        self.told(rows)
    }

    /// Makes a dead or cancelled job ready again, with all its attempts before it and its log kept.
    /// Refused while another live job holds its unique key.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn retry(
        &self,
        connection: &mut PgConnection,
        job: JobId,
    ) -> Result<ChangeOutcome, Error> {
        let changed = self.retry_jobs(connection, &[job]).await?;
        Ok(only(&changed))
    }

    /// Retries jobs, at most [`MAX_JOBS_PER_CHANGE`], as [`Engine::retry`] does. Of two that share a unique key
    /// the elder has it. Answers what became of those that there are, in no order.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn retry_jobs(
        &self,
        connection: &mut PgConnection,
        jobs: &[JobId],
    ) -> Result<Vec<(JobId, ChangeOutcome)>, Error> {
        let rows = query_as(include_str!("sql/retry_jobs.sql"))
            .bind(numbers(jobs))
            .bind(self.notify())
            .fetch_all(connection)
            .await;
        self.told(rows)
    }

    /// Deletes finished jobs, at most [`MAX_JOBS_PER_CHANGE`], with all that is known of them but the log of
    /// their runs. A job that still holds its unique key for a time is kept: whoever repeats the key is
    /// answered with it. Answers what became of those that there are, in no order.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn delete_jobs(
        &self,
        connection: &mut PgConnection,
        jobs: &[JobId],
    ) -> Result<Vec<(JobId, ChangeOutcome)>, Error> {
        let rows = query_as(include_str!("sql/delete_jobs.sql"))
            .bind(numbers(jobs))
            .fetch_all(connection)
            .await;
        self.told(rows)
    }

    /// Moves a job that is scheduled or ready to another time; one that has passed means now. In an
    /// ordered lane the job that has begun stays the first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn reschedule(
        &self,
        connection: &mut PgConnection,
        job: JobId,
        run_at: Option<DateTime<Utc>>,
    ) -> Result<ChangeOutcome, Error> {
        let waiting = [JobState::Scheduled, JobState::Ready];
        let moved = self.move_all(connection, &[job], &waiting, run_at).await?;
        Ok(only(&moved))
    }

    /// Has scheduled jobs run now, as when what they wait for has come. Jobs in other states are left
    /// as they are.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn run_now(
        &self,
        connection: &mut PgConnection,
        jobs: &[JobId],
    ) -> Result<(), Error> {
        self.move_all(connection, jobs, &[JobState::Scheduled], None)
            .await?;
        Ok(())
    }

    /// What became of jobs; if anything did, it is to be added up.
    fn told(
        &self,
        rows: Result<Vec<Row>, sqlx::Error>,
    ) -> Result<Vec<(JobId, ChangeOutcome)>, Error> {
        let changes = changes(rows)?;
        if changes
            .iter()
            .any(|(_, changed)| matches!(changed, ChangeOutcome::Applied(_)))
        {
            self.schedule_rollup();
        }
        Ok(changes)
    }

    async fn move_all(
        &self,
        connection: &mut PgConnection,
        jobs: &[JobId],
        from: &[JobState],
        run_at: Option<DateTime<Utc>>,
    ) -> Result<Vec<(JobId, ChangeOutcome)>, Error> {
        let from: Vec<&str> = from.iter().map(|state| state.letter()).collect();
        let rows = query_as(include_str!("sql/move_jobs.sql"))
            .bind(numbers(jobs))
            .bind(from)
            .bind(run_at)
            .bind(self.notify())
            .fetch_all(connection)
            .await;
        self.told(rows)
    }
}

fn numbers(jobs: &[JobId]) -> Vec<i64> {
    jobs.iter().map(|job| job.as_i64()).collect()
}

/// What became of the one job that was asked for.
fn only(changes: &[(JobId, ChangeOutcome)]) -> ChangeOutcome {
    changes
        .first()
        .map_or(ChangeOutcome::NotFound, |(_, changed)| *changed)
}

/// The code with which queue.lock_jobs gives up on a job that moves from row to row.
const MOVES: &str = "HK001";

fn changes(rows: Result<Vec<Row>, sqlx::Error>) -> Result<Vec<(JobId, ChangeOutcome)>, Error> {
    let rows = rows.map_err(|error| match error {
        sqlx::Error::Database(error) if error.code().as_deref() == Some(MOVES) => {
            Error::Contended(error.message().to_owned())
        }
        other => Error::Database(other),
    })?;
    rows.into_iter().map(Row::into_change).collect()
}

#[derive(sqlx::FromRow)]
struct Row {
    job: JobId,
    state: String,
    changed: bool,
    /// Who holds the unique key.
    holder: Option<JobId>,
}

impl Row {
    fn into_change(self) -> Result<(JobId, ChangeOutcome), Error> {
        let state = JobState::from_letter(&self.state)
            .map_err(|unknown| Error::corrupt(self.job, unknown))?;
        let changed = match (self.changed, self.holder) {
            (true, _) => ChangeOutcome::Applied(state),
            (false, Some(holder)) => ChangeOutcome::KeyTaken(holder),
            (false, None) => ChangeOutcome::Refused(state),
        };
        Ok((self.job, changed))
    }
}
