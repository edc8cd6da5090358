//! Room: pages of jobs.
//! Takes: what the jobs must be like, and where the page before ended. Gives: jobs, newest first.
//! Never: shows a job twice, leaves one out because it moved while the page was read, or looks at more
//! rows the more there are.

use chrono::{DateTime, Utc};
use harkara_shared::database::query_as;
use harkara_shared::id::{JobId, TenantId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::error::Error;
use crate::job::{Job, JobState};
use crate::read::find::matching;

/// Most labelled jobs read in one turn.
const MOST_AT_ONCE: usize = 200;

/// Labelled jobs after which a page ends, full or not.
const MOST_JOBS: usize = 250;

/// Rows of jobs looked at first, which is enough where most jobs match.
const FEW_ROWS: i64 = 200;

/// Most rows of jobs looked at after that for a page.
const MOST_ROWS: i64 = 5000;

/// Most labels looked at for a page, where a job must bear several.
const MOST_LABELLED: i64 = 2500;

/// Which jobs are meant. Members that are set must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobFilter {
    #[expect(
        missing_docs,
        reason = "on an inlined member they make the shape say two types at once"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub state: Option<JobState>,
    /// Kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// A tag the job bears.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The unique key it was enqueued with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_key: Option<String>,
    /// The key of the ordered lane it was enqueued in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    /// Enqueued at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_after: Option<DateTime<Utc>>,
    /// Enqueued before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_before: Option<DateTime<Utc>>,
    /// Code of its last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}

impl JobFilter {
    /// What is found by labels, names and values, beginning with what fewest jobs bear.
    pub(crate) fn labels(&self) -> (Vec<&str>, Vec<&str>) {
        [
            ("unique_key", &self.unique_key),
            ("ordering_key", &self.ordering_key),
            ("tag", &self.tag),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
        .unzip()
    }
}

/// A page of jobs.
#[derive(Debug, Clone, Default)]
pub struct JobPage {
    /// Those that match, newest first.
    pub jobs: Vec<Job>,
    /// The job below which the next page begins; nothing at the end of the list.
    pub next_before: Option<JobId>,
}

/// At most `limit` jobs of `tenant` that match, newest first, older than the job `before`.
///
/// Looks at a bounded number of rows, so that it takes no longer in a large table: where few jobs match,
/// a page may hold fewer than `limit` jobs, or none, and yet not be the last. The list ends where there
/// is no `below`.
///
/// Ids are found first and jobs by their ids then: an id stays what it is wherever its job moves
/// between the two, and what no longer matches makes room for the next.
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
    // Labels do not tell what else the filter asks for: where few jobs match, more are looked at.
    let (mut wanted, mut looked, mut rows) = (limit, 0, FEW_ROWS);
    loop {
        let (ids, below) = ids(connection, tenant, filter, page.next_before, wanted, rows).await?;
        looked += ids.len();
        let is_first = std::mem::replace(&mut rows, MOST_ROWS) == FEW_ROWS && names.is_empty();
        let is_full = ids.len() >= wanted;
        page.next_before = if is_full { ids.last().copied() } else { below };
        let mut found = matching(connection, &ids, filter).await?;
        found.sort_unstable_by_key(|job| std::cmp::Reverse(job.id));
        page.jobs.append(&mut found);
        let is_over = !(is_full || is_first && below.is_some());
        if page.jobs.len() >= limit || is_over || looked > MOST_JOBS {
            break;
        }
        wanted = if names.is_empty() {
            limit - page.jobs.len()
        } else {
            (wanted * 2).clamp(limit - page.jobs.len(), MOST_AT_ONCE.max(limit))
        };
    }
    if page.jobs.len() > limit {
        page.jobs.truncate(limit);
        page.next_before = page.jobs.last().map(|job| job.id);
    }
    Ok(page)
}

/// Ids of jobs that may match, newest first, and where to go on if there were more to look at.
async fn ids(
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
        query_as(include_str!("../sql/list_jobs.sql"))
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
        query_as(include_str!("../sql/list_labelled_jobs.sql"))
            .bind(tenant)
            .bind(before)
            .bind(wanted)
            .bind(&names)
            .bind(&values)
            .bind(MOST_LABELLED.max(wanted))
            .fetch_all(connection)
            .await?
    };
    let below = rows.first().and_then(|(_, below)| *below);
    Ok((rows.into_iter().filter_map(|(job, _)| job).collect(), below))
}
