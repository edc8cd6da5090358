//! Pages of jobs, newest first.
//!
//! Never shows a job twice, never leaves one out because it moved while the page was read, and never
//! examines more rows in a larger table.

use harkara_shared::database::query_as;
use harkara_shared::id::{JobId, TenantId};
use sqlx::PgConnection;

use crate::error::Error;
use crate::job::{Job, JobState};
use crate::read::filter::JobFilter;
use crate::read::find::matching_jobs;

/// Most labelled jobs that one statement reads.
const MAX_LABELLED_BATCH: usize = 200;

/// Jobs read after which a page ends even if it is not full.
const MAX_JOBS_READ: usize = 250;

/// Rows that the first statement examines: enough where most jobs match.
const FIRST_ROWS: i64 = 200;

/// Most rows that each further statement examines.
const MAX_ROWS: i64 = 5000;

/// Most labels that one statement examines where a job must have several.
const MAX_LABELS: i64 = 2500;

/// A page of jobs.
#[derive(Debug, Clone, Default)]
pub struct JobPage {
    /// Matching jobs, newest first.
    pub jobs: Vec<Job>,
    /// The value of `before` for the next page; `None` at the end of the list.
    pub next_before: Option<JobId>,
}

/// At most `limit` jobs of `tenant` that match, newest first, older than the job `before`.
///
/// Examines a bounded number of rows, so that it takes no longer in a large table. Where few jobs match,
/// a page may therefore hold fewer than `limit` jobs, or none, without being the last one: the list ends
/// where `next_before` is `None`.
///
/// Finds ids first and reads the jobs by id: ids stay valid when jobs move to other rows in between, and
/// a job that no longer matches leaves its place to the next one.
///
/// # Errors
/// As [`super::job`].
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &JobFilter,
    before: Option<JobId>,
    limit: u32,
) -> Result<JobPage, Error> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).max(1);
    let (names, _) = filter.labels();
    let mut page = JobPage {
        jobs: Vec::new(),
        next_before: before,
    };
    // Labels answer only a part of the filter: where few of the labelled jobs match, more are read.
    let (mut wanted, mut examined, mut rows) = (limit, 0, FIRST_ROWS);
    loop {
        let (ids, examined_to) =
            candidate_ids(connection, tenant, filter, page.next_before, wanted, rows).await?;
        examined += ids.len();
        let is_first = std::mem::replace(&mut rows, MAX_ROWS) == FIRST_ROWS && names.is_empty();
        let is_full = ids.len() >= wanted;
        page.next_before = if is_full {
            ids.last().copied()
        } else {
            examined_to
        };
        let mut found = matching_jobs(connection, &ids, filter).await?;
        found.sort_unstable_by_key(|job| std::cmp::Reverse(job.id));
        page.jobs.append(&mut found);
        let is_over = !(is_full || is_first && examined_to.is_some());
        if page.jobs.len() >= limit || is_over || examined > MAX_JOBS_READ {
            break;
        }
        wanted = if names.is_empty() {
            limit - page.jobs.len()
        } else {
            (wanted * 2).clamp(limit - page.jobs.len(), MAX_LABELLED_BATCH.max(limit))
        };
    }
    if page.jobs.len() > limit {
        page.jobs.truncate(limit);
        page.next_before = page.jobs.last().map(|job| job.id);
    }
    Ok(page)
}

/// Ids of jobs that may match, newest first, and the job down to which all were examined if more follow.
async fn candidate_ids(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &JobFilter,
    before: Option<JobId>,
    wanted: usize,
    rows: i64,
) -> Result<(Vec<JobId>, Option<JobId>), Error> {
    let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
    let (names, values) = filter.labels();
    let rows: Vec<(Option<JobId>, Option<JobId>)> = if names.is_empty() {
        query_as(include_str!("list_jobs.sql"))
            .bind(tenant)
            .bind(before)
            .bind(wanted)
            .bind(filter.state.map(JobState::letter))
            .bind(&filter.kind)
            .bind(&filter.queue)
            .bind(filter.created_after)
            .bind(filter.created_before)
            .bind(&filter.error_code)
            .bind(rows.max(wanted))
            .fetch_all(connection)
            .await?
    } else {
        query_as(include_str!("list_labelled_jobs.sql"))
            .bind(tenant)
            .bind(before)
            .bind(wanted)
            .bind(&names)
            .bind(&values)
            .bind(MAX_LABELS.max(wanted))
            .fetch_all(connection)
            .await?
    };
    let examined_to = rows.first().and_then(|(_, examined_to)| *examined_to);
    Ok((
        rows.into_iter().filter_map(|(job, _)| job).collect(),
        examined_to,
    ))
}
