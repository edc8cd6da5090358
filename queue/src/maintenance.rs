//! Room: the engine's housekeeping.
//! Takes: the clock of the database. Gives: due jobs made ready, dead workers' jobs taken back, old
//! rows removed. Never: touches a job that a live worker holds.

use std::time::Duration;

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use harkara_shared::telemetry::metric;

use crate::engine::Engine;
use crate::error::Error;
use crate::read::stats::{HOUR_STATS_RETENTION, MINUTE_STATS_RETENTION};

/// Jobs promoted, rescued or removed by one statement.
const BATCH: i32 = 1000;

/// Rows rescued by one statement; each may hold 500 jobs.
const RESCUE: i32 = 100;

/// What a pulse found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pulse {
    /// Time to the next job that comes due, if there is one; nothing if more may be due already.
    pub(crate) next_due: Option<Duration>,
    /// Jobs under this lease whose run somebody cancelled.
    pub(crate) cancelling: Vec<JobId>,
}

/// What a rescue took back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Jobs taken from dead workers.
    pub jobs: i64,
    /// Of these, how many had no attempt left.
    pub dead: i64,
}

/// How long finished jobs are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Succeeded and cancelled jobs.
    pub succeeded: Duration,
    /// Dead jobs, attempts and the records of workers.
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

/// What retention removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Finished jobs.
    pub jobs: i64,
    /// Unique keys whose time was over.
    pub unique_keys: i64,
    /// Records of workers that stopped long ago.
    pub workers: i64,
    /// Lanes that nothing had used for a day.
    pub lanes: i64,
    /// Limits that were named once, limited nothing and are named no more.
    pub limits: i64,
    /// Days of attempts.
    pub attempt_days: i64,
    /// Minutes and hours of what happened to jobs, each of a kind of a tenant's jobs in a queue.
    pub history: i64,
}

impl Engine {
    pub(crate) async fn pulse(&self, lease: i64) -> Result<Pulse, Error> {
        let (promoted, next_due, cancelling): (i64, Option<i64>, Vec<i64>) =
            query_as(include_str!("sql/pulse.sql"))
                .bind(lease)
                .bind(BATCH)
                .bind(self.notify())
                .fetch_one(self.pool())
                .await?;
        if promoted > 0 {
            self.schedule_rollup();
        }
        let next_due = if promoted < i64::from(BATCH) {
            next_due.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()))
        } else {
            Some(Duration::ZERO)
        };
        Ok(Pulse {
            next_due,
            cancelling: cancelling.into_iter().map(JobId::from_i64).collect(),
        })
    }

    /// Takes back the jobs of workers whose lease has expired. Any number of processes may do so at
    /// once.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn rescue(&self) -> Result<Rescued, Error> {
        let mut total = Rescued::default();
        loop {
            let (rows, jobs, dead): (i64, i64, i64) = query_as(include_str!("sql/rescue.sql"))
                .bind(RESCUE)
                .fetch_one(self.pool())
                .await?;
            total.jobs += jobs;
            total.dead += dead;
            if rows < i64::from(RESCUE) {
                break;
            }
        }
        if total.jobs > 0 {
            self.schedule_rollup();
            metrics::counter!(metric::JOBS_RESCUED)
                .increment(u64::try_from(total.jobs).unwrap_or(0));
            tracing::warn!(
                jobs = total.jobs,
                dead = total.dead,
                "took back jobs of a dead worker"
            );
        }
        Ok(total)
    }

    /// Every tenant that has ever had a job: for work that goes from tenant to tenant.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn tenants(&self) -> Result<Vec<TenantId>, Error> {
        Ok(query_scalar(include_str!("sql/list_tenants.sql"))
            .fetch_all(self.pool())
            .await?)
    }

    /// Removes what is older than `keep` says and what has fallen out of use, a thousand rows at a
    /// time, and makes the partitions of the coming days.
    ///
    /// # Errors
    /// When the database refuses; what was removed until then stays removed.
    pub async fn retain(&self, keep: Retention) -> Result<Removed, Error> {
        let mut removed = Removed::default();
        let ages = [
            ("d", keep.succeeded),
            ("c", keep.succeeded),
            ("x", keep.dead),
        ];
        for (state, age) in ages {
            loop {
                let (rows, jobs): (i64, i64) = query_as(include_str!("sql/remove_finished.sql"))
                    .bind(state)
                    .bind(age.as_secs_f64())
                    .bind(BATCH)
                    .fetch_one(self.pool())
                    .await?;
                removed.jobs += jobs;
                if rows > 0 {
                    self.schedule_rollup();
                }
                if rows < i64::from(BATCH) {
                    break;
                }
            }
        }
        loop {
            let (keys, workers): (i64, i64) = query_as(include_str!("sql/remove_stale.sql"))
                .bind(keep.dead.as_secs_f64())
                .bind(BATCH)
                .fetch_one(self.pool())
                .await?;
            removed.unique_keys += keys;
            removed.workers += workers;
            if keys < i64::from(BATCH) {
                break;
            }
        }
        self.remove_idle(&mut removed).await?;
        let days: i32 =
            query_scalar("select queue.rotate_partitions(7, $1::float8 * interval '1 second')")
                .bind(keep.dead.as_secs_f64())
                .fetch_one(self.pool())
                .await?;
        removed.attempt_days = i64::from(days);
        loop {
            let rows: i64 = query_scalar(include_str!("sql/remove_old_history.sql"))
                .bind(MINUTE_STATS_RETENTION.as_secs_f64())
                .bind(HOUR_STATS_RETENTION.as_secs_f64())
                .bind(10 * BATCH)
                .fetch_one(self.pool())
                .await?;
            removed.history += rows;
            if rows < i64::from(10 * BATCH) {
                break;
            }
        }
        Ok(removed)
    }

    /// Removes lanes, and then limits, that came into being by being named and are not any more.
    async fn remove_idle(&self, removed: &mut Removed) -> Result<(), Error> {
        let mut after: i64 = 0;
        loop {
            let (lanes, last): (i64, i64) = query_as(include_str!("sql/remove_idle_lanes.sql"))
                .bind(after)
                .bind(BATCH)
                .fetch_one(self.pool())
                .await?;
            removed.lanes += lanes;
            after = last;
            if lanes < i64::from(BATCH) {
                break;
            }
        }
        loop {
            let mut tx = self.pool().begin().await?;
            let idle: Vec<i64> = query_scalar(include_str!("sql/lock_idle_limiters.sql"))
                .bind(BATCH)
                .fetch_all(&mut *tx)
                .await?;
            let limits: i64 = query_scalar(include_str!("sql/remove_idle_limiters.sql"))
                .bind(&idle)
                .fetch_one(&mut *tx)
                .await?;
            tx.commit().await?;
            removed.limits += limits;
            if limits < i64::from(BATCH) {
                break;
            }
        }
        Ok(())
    }
}
