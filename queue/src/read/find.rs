//! Jobs by their ids.
//!
//! Never reveals where a job is stored.

use chrono::{DateTime, Utc};
use harkara_shared::database::query_as;
use harkara_shared::id::{JobId, TenantId};
use serde_json::Value;
use sqlx::PgConnection;

use crate::envelope::Envelope;
use crate::error::Error;
use crate::job::{Job, JobError, JobState};
use crate::read::filter::JobFilter;

#[derive(sqlx::FromRow)]
struct JobRow {
    job: JobId,
    tenant_id: TenantId,
    kind: String,
    queue: String,
    state: String,
    priority: i16,
    attempt: i16,
    max_attempts: i16,
    expires_at: Option<DateTime<Utc>>,
    run_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    error_code: Option<String>,
    error_message: Option<String>,
    result: Option<Value>,
    progress: Option<Value>,
    body: Option<Vec<u8>>,
}

impl TryFrom<JobRow> for Job {
    type Error = Error;

    fn try_from(row: JobRow) -> Result<Self, Error> {
        let state = JobState::from_letter(&row.state)
            .map_err(|unknown| Error::corrupt(row.job, unknown))?;
        let body = row.body.ok_or_else(|| Error::corrupt(row.job, "no body"))?;
        let body = Envelope::decode(&body)
            .map_err(|error| Error::corrupt(row.job, format!("body: {error}")))?;
        Ok(Self {
            id: row.job,
            tenant_id: row.tenant_id,
            kind: row.kind,
            queue: row.queue,
            state,
            priority: column(row.job, "priority", row.priority)?,
            attempt: column(row.job, "attempt", row.attempt)?,
            max_attempts: column(row.job, "max_attempts", row.max_attempts)?,
            run_at: row.run_at,
            expires_at: row.expires_at,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            unique_key: body.unique_key,
            ordering_key: body.ordering_key,
            tags: body.tags,
            payload: body.payload,
            result: row.result,
            progress: row.progress,
            last_error: row.error_code.map(|code| JobError {
                code,
                message: row.error_message.unwrap_or_default(),
            }),
            trace: body.trace,
        })
    }
}

/// Converts a stored number.
fn column<T: TryFrom<i16>>(job: JobId, name: &str, value: i16) -> Result<T, Error> {
    T::try_from(value).map_err(|_| Error::corrupt(job, format!("{name} is {value}")))
}

/// One job of the tenant whose transaction this is; `None` if it does not exist.
///
/// # Errors
/// When the statement fails, or [`Error::Corrupt`] when the row holds an impossible value.
pub async fn job(connection: &mut PgConnection, id: JobId) -> Result<Option<Job>, Error> {
    Ok(jobs(connection, &[id]).await?.pop())
}

/// The jobs with these ids that exist for the tenant, in no particular order.
///
/// # Errors
/// As [`job`].
pub async fn jobs(connection: &mut PgConnection, ids: &[JobId]) -> Result<Vec<Job>, Error> {
    matching_jobs(connection, ids, &JobFilter::default()).await
}

/// As [`jobs`], but only those that match `filter`. Its conditions on labels are not checked again.
pub(super) async fn matching_jobs(
    connection: &mut PgConnection,
    ids: &[JobId],
    filter: &JobFilter,
) -> Result<Vec<Job>, Error> {
    let ids: Vec<i64> = ids.iter().map(|id| id.as_i64()).collect();
    let rows: Vec<JobRow> = query_as(include_str!("get_jobs.sql"))
        .bind(ids)
        .bind(filter.state.map(JobState::letter))
        .bind(&filter.kind)
        .bind(&filter.queue)
        .bind(filter.created_after)
        .bind(filter.created_before)
        .bind(&filter.error_code)
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(Job::try_from).collect()
}
