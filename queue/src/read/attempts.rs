//! The log of a job's runs.
//!
//! Failed runs are rows of their own; the successful one is read from the job's parcel. Never reveals
//! which other jobs shared the parcel.

use chrono::{DateTime, Utc};
use harkara_shared::database::query_as;
use harkara_shared::id::{JobId, WorkerId};
use sqlx::PgConnection;

use crate::error::Error;
use crate::job::{Attempt, AttemptOutcome, JobError, JobState};

#[derive(sqlx::FromRow)]
struct AttemptRow {
    started_at: DateTime<Utc>,
    finished_at: DateTime<Utc>,
    next_run_at: Option<DateTime<Utc>>,
    worker_id: Option<WorkerId>,
    outcome: String,
    error_code: Option<String>,
    error_message: Option<String>,
}

/// The finished runs of a job, oldest first; `None` when the tenant has no such job.
///
/// # Errors
/// As [`super::job`].
pub async fn attempts(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Option<Vec<Attempt>>, Error> {
    type SuccessfulRun = (
        DateTime<Utc>,
        String,
        Option<DateTime<Utc>>,
        Option<DateTime<Utc>>,
        Option<WorkerId>,
    );
    let job: Option<SuccessfulRun> = query_as(include_str!("get_successful_run.sql"))
        .bind(id)
        .fetch_optional(&mut *connection)
        .await?;
    let Some((created_at, state, started_at, finished_at, worker_id)) = job else {
        return Ok(None);
    };
    let rows: Vec<AttemptRow> = query_as(include_str!("list_attempts.sql"))
        .bind(id)
        .bind(created_at)
        .fetch_all(connection)
        .await?;
    let mut attempts: Vec<Attempt> = Vec::with_capacity(rows.len() + 1);
    for (number, row) in (1..).zip(rows) {
        let outcome =
            AttemptOutcome::parse(&row.outcome).map_err(|unknown| Error::corrupt(id, unknown))?;
        attempts.push(Attempt {
            number,
            worker_id: row.worker_id,
            started_at: row.started_at,
            finished_at: row.finished_at,
            outcome,
            error: row.error_code.map(|code| JobError {
                code,
                message: row.error_message.unwrap_or_default(),
            }),
            next_run_at: row.next_run_at,
        });
    }
    let state = JobState::from_letter(&state).map_err(|unknown| Error::corrupt(id, unknown))?;
    if let (JobState::Succeeded, Some(started_at), Some(finished_at)) =
        (state, started_at, finished_at)
    {
        attempts.push(Attempt {
            number: u32::try_from(attempts.len() + 1).unwrap_or(u32::MAX),
            worker_id,
            started_at,
            finished_at,
            outcome: AttemptOutcome::Succeeded,
            error: None,
            next_run_at: None,
        });
    }
    Ok(Some(attempts))
}
