//! Room: the read side.
//! Takes: a tenant's transaction. Gives: jobs, pages of jobs, the log of a job's runs.
//! Never: counts rows, shows parcels, reads another tenant's rows.

use chrono::{DateTime, Utc};
use harkara_shared::database::query_as;
use harkara_shared::id::{JobId, TenantId, WorkerId};
use serde_json::Value;
use sqlx::PgConnection;

use crate::engine::Error;
use crate::envelope::Envelope;
use crate::ids;
use crate::job::{Attempt, AttemptOutcome, Job, JobError, JobState};

/// Which jobs a page shows. Members that are set must all hold.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// State.
    pub state: Option<JobState>,
    /// Kind.
    pub kind: Option<String>,
    /// Queue.
    pub queue: Option<String>,
    /// A tag the job bears.
    pub tag: Option<String>,
    /// The unique key it was enqueued with.
    pub unique_key: Option<String>,
    /// Enqueued at or after.
    pub created_after: Option<DateTime<Utc>>,
    /// Enqueued before.
    pub created_before: Option<DateTime<Utc>>,
    /// Code of its last error.
    pub error_code: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    lo: i16,
    tenant_id: TenantId,
    kind: String,
    queue: String,
    state: String,
    priority: i16,
    attempt: i16,
    max_attempts: i16,
    run_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    error_code: Option<String>,
    error_message: Option<String>,
    result: Option<Value>,
    body: Option<Vec<u8>>,
}

impl TryFrom<Row> for Job {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let id = JobId::from_i64(ids::job_of(row.id).as_i64() + i64::from(row.lo));
        let corrupt = |reason: String| Error::Corrupt {
            job: id.as_i64(),
            reason,
        };
        let state = JobState::from_letter(&row.state)
            .ok_or_else(|| corrupt(format!("state `{}`", row.state)))?;
        let body = Envelope::decode(&row.body.unwrap_or_default())
            .map_err(|error| corrupt(format!("body: {error}")))?;
        Ok(Self {
            id,
            tenant_id: row.tenant_id,
            kind: row.kind,
            queue: row.queue,
            state,
            priority: u8::try_from(row.priority).unwrap_or_default(),
            attempt: u16::try_from(row.attempt).unwrap_or_default(),
            max_attempts: u16::try_from(row.max_attempts).unwrap_or_default(),
            run_at: row.run_at,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            unique_key: body.unique_key,
            tags: body.tags,
            payload: body.payload,
            result: row.result,
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
    if ids::place_of(id) != 0 {
        return Ok(None);
    }
    Ok(jobs(connection, &[id]).await?.pop())
}

/// Those of the given jobs that exist for the tenant, in no particular order.
///
/// # Errors
/// As [`job`].
pub async fn jobs(connection: &mut PgConnection, ids: &[JobId]) -> Result<Vec<Job>, Error> {
    let parcels: Vec<i64> = ids.iter().map(|id| ids::parcel_of(*id)).collect();
    let rows: Vec<Row> = query_as(include_str!("sql/get_jobs.sql"))
        .bind(&parcels)
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(Job::try_from).collect()
}

/// At most `limit` jobs of `tenant` that match, newest first, older than the job `before`.
///
/// # Errors
/// As [`job`].
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &JobFilter,
    before: Option<JobId>,
    limit: u32,
) -> Result<Vec<Job>, Error> {
    let label = match (&filter.unique_key, &filter.tag) {
        (Some(key), tag) => Some(("unique_key", key, tag.as_ref())),
        (None, Some(tag)) => Some(("tag", tag, None)),
        (None, None) => None,
    };
    let statement = match label {
        None => query_as(include_str!("sql/list_jobs.sql")),
        Some(_) => query_as(include_str!("sql/list_labelled_jobs.sql")),
    };
    let mut statement = statement
        .bind(tenant)
        .bind(before.map(ids::parcel_of))
        .bind(i64::from(limit))
        .bind(filter.state.map(JobState::letter))
        .bind(&filter.kind)
        .bind(&filter.queue)
        .bind(filter.created_after)
        .bind(filter.created_before)
        .bind(&filter.error_code);
    if let Some((name, value, tag)) = label {
        statement = statement.bind(name).bind(value).bind(tag);
    }
    let rows: Vec<Row> = statement.fetch_all(connection).await?;
    rows.into_iter().map(Job::try_from).collect()
}

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

/// Every run of a job that has ended, oldest first; `None` when the tenant has no such job.
///
/// # Errors
/// As [`job`].
pub async fn attempts(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Option<Vec<Attempt>>, Error> {
    type Success = (
        DateTime<Utc>,
        String,
        Option<DateTime<Utc>>,
        Option<DateTime<Utc>>,
        Option<WorkerId>,
    );
    if ids::place_of(id) != 0 {
        return Ok(None);
    }
    let success: Option<Success> = query_as(include_str!("sql/get_success.sql"))
        .bind(ids::parcel_of(id))
        .fetch_optional(&mut *connection)
        .await?;
    let Some((created_at, state, started_at, finished_at, worker_id)) = success else {
        return Ok(None);
    };
    let rows: Vec<AttemptRow> = query_as(include_str!("sql/list_attempts.sql"))
        .bind(id)
        .bind(created_at)
        .fetch_all(connection)
        .await?;
    let mut attempts: Vec<Attempt> = Vec::with_capacity(rows.len() + 1);
    for (number, row) in (1..).zip(rows) {
        let outcome = AttemptOutcome::from_word(&row.outcome).ok_or_else(|| Error::Corrupt {
            job: id.as_i64(),
            reason: format!("outcome `{}`", row.outcome),
        })?;
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
    if let (Some(JobState::Succeeded), Some(started_at), Some(finished_at)) =
        (JobState::from_letter(&state), started_at, finished_at)
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
