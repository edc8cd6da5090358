//! Room: all jobs of a tenant that match, in short steps.
//! Takes: a tenant's transaction, what the jobs must be like, and where the step before ended. Gives:
//! ids, oldest first, and how many there are in all.
//! Never: looks at the same job twice in one walk, whatever becomes of it meanwhile: ids only grow.

use std::time::Duration;

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use sqlx::PgConnection;
use tokio::time::Instant;

use crate::error::Error;
use crate::job::JobState;
use crate::read::JobFilter;

/// Most rows looked at in one step.
const STEP: usize = 10_000;

/// Fewest rows looked at in one statement.
const LOOK: usize = 50;

/// Jobs counted in one step.
const COUNTED: usize = 50_000;

/// States whose jobs an index of their own serves.
const ASIDE: [JobState; 3] = [JobState::Scheduled, JobState::Dead, JobState::Cancelled];

/// States whose jobs are counted as they change.
const TALLIED: [JobState; 4] = [
    JobState::Scheduled,
    JobState::Ready,
    JobState::Running,
    JobState::Dead,
];

/// Which jobs are walked: those of a filter, in one of these states.
#[derive(Debug, Clone)]
pub struct BulkSelection {
    /// What must hold besides; its own `state` is not asked.
    pub filter: JobFilter,
    /// States.
    pub states: Vec<JobState>,
}

/// One step of a walk.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct BulkStep {
    /// Jobs that match, oldest first.
    pub jobs: Vec<JobId>,
    /// No job up to this one is left to look at.
    pub upto: JobId,
}

impl BulkSelection {
    /// The next jobs of `tenant`, at most `most`, enqueued after the job `after` and before the job
    /// `before`. May give fewer, or none, long before the end: the walk ends when `upto` is one less than
    /// `before`.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn next_step(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        after: JobId,
        before: JobId,
        most: usize,
    ) -> Result<BulkStep, Error> {
        let mut step = BulkStep {
            jobs: Vec::new(),
            upto: after,
        };
        // Rows that others wait beside may hold many jobs each, and those of a rare sort lie far apart:
        // few rows are looked at first, and more as long as they are not enough.
        let first = if self.is_aside() { most } else { most / 4 };
        let mut look = first.clamp(LOOK, STEP);
        let mut looked = 0;
        while step.jobs.len() < most
            && looked < STEP
            && step.upto.as_i64() < before.as_i64().saturating_sub(1)
        {
            let wanted = most - step.jobs.len();
            let mut next = self
                .look(connection, tenant, step.upto, before, wanted, look)
                .await?;
            step.jobs.append(&mut next.jobs);
            step.upto = next.upto;
            looked += look;
            look = (look * 4).min(STEP);
        }
        Ok(step)
    }

    async fn look(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        after: JobId,
        before: JobId,
        most: usize,
        rows: usize,
    ) -> Result<BulkStep, Error> {
        let (names, values) = self.filter.labels();
        let states: Vec<&str> = self.states.iter().map(|state| state.letter()).collect();
        let statement = match (names.is_empty(), self.is_aside()) {
            (false, _) => query_as(include_str!("sql/walk_labelled.sql")),
            (true, true) => query_as(include_str!("sql/walk_aside.sql")),
            (true, false) => query_as(include_str!("sql/walk_jobs.sql")),
        };
        let statement = statement
            .bind(tenant)
            .bind(after)
            .bind(before)
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .bind(states)
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

    /// Whether an index of their own serves all of its states.
    fn is_aside(&self) -> bool {
        self.states.iter().all(|state| ASIDE.contains(state))
    }

    /// How many jobs of `tenant` match now: exact when nothing changes meanwhile. Read off the counters
    /// where these tell it, else found by walking, which is given up after `patience`: then `None`.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn count(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        before: JobId,
        patience: Duration,
    ) -> Result<Option<u64>, Error> {
        if self.is_tallied() {
            let states: Vec<&str> = self.states.iter().map(|state| state.letter()).collect();
            let count: i64 = query_scalar(include_str!("sql/tally_jobs.sql"))
                .bind(tenant)
                .bind(&self.filter.kind)
                .bind(&self.filter.queue)
                .bind(states)
                .fetch_one(connection)
                .await?;
            return Ok(Some(u64::try_from(count).unwrap_or_default()));
        }
        let begun = Instant::now();
        let mut count = 0;
        let mut after = JobId::from_i64(-1);
        while after.as_i64() < before.as_i64() - 1 {
            if begun.elapsed() > patience {
                return Ok(None);
            }
            let step = self
                .next_step(connection, tenant, after, before, COUNTED)
                .await?;
            count += u64::try_from(step.jobs.len()).unwrap_or_default();
            after = step.upto;
        }
        Ok(Some(count))
    }

    /// Whether nothing but kind, queue and states that are counted is asked.
    fn is_tallied(&self) -> bool {
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
        self.states.iter().all(|state| TALLIED.contains(state))
            && tag.is_none()
            && unique_key.is_none()
            && ordering_key.is_none()
            && created_after.is_none()
            && created_before.is_none()
            && error_code.is_none()
    }
}
