//! Pages of jobs that end early because the number of rows read is bounded.

use harkara_queue::job::JobState;
use harkara_queue::read::JobFilter;
use harkara_shared::database::{TenantTx, query_as};
use harkara_shared::id::TenantId;

use crate::packed_read::{Made, filters};
use crate::support::Fixture;

/// All jobs that match a filter, read in pages of a few rows each.
async fn read_in_small_pages(
    fixture: &Fixture,
    tenant: TenantId,
    filter: &JobFilter,
    rows: i64,
) -> Vec<i64> {
    let limit = 4;
    let mut tx = TenantTx::begin(&fixture.pool(), tenant).await.unwrap();
    let mut seen = Vec::new();
    let mut before: Option<i64> = None;
    loop {
        let lines: Vec<(Option<i64>, Option<i64>)> = query_as(
            "select job, below from queue.list_jobs($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(tenant)
        .bind(before)
        .bind(limit)
        .bind(filter.state.map(|state| match state {
            JobState::Scheduled => "s",
            JobState::Ready => "a",
            JobState::Running => "r",
            JobState::Succeeded => "d",
            JobState::Dead => "x",
            JobState::Cancelled => "c",
        }))
        .bind(&filter.kind)
        .bind(&filter.queue)
        .bind(filter.created_after)
        .bind(filter.created_before)
        .bind(&filter.error_code)
        .bind(rows)
        .fetch_all(&mut *tx)
        .await
        .unwrap();
        let jobs: Vec<i64> = lines.iter().filter_map(|(job, _)| *job).collect();
        let is_full = i64::try_from(jobs.len()).unwrap() == limit;
        let next = if is_full {
            jobs.last().copied()
        } else {
            lines[0].1
        };
        assert!(
            next.is_none() || before.is_none() || next < before,
            "a page must make progress"
        );
        seen.extend(jobs);
        before = next;
        if before.is_none() {
            return seen;
        }
    }
}

#[tokio::test]
async fn short_pages_leave_no_job_out() {
    let fixture = Fixture::new().await;
    for seed in 200..212 {
        let made = Made::new(seed);
        let tenant = TenantId::new();
        fixture.put_for(tenant, &made.rows).await;
        for filter in filters() {
            let expected: Vec<i64> = made
                .jobs
                .iter()
                .rev()
                .filter(|(_, expected)| expected.matches(&filter))
                .map(|(job, _)| *job)
                .collect();
            for rows in [1, 3, 8] {
                let seen = read_in_small_pages(&fixture, tenant, &filter, rows).await;
                assert_eq!(seen, expected, "seed {seed}, {rows} rows, {filter:?}");
            }
        }
    }
}
