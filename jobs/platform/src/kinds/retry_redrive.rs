//! The kind `retry.redrive`: retries, cancels or deletes all jobs that match a filter, in batches at a requested rate.
//!
//! It changes each job at most once, and never a job that was enqueued after it.

use std::collections::BTreeMap;
use std::time::Duration;

use harkara_kind::FieldError;
use harkara_kind::JobKind;
use harkara_kind::Services;
use harkara_kind::database_verdict;
use harkara_queue::job::{JobError, Trace};
use harkara_queue::{
    BulkSelection, ChangeOutcome, Engine, Error, MAX_JOBS_PER_CHANGE, Quota, Run, Verdict,
};
use harkara_shared::backoff::Backoff;
use harkara_shared::database::{TenantTx, is_conflict};
use harkara_shared::id::JobId;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::redrive::{Action, COUNT_TIMEOUT, Redrive};

/// Time that a batch of jobs takes at the requested rate.
const BATCH_INTERVAL: Duration = Duration::from_millis(50);

/// Maximum delay of a batch that later batches catch up on.
const MAX_CATCH_UP: Duration = Duration::from_millis(50);

/// Attempts of a batch that conflicts with concurrent transactions.
const MAX_BATCH_ATTEMPTS: u32 = 10;

/// Duration of a run before it yields its slot to other jobs.
const MAX_RUN: Duration = Duration::from_secs(10);

/// - Changes: retries, cancels or deletes the jobs of its tenant that match and were enqueued before it,
///   the oldest first, at the requested rate.
/// - Twice: it continues after the last job it reached: changes and progress are written in one transaction. Of two
///   concurrent runs the one that started last continues.
/// - Calls: nothing.
/// - Dead: retry it; it continues where it stopped, which its `progress` shows.
#[derive(Debug)]
pub struct RetryRedrive;

impl JobKind for RetryRedrive {
    const KIND: &'static str = "retry.redrive";
    const QUEUE: &'static str = "maintenance";
    // Lost runs count as attempts, and a long action has many chances to lose one.
    const MAX_ATTEMPTS: u16 = 25;
    const TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
    const HEEDS_CANCEL: bool = true;
    type Services = Services;
    type Args = Redrive;

    fn backoff() -> Backoff {
        Backoff {
            max: Duration::from_secs(60),
            ..Backoff::default()
        }
    }

    fn check(args: &Redrive) -> Vec<FieldError> {
        args.check()
    }

    async fn run(args: Redrive, run: Run, services: &Services) -> Verdict {
        let worker = Redriver {
            selection: args.selection(),
            args,
            run,
            services,
        };
        match worker.work().await {
            Ok(verdict) => verdict,
            Err(Error::Database(error)) => database_verdict(&error),
            Err(error) => Verdict::retry(JobError::new("redrive", error.to_string()), None),
        }
    }
}

/// Result of requesting a bulk action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// The number of matching jobs, and the job that changes them; no job after a dry run.
    Counted {
        /// The job of kind `retry.redrive`.
        job: Option<JobId>,
        /// How many jobs match.
        matched: u64,
    },
    /// Too many jobs to scan in time; nothing was done.
    TooMany,
}

impl Redrive {
    /// Counts the matching jobs and, unless this is a dry run, enqueues the job that changes them. The action must pass
    /// [`Redrive::check`].
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn request(
        &self,
        tx: &mut TenantTx,
        engine: &Engine,
        trace: Trace,
        is_dry_run: bool,
    ) -> Result<Requested, harkara_queue::Error> {
        let tenant = tx.tenant();
        let all = JobId::from_i64(i64::MAX);
        let selection = self.selection();
        let Some(matched) = selection.count(tx, tenant, all, COUNT_TIMEOUT).await? else {
            return Ok(Requested::TooMany);
        };
        if is_dry_run {
            return Ok(Requested::Counted { job: None, matched });
        }
        let mut job = RetryRedrive::job(to_raw_value(self)?);
        job.trace = trace;
        let job = engine.enqueue(tx, tenant, job, Quota::Skip).await?.id();
        let progress = serde_json::to_value(Progress::new(Some(matched)))?;
        engine.report_progress(tx, job, &progress).await?;
        Ok(Requested::Counted {
            job: Some(job),
            matched,
        })
    }
}

/// The job's `progress`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Progress {
    /// Number of jobs that matched when it was requested; null when there were too many to count.
    pub matched: Option<u64>,
    /// Jobs changed.
    pub done: u64,
    /// Jobs that could not be changed, by reason.
    #[serde(default)]
    pub undone: BTreeMap<String, u64>,
    /// Every matching job up to this one has been changed or counted as undone.
    pub cursor: Option<JobId>,
}

impl Progress {
    /// Progress before the first batch.
    #[must_use]
    pub fn new(matched: Option<u64>) -> Self {
        Self {
            matched,
            ..Self::default()
        }
    }

    /// Counts, at the end, jobs that matched at the start and no longer did when they were reached.
    fn close(&mut self) {
        let reached = self.done + self.undone.values().sum::<u64>();
        let missed = self.matched.unwrap_or_default().saturating_sub(reached);
        if missed > 0 {
            *self.undone.entry("changed".to_owned()).or_default() += missed;
        }
    }

    /// Counts the outcomes of a batch of `requested` jobs.
    fn count(&mut self, action: Action, requested: usize, changes: &[(JobId, ChangeOutcome)]) {
        let mut undone = |reason: &str, jobs: u64| {
            if jobs > 0 {
                *self.undone.entry(reason.to_owned()).or_default() += jobs;
            }
        };
        let gone = requested.saturating_sub(changes.len());
        undone("gone", u64::try_from(gone).unwrap_or_default());
        for (_, change) in changes {
            match change {
                ChangeOutcome::Applied(_) => self.done += 1,
                ChangeOutcome::KeyTaken(_) if action == Action::Delete => undone("key_held", 1),
                ChangeOutcome::KeyTaken(_) => undone("key_taken", 1),
                ChangeOutcome::Refused(_) => undone("changed", 1),
                ChangeOutcome::NotFound => undone("gone", 1),
            }
        }
    }
}

struct Redriver<'a> {
    args: Redrive,
    selection: BulkSelection,
    run: Run,
    services: &'a Services,
}

/// Outcome of a batch.
enum Batch {
    /// This number of jobs was scanned; more may follow.
    More(usize),
    /// All jobs have been scanned.
    Finished(Progress),
    /// Another run of the same job continues it.
    Superseded,
}

impl Redriver<'_> {
    async fn work(&self) -> Result<Verdict, Error> {
        self.begin().await?;
        let run_started = Instant::now();
        let mut pace = Pace::new(self.args.rate(), run_started);
        loop {
            // A cancel takes effect between batches.
            let next_batch = sleep_until(pace.next);
            if self
                .run
                .cancel
                .run_until_cancelled(next_batch)
                .await
                .is_none()
                || self.run.cancel.is_cancelled()
            {
                return Ok(Verdict::Cancelled);
            }
            let started = Instant::now();
            if started - run_started > MAX_RUN {
                return Ok(Verdict::Yield {
                    wait: Duration::ZERO,
                });
            }
            match self.batch(pace.batch).await? {
                Batch::More(jobs) => pace.record(jobs, started),
                Batch::Finished(progress) => {
                    return Ok(Verdict::Done {
                        result: Some(result(&self.args, &progress)),
                        follow_ups: Vec::new(),
                    });
                }
                Batch::Superseded => {
                    let reason = "another run of this job continues it";
                    return Ok(Verdict::retry(JobError::new("superseded", reason), None));
                }
            }
        }
    }

    /// Makes this run the one that continues, and counts the jobs unless they were counted at the request.
    async fn begin(&self) -> Result<(), Error> {
        let engine = &self.services.engine;
        let mut tx = self.tx().await?;
        let earlier = engine.claim_progress(&mut tx, &self.run.job).await?;
        tx.commit().await?;
        if earlier.is_some() {
            return Ok(());
        }
        let mut tx = self.tx().await?;
        let matched = self
            .selection
            .count(&mut tx, self.run.job.tenant, self.run.job.id, COUNT_TIMEOUT)
            .await?;
        let progress = serde_json::to_value(Progress::new(matched))?;
        if engine
            .lock_progress(&mut tx, &self.run.job)
            .await?
            .is_some()
        {
            engine
                .report_progress(&mut tx, self.run.job.id, &progress)
                .await?;
        }
        Ok(tx.commit().await?)
    }

    async fn tx(&self) -> Result<TenantTx, Error> {
        Ok(TenantTx::begin(&self.services.pool, self.run.job.tenant).await?)
    }

    async fn batch(&self, max_jobs: usize) -> Result<Batch, Error> {
        let mut attempts = 1;
        loop {
            match self.try_batch(max_jobs).await {
                Err(Error::Database(error))
                    if is_conflict(&error) && attempts < MAX_BATCH_ATTEMPTS =>
                {
                    attempts += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Changes the next jobs and records the progress, in one transaction.
    async fn try_batch(&self, max_jobs: usize) -> Result<Batch, Error> {
        let engine = &self.services.engine;
        let job = &self.run.job;
        let mut tx = self.tx().await?;
        let Some(stored) = engine.lock_progress(&mut tx, job).await? else {
            return Ok(Batch::Superseded);
        };
        let mut progress: Progress = serde_json::from_value(stored)?;
        let after = progress.cursor.unwrap_or(JobId::from_i64(-1));
        let step = self
            .selection
            .next_step(&mut tx, job.tenant, after, job.id, max_jobs)
            .await?;
        let changes = match self.args.action {
            _ if step.jobs.is_empty() => Vec::new(),
            Action::Retry => engine.retry_jobs(&mut tx, &step.jobs).await?,
            Action::Cancel => engine.cancel_jobs(&mut tx, &step.jobs).await?,
            Action::Delete => engine.delete_jobs(&mut tx, &step.jobs).await?,
        };
        progress.count(self.args.action, step.jobs.len(), &changes);
        progress.cursor = Some(step.upto);
        let is_last = step.upto.as_i64() >= job.id.as_i64() - 1;
        if is_last {
            progress.close();
        }
        let stored = serde_json::to_value(&progress)?;
        engine.report_progress(&mut tx, job.id, &stored).await?;
        tx.commit().await?;
        Ok(if is_last {
            Batch::Finished(progress)
        } else {
            Batch::More(step.jobs.len())
        })
    }
}

fn result(args: &Redrive, progress: &Progress) -> Value {
    json!({
        "action": args.action,
        "matched": progress.matched,
        "done": progress.done,
        "undone": progress.undone,
    })
}

/// Paces batches at a rate. Lost time is not caught up on, except for small delays that would add up.
#[derive(Debug)]
struct Pace {
    rate: u32,
    batch: usize,
    next: Instant,
}

impl Pace {
    fn new(rate: u32, now: Instant) -> Self {
        let batch = f64::from(rate) * BATCH_INTERVAL.as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is at most 100 000, and a cast saturates"
        )]
        let batch = (batch.round() as usize).clamp(1, MAX_JOBS_PER_CHANGE);
        Self {
            rate,
            batch,
            next: now,
        }
    }

    /// Records a batch that started at `started` and changed `jobs` jobs.
    fn record(&mut self, jobs: usize, started: Instant) {
        let jobs = u32::try_from(jobs).unwrap_or(u32::MAX);
        let share = Duration::from_secs(1) * jobs / self.rate;
        let earliest = started.checked_sub(MAX_CATCH_UP).unwrap_or(started);
        self.next = self.next.max(earliest) + share;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_holds_a_twentieth_of_the_rate_and_at_least_one() {
        let now = Instant::now();
        for (rate, batch) in [(1, 1), (10, 1), (19, 1), (2000, 100), (100_000, 5000)] {
            assert_eq!(Pace::new(rate, now).batch, batch, "{rate}");
        }
    }

    #[test]
    fn rate_is_kept_when_batches_start_late() {
        let now = Instant::now();
        for late in [0, 3, 20] {
            let mut pace = Pace::new(2000, now);
            let mut done = 0;
            while pace.next < now + Duration::from_secs(10) {
                let started = pace.next + Duration::from_millis(late);
                pace.record(pace.batch, started);
                done += pace.batch;
            }
            assert!((19_900..=20_100).contains(&done), "{late}: {done}");
        }
    }

    #[test]
    fn lost_time_is_not_caught_up_on() {
        let now = Instant::now();
        let mut pace = Pace::new(2000, now);
        pace.record(100, now);
        let woken = now + Duration::from_secs(60);
        pace.record(100, woken);
        assert_eq!(pace.next, woken - MAX_CATCH_UP + Duration::from_millis(50));
    }

    #[test]
    fn outcomes_of_jobs_are_counted() {
        let id = JobId::from_i64;
        let changes = [
            (
                id(1),
                ChangeOutcome::Applied(harkara_queue::job::JobState::Ready),
            ),
            (id(2), ChangeOutcome::KeyTaken(id(9))),
            (
                id(3),
                ChangeOutcome::Refused(harkara_queue::job::JobState::Ready),
            ),
        ];
        let mut progress = Progress::new(Some(5));
        progress.count(Action::Retry, 5, &changes);
        assert_eq!(
            serde_json::to_value(&progress).unwrap(),
            json!({
                "matched": 5, "done": 1,
                "undone": {"changed": 1, "gone": 2, "key_taken": 1}, "cursor": null,
            })
        );
    }
}
