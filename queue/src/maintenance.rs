//! Maintains the queue: makes due jobs ready, rescues jobs of lost workers and removes old rows.
//!
//! All times are those of the database's clock. Never changes a job that a live worker holds.

use std::time::Duration;

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use harkara_shared::telemetry::metric;

use crate::engine::Engine;
use crate::error::Error;
use crate::job::JobState;
use crate::read::stats::{HOUR_STATS_RETENTION, MINUTE_STATS_RETENTION};

/// Rows promoted or removed by one statement.
const BATCH_ROWS: i32 = 1000;

/// Rows rescued by one statement; fewer, because each can hold 500 jobs.
const RESCUE_BATCH_ROWS: i32 = 100;

/// Rows of history removed by one statement; more, because they are small and have no dependent rows.
const HISTORY_BATCH_ROWS: i32 = 10 * BATCH_ROWS;

/// What a heartbeat returned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    /// Time until the next job is due. Zero if more jobs may be due already, `None` if no job is
    /// scheduled.
    pub(crate) next_due: Option<Duration>,
    /// Jobs running under this lease that have been cancelled.
    pub(crate) cancelling: Vec<JobId>,
}

/// The jobs taken back by a rescue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Number of jobs taken back.
    pub jobs: i64,
    /// How many of them are dead because they had no attempt left.
    pub dead: i64,
}

/// How long finished jobs are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// For succeeded and cancelled jobs.
    pub succeeded: Duration,
    /// For dead jobs, attempts and the records of stopped workers.
    pub dead: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            succeeded: Duration::from_secs(7 * DAY),
            dead: Duration::from_secs(30 * DAY),
        }
    }
}

/// Number of items that retention removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Finished jobs.
    pub jobs: i64,
    /// Expired unique keys.
    pub unique_keys: i64,
    /// Records of workers that stopped before the retention period.
    pub workers: i64,
    /// Lanes unused for a day.
    pub lanes: i64,
    /// Limits without a setting that no job has named for a day.
    pub limits: i64,
    /// Daily partitions of the attempt log.
    pub attempt_days: i64,
    /// Rows of history, each for a minute or an hour of one kind and tenant in one queue.
    pub history: i64,
}

impl Engine {
    /// Makes due jobs ready, cancels expired ones, and returns when the next job is due and which jobs
    /// running under `lease` have been cancelled.
    pub(crate) async fn heartbeat(&self, lease: i64) -> Result<Heartbeat, Error> {
        let (promoted, next_due, cancelling): (i64, Option<i64>, Vec<i64>) =
            query_as(include_str!("maintenance/heartbeat.sql"))
                .bind(lease)
                .bind(BATCH_ROWS)
                .bind(self.notify())
                .fetch_one(self.pool())
                .await?;
        if promoted > 0 {
            self.schedule_rollup();
        }
        let next_due = if promoted < i64::from(BATCH_ROWS) {
            // Rounding can make it a little less than zero.
            next_due.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
        } else {
            Some(Duration::ZERO)
        };
        Ok(Heartbeat {
            next_due,
            cancelling: cancelling.into_iter().map(JobId::from_i64).collect(),
        })
    }

    /// Takes back the jobs of workers whose lease has expired. Any number of processes can do so at the
    /// same time.
    ///
    /// # Errors
    /// When a statement fails.
    pub async fn rescue(&self) -> Result<Rescued, Error> {
        let mut total = Rescued::default();
        loop {
            let (rows, jobs, dead): (i64, i64, i64) =
                query_as(include_str!("maintenance/rescue.sql"))
                    .bind(RESCUE_BATCH_ROWS)
                    .fetch_one(self.pool())
                    .await?;
            total.jobs += jobs;
            total.dead += dead;
            if rows < i64::from(RESCUE_BATCH_ROWS) {
                break;
            }
        }
        if total.jobs > 0 {
            self.schedule_rollup();
            metrics::counter!(metric::JOBS_RESCUED).increment(total.jobs.unsigned_abs());
            tracing::warn!(
                jobs = total.jobs,
                dead = total.dead,
                "rescued jobs of a worker whose lease expired"
            );
        }
        Ok(total)
    }

    /// Returns every tenant that has ever had a job, for work that is done tenant by tenant.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn tenants(&self) -> Result<Vec<TenantId>, Error> {
        Ok(query_scalar(include_str!("maintenance/list_tenants.sql"))
            .fetch_all(self.pool())
            .await?)
    }

    /// Removes finished jobs older than `keep` and rows that have fallen out of use, in batches, and
    /// creates the partitions of the coming days.
    ///
    /// # Errors
    /// When a statement fails; earlier batches stay removed.
    pub async fn retain(&self, keep: Retention) -> Result<Removed, Error> {
        let mut removed = Removed::default();
        let ages = [
            (JobState::Succeeded, keep.succeeded),
            (JobState::Cancelled, keep.succeeded),
            (JobState::Dead, keep.dead),
        ];
        for (state, age) in ages {
            removed.jobs += self.remove_finished_jobs(state, age).await?;
        }
        loop {
            let (keys, workers): (i64, i64) =
                query_as(include_str!("maintenance/remove_stale.sql"))
                    .bind(keep.dead.as_secs_f64())
                    .bind(BATCH_ROWS)
                    .fetch_one(self.pool())
                    .await?;
            removed.unique_keys += keys;
            removed.workers += workers;
            if keys < i64::from(BATCH_ROWS) {
                break;
            }
        }
        removed.lanes = self.remove_idle_lanes().await?;
        removed.limits = self.remove_idle_limits().await?;
        let days: i32 = query_scalar(include_str!("maintenance/rotate_partitions.sql"))
            .bind(keep.dead.as_secs_f64())
            .fetch_one(self.pool())
            .await?;
        removed.attempt_days = i64::from(days);
        removed.history = self.remove_old_history().await?;
        Ok(removed)
    }

    async fn remove_finished_jobs(&self, state: JobState, age: Duration) -> Result<i64, Error> {
        let mut removed = 0;
        loop {
            let (rows, jobs): (i64, i64) =
                query_as(include_str!("maintenance/remove_finished.sql"))
                    .bind(state.letter())
                    .bind(age.as_secs_f64())
                    .bind(BATCH_ROWS)
                    .fetch_one(self.pool())
                    .await?;
            removed += jobs;
            if rows > 0 {
                self.schedule_rollup();
            }
            if rows < i64::from(BATCH_ROWS) {
                return Ok(removed);
            }
        }
    }

    /// Removes lanes that were created by use and are unused.
    async fn remove_idle_lanes(&self) -> Result<i64, Error> {
        let mut removed = 0;
        let mut after: i64 = 0;
        loop {
            let (lanes, last): (i64, i64) =
                query_as(include_str!("maintenance/remove_idle_lanes.sql"))
                    .bind(after)
                    .bind(BATCH_ROWS)
                    .fetch_one(self.pool())
                    .await?;
            removed += lanes;
            after = last;
            if lanes < i64::from(BATCH_ROWS) {
                return Ok(removed);
            }
        }
    }

    /// Removes limits that were created by use, limit nothing and are named by no lane.
    async fn remove_idle_limits(&self) -> Result<i64, Error> {
        let mut removed = 0;
        loop {
            let mut tx = self.pool().begin().await?;
            let idle: Vec<i64> = query_scalar(include_str!("maintenance/lock_idle_limiters.sql"))
                .bind(BATCH_ROWS)
                .fetch_all(&mut *tx)
                .await?;
            let limits: i64 = query_scalar(include_str!("maintenance/remove_idle_limiters.sql"))
                .bind(&idle)
                .fetch_one(&mut *tx)
                .await?;
            tx.commit().await?;
            removed += limits;
            if limits < i64::from(BATCH_ROWS) {
                return Ok(removed);
            }
        }
    }

    async fn remove_old_history(&self) -> Result<i64, Error> {
        let mut removed = 0;
        loop {
            let rows: i64 = query_scalar(include_str!("maintenance/remove_old_history.sql"))
                .bind(MINUTE_STATS_RETENTION.as_secs_f64())
                .bind(HOUR_STATS_RETENTION.as_secs_f64())
                .bind(HISTORY_BATCH_ROWS)
                .fetch_one(self.pool())
                .await?;
            removed += rows;
            if rows < i64::from(HISTORY_BATCH_ROWS) {
                return Ok(removed);
            }
        }
    }
}
