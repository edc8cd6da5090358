//! Room: pages of jobs.
//! Takes: what the jobs must be like, and where the page before ended. Gives: jobs, newest first.
//! Never: shows a job twice, or leaves one out because it moved while the page was read.

use chrono::{DateTime, Utc};
use harkara_shared::database::query_scalar;
use harkara_shared::id::{JobId, TenantId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::engine::Error;
use crate::job::{Job, JobState};
use crate::read::find::matching;

/// Most labelled jobs looked at in one turn.
const MOST_AT_ONCE: usize = 1000;

/// Which jobs are meant. Members that are set must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct JobFilter {
    /// State.
    #[serde(skip_serializing_if = "Option::is_none")]
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

/// At most `limit` jobs of `tenant` that match, newest first, older than the job `before`.
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
) -> Result<Vec<Job>, Error> {
    let (names, values) = filter.labels();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut page: Vec<Job> = Vec::new();
    let mut before = before;
    let mut wanted = limit;
    loop {
        let statement = if names.is_empty() {
            query_scalar(include_str!("../sql/list_jobs.sql"))
        } else {
            query_scalar(include_str!("../sql/list_labelled_jobs.sql"))
        };
        let statement = statement
            .bind(tenant)
            .bind(before)
            .bind(i64::try_from(wanted).unwrap_or(i64::MAX));
        let statement = if names.is_empty() {
            statement
                .bind(filter.state.map(JobState::letter))
                .bind(&filter.kind)
                .bind(&filter.queue)
                .bind(filter.created_after)
                .bind(filter.created_before)
                .bind(&filter.error_code)
        } else {
            statement.bind(&names).bind(&values)
        };
        let ids: Vec<JobId> = statement.fetch_all(&mut *connection).await?;
        let mut found = matching(connection, &ids, filter).await?;
        found.sort_unstable_by_key(|job| std::cmp::Reverse(job.id));
        page.append(&mut found);
        if page.len() >= limit || ids.len() < wanted {
            break;
        }
        before = ids.last().copied();
        // Labels do not tell what else the filter asks for: where few jobs match, more are looked at.
        wanted = if names.is_empty() {
            limit - page.len()
        } else {
            (wanted * 2).clamp(limit - page.len(), MOST_AT_ONCE.max(limit))
        };
    }
    page.truncate(limit);
    Ok(page)
}
