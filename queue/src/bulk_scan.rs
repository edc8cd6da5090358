//! Scans all matching jobs of a tenant in short steps, for bulk changes and counts.
//!
//! Takes a tenant's transaction, the conditions, and the job at which the previous step ended. Returns
//! job ids, oldest first. Never visits a job twice in one scan, whatever happens to it meanwhile: the
//! scan follows ids, and ids only grow.

use std::time::Duration;

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use sqlx::PgConnection;
use tokio::time::Instant;

use crate::error::Error;
use crate::job::JobState;
use crate::read::JobFilter;

/// Most rows that one step examines.
const MAX_ROWS_PER_STEP: usize = 10_000;

/// Fewest rows that one statement examines.
const MIN_ROWS_PER_STATEMENT: usize = 50;

/// Most jobs that one step of a count returns.
const MAX_JOBS_PER_COUNT_STEP: usize = 50_000;

/// States that a partial index covers: few jobs are in them, and their rows are never merged.
const INDEXED_STATES: [JobState; 3] = [JobState::Scheduled, JobState::Dead, JobState::Cancelled];

/// States for which counters are kept.
const COUNTED_STATES: [JobState; 4] = [
    JobState::Scheduled,
    JobState::Ready,
    JobState::Running,
    JobState::Dead,
];

/// The jobs that a scan returns: those that match a filter and are in one of several states.
#[derive(Debug, Clone)]
pub struct BulkSelection {
    /// Conditions on the jobs. Its `state` is ignored in favour of `states`.
    pub filter: JobFilter,
    /// The states of the jobs.
    pub states: Vec<JobState>,
}

/// One step of a scan.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct BulkStep {
    /// Matching jobs, oldest first.
    pub jobs: Vec<JobId>,
    /// All jobs up to this id have been examined.
    pub upto: JobId,
}

impl BulkSelection {
    /// Returns the next jobs of `tenant`, at most `limit`, enqueued after the job `after` and before the
    /// job `before`. May return fewer, or none, long before the end: the scan has ended when `upto` is
    /// one less than `before`.
    ///
    /// # Errors
    /// When a statement fails.
    pub async fn next_step(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        after: JobId,
        before: JobId,
        limit: usize,
    ) -> Result<BulkStep, Error> {
        let mut step = BulkStep {
            jobs: Vec::new(),
            upto: after,
        };
        // A row may hold many jobs, and jobs that match may be far apart: the first statement examines
        // few rows, and each one after it four times as many.
        let first = if self.has_only_indexed_states() {
            limit
        } else {
            limit / 4
        };
        let mut rows = first.clamp(MIN_ROWS_PER_STATEMENT, MAX_ROWS_PER_STEP);
        let mut examined = 0;
        while step.jobs.len() < limit
            && examined < MAX_ROWS_PER_STEP
            && step.upto.as_i64() < before.as_i64().saturating_sub(1)
        {
            let wanted = limit - step.jobs.len();
            let mut next = self
                .scan_rows(connection, tenant, step.upto, before, wanted, rows)
                .await?;
            step.jobs.append(&mut next.jobs);
            step.upto = next.upto;
            examined += rows;
            rows = (rows * 4).min(MAX_ROWS_PER_STEP);
        }
        Ok(step)
    }

    /// Examines at most `rows` rows and returns at most `limit` jobs.
    async fn scan_rows(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        after: JobId,
        before: JobId,
        limit: usize,
        rows: usize,
    ) -> Result<BulkStep, Error> {
        let (names, values) = self.filter.labels();
        let statement = match (names.is_empty(), self.has_only_indexed_states()) {
            (false, _) => query_as(include_str!("bulk_scan/scan_labelled_jobs.sql")),
            (true, true) => query_as(include_str!("bulk_scan/scan_by_state.sql")),
            (true, false) => query_as(include_str!("bulk_scan/scan_jobs.sql")),
        };
        let statement = statement
            .bind(tenant)
            .bind(after)
            .bind(before)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(self.state_letters())
            .bind(&self.filter.kind)
            .bind(&self.filter.queue)
            .bind(self.filter.created_after)
            .bind(self.filter.created_before)
            .bind(&self.filter.error_code);
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let statement = if names.is_empty() {
            statement.bind(rows)
        } else {
            statement.bind(names).bind(values).bind(rows)
        };
        Ok(statement.fetch_one(connection).await?)
    }

    fn state_letters(&self) -> Vec<&'static str> {
        self.states.iter().map(|state| state.letter()).collect()
    }

    fn has_only_indexed_states(&self) -> bool {
        self.states
            .iter()
            .all(|state| INDEXED_STATES.contains(state))
    }

    /// Counts the jobs of `tenant` before the job `before` that match now; exact if none changes
    /// meanwhile. Reads counters where they answer the question. Otherwise scans the jobs, and returns
    /// `None` if that takes longer than `time_limit`.
    ///
    /// # Errors
    /// When a statement fails.
    pub async fn count(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        before: JobId,
        time_limit: Duration,
    ) -> Result<Option<u64>, Error> {
        if self.is_counted() {
            let count: i64 = query_scalar(include_str!("bulk_scan/count_by_state.sql"))
                .bind(tenant)
                .bind(&self.filter.kind)
                .bind(&self.filter.queue)
                .bind(self.state_letters())
                .fetch_one(connection)
                .await?;
            // Counters that are being repaired can be below zero for a moment.
            return Ok(Some(u64::try_from(count).unwrap_or_default()));
        }
        let started = Instant::now();
        let mut count = 0;
        let mut after = JobId::from_i64(-1);
        while after.as_i64() < before.as_i64() - 1 {
            if started.elapsed() > time_limit {
                return Ok(None);
            }
            let step = self
                .next_step(connection, tenant, after, before, MAX_JOBS_PER_COUNT_STEP)
                .await?;
            count += u64::try_from(step.jobs.len()).unwrap_or(u64::MAX);
            after = step.upto;
        }
        Ok(Some(count))
    }

    /// Whether counters answer [`Self::count`]: only kind, queue and counted states are conditions.
    fn is_counted(&self) -> bool {
        let JobFilter {
            state: _,
            kind: _,
            queue: _,
            tag,
            unique_key,
            ordering_key,
            created_after,
            created_before,
            error_code,
        } = &self.filter;
        self.states
            .iter()
            .all(|state| COUNTED_STATES.contains(state))
            && tag.is_none()
            && unique_key.is_none()
            && ordering_key.is_none()
            && created_after.is_none()
            && created_before.is_none()
            && error_code.is_none()
    }
}
