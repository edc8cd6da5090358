//! Room: jobs by their ids.
//! Takes: ids, and what the jobs must be like. Gives: those that are there and are so.
//! Never: tells where a job is stored.

use chrono::{DateTime, Utc};
use harkara_shared::database::query_as;
use harkara_shared::id::{JobId, TenantId};
use serde_json::Value;
use sqlx::PgConnection;

use crate::envelope::Envelope;
use crate::error::Error;
use crate::job::{Job, JobError, JobState};
use crate::read::list::JobFilter;

#[derive(sqlx::FromRow)]
struct Row {
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

impl TryFrom<Row> for Job {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let state = JobState::from_letter(&row.state)
            .map_err(|unknown| Error::corrupt(row.job, unknown))?;
        let body = Envelope::decode(&row.body.unwrap_or_default())
            .map_err(|error| Error::corrupt(row.job, format!("body: {error}")))?;
        Ok(Self {
            id: row.job,
            tenant_id: row.tenant_id,
            kind: row.kind,
            queue: row.queue,
            state,
            priority: u8::try_from(row.priority).unwrap_or_default(),
            attempt: u16::try_from(row.attempt).unwrap_or_default(),
            max_attempts: u16::try_from(row.max_attempts).unwrap_or_default(),
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

/// One job of the tenant whose transaction this is.
///
/// # Errors
/// When the database refuses or the row holds what no release writes.
pub async fn job(connection: &mut PgConnection, id: JobId) -> Result<Option<Job>, Error> {
    Ok(jobs(connection, &[id]).await?.pop())
}

/// Those of the given jobs that exist for the tenant, in no particular order.
///
/// # Errors
/// As [`job`].
pub async fn jobs(connection: &mut PgConnection, ids: &[JobId]) -> Result<Vec<Job>, Error> {
    matching(connection, ids, &JobFilter::default()).await
}

/// As [`jobs`], but those that `filter` lets through; what only labels tell is not asked again.
pub(super) async fn matching(
    connection: &mut PgConnection,
    ids: &[JobId],
    filter: &JobFilter,
) -> Result<Vec<Job>, Error> {
    let ids: Vec<i64> = ids.iter().map(|id| id.as_i64()).collect();
    let rows: Vec<Row> = query_as(include_str!("../sql/get_jobs.sql"))
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
