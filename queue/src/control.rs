//! Room: what people do to single jobs.
//! Takes: a tenant's transaction and a job id. Gives: the change, or why it cannot be made.
//! Never: reaches a job of another tenant: row-level security hides it.

use harkara_shared::database::{query, query_as};
use harkara_shared::id::JobId;
use sqlx::PgConnection;

use crate::engine::{Engine, Error};
use crate::ids;
use crate::job::JobState;

/// What came of an action on one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// The job is now in this state; `Running` after a cancel means that its worker was told.
    Now(JobState),
    /// The job's state does not allow the action.
    Refused(JobState),
    /// Another live job holds the job's unique key.
    KeyTaken(JobId),
    /// There is no such job for this tenant.
    NotFound,
}

impl Engine {
    /// Cancels a job: at once when it waits, through its worker when it runs, not at all when it
    /// has finished.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn cancel(
        &self,
        connection: &mut PgConnection,
        job: JobId,
    ) -> Result<Changed, Error> {
        self.change(connection, job, include_str!("sql/cancel_job.sql"), false)
            .await
    }

    /// Makes a dead or cancelled job ready again, with all its attempts before it and its log kept.
    /// Refused while another live job holds its unique key.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn retry(&self, connection: &mut PgConnection, job: JobId) -> Result<Changed, Error> {
        self.change(connection, job, include_str!("sql/retry_job.sql"), true)
            .await
    }

    /// Has scheduled jobs run now, as when what they wait for has come. Jobs in other states are left
    /// as they are.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn hasten(&self, connection: &mut PgConnection, jobs: &[JobId]) -> Result<(), Error> {
        let parcels: Vec<i64> = jobs.iter().map(|job| ids::parcel_of(*job)).collect();
        query(include_str!("sql/hasten_jobs.sql"))
            .bind(&parcels)
            .bind(self.notify())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn change(
        &self,
        connection: &mut PgConnection,
        job: JobId,
        sql: &'static str,
        is_retry: bool,
    ) -> Result<Changed, Error> {
        if ids::place_of(job) != 0 {
            return Ok(Changed::NotFound);
        }
        let row: Option<(String, bool, Option<i64>)> = query_as(sql)
            .bind(ids::parcel_of(job))
            .bind(self.notify())
            .fetch_optional(connection)
            .await?;
        let Some((letter, changed, holder)) = row else {
            return Ok(Changed::NotFound);
        };
        if let (false, Some(holder)) = (changed, holder) {
            return Ok(Changed::KeyTaken(JobId::from_i64(holder)));
        }
        let state = JobState::from_letter(&letter).ok_or_else(|| Error::Corrupt {
            job: job.as_i64(),
            reason: format!("state `{letter}`"),
        })?;
        match (changed, state) {
            (true, _) => Ok(Changed::Now(state)),
            // The state would allow it: a neighbour took the unique key between two looks at it.
            (false, JobState::Dead | JobState::Cancelled) if is_retry => {
                Err(Error::Contended(job.to_string()))
            }
            (false, _) => Ok(Changed::Refused(state)),
        }
    }
}
