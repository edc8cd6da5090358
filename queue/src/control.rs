//! Room: what people do to single jobs.
//! Takes: a tenant's transaction and a job id. Gives: the change, or why it cannot be made.
//! Never: reaches a job of another tenant: row-level security hides it.

use harkara_shared::database::{query, query_as};
use harkara_shared::id::JobId;
use sqlx::PgConnection;

use crate::engine::{Engine, Error};
use crate::job::JobState;

/// How often a job that moves from row to row is looked for. Each move is a step of its life, made
/// between a look and the lock that follows: two in a row are rare.
const MOST_LOOKS: u32 = 10;

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
        let ids: Vec<i64> = jobs.iter().map(|job| job.as_i64()).collect();
        for _ in 0..MOST_LOOKS {
            let (moved, _told): (bool, i64) = query_as(include_str!("sql/hasten_jobs.sql"))
                .bind(&ids)
                .bind(self.notify())
                .fetch_one(&mut *connection)
                .await?;
            if !moved {
                self.counted();
                return Ok(());
            }
        }
        let first = jobs.first().map(JobId::to_string);
        Err(Error::Contended(first.unwrap_or_default()))
    }

    async fn change(
        &self,
        connection: &mut PgConnection,
        job: JobId,
        sql: &'static str,
        is_retry: bool,
    ) -> Result<Changed, Error> {
        for _ in 0..MOST_LOOKS {
            let found: Option<Found> = query_as(sql)
                .bind(job)
                .bind(self.notify())
                .fetch_optional(&mut *connection)
                .await?;
            let Some(found) = found else {
                return Ok(Changed::NotFound);
            };
            let Some(letter) = found.state else {
                continue;
            };
            if let (Some(id), Some(part)) = (found.emptied, found.emptied_part) {
                query("select queue.let_go(array[$1::bigint], array[$2::int2])")
                    .bind(id)
                    .bind(part)
                    .execute(connection)
                    .await?;
            }
            if let (false, Some(holder)) = (found.changed, found.holder) {
                return Ok(Changed::KeyTaken(holder));
            }
            let state = JobState::from_letter(&letter).ok_or_else(|| Error::Corrupt {
                job: job.as_i64(),
                reason: format!("state `{letter}`"),
            })?;
            return match (found.changed, state) {
                (true, _) => {
                    self.counted();
                    Ok(Changed::Now(state))
                }
                // The state would allow it: a neighbour took the unique key between two looks at it.
                (false, JobState::Dead | JobState::Cancelled) if is_retry => {
                    Err(Error::Contended(job.to_string()))
                }
                (false, _) => Ok(Changed::Refused(state)),
            };
        }
        Err(Error::Contended(job.to_string()))
    }
}

#[derive(sqlx::FromRow)]
struct Found {
    /// None when the job moved while its row was waited for.
    state: Option<String>,
    changed: bool,
    /// Another job that holds the unique key.
    holder: Option<JobId>,
    /// A row that the last of its jobs has left.
    emptied: Option<i64>,
    emptied_part: Option<i16>,
}
