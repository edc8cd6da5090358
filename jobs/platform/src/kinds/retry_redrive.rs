//! The kind `retry.redrive`: retries, cancels or deletes all jobs that match a filter, in batches at a given
//! rate.
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

use crate::redrive::{Action, PATIENCE, Redrive};

/// How long a batch of jobs takes at the rate asked for.
const BATCH: Duration = Duration::from_millis(50);

/// How late a batch may be and the next ones still make up for it.
const SLACK: Duration = Duration::from_millis(50);

/// How often a batch is tried that the database undid because of its neighbours.
const TRIES: u32 = 10;

/// How long it goes on before others that wait for its place have their turn.
const SLICE: Duration = Duration::from_secs(10);

/// - Changes: retries, cancels or deletes the jobs of its tenant that match and were enqueued before it,
///   the oldest first, so many a second.
/// - Twice: it goes on behind the last job it came to: what it did, and where it stands, are written in
///   one transaction. Of two runs at once the one that began last goes on.
/// - Calls: nobody.
/// - Dead: retry it, and it goes on where it stopped; its `progress` tells how far it came.
#[derive(Debug)]
pub struct RetryRedrive;

impl JobKind for RetryRedrive {
    const KIND: &'static str = "retry.redrive";
    const QUEUE: &'static str = "maintenance";
    // A run that was lost is no fault of its: it goes on.
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

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// So many jobs match, and this job works on them; none does after a rehearsal.
    Counted {
        /// The job of kind `retry.redrive`.
        job: Option<JobId>,
        /// How many jobs match.
        matched: u64,
    },
    /// There are too many jobs to look at: nothing was done.
    TooMany,
}

impl Redrive {
    /// Counts the jobs that match and, unless this is a rehearsal, enqueues the job that works on them.
    /// It must keep its own rules: see [`Redrive::check`].
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn request(
        &self,
        tx: &mut TenantTx,
        engine: &Engine,
        trace: Trace,
        is_rehearsal: bool,
    ) -> Result<Requested, harkara_queue::Error> {
        let tenant = tx.tenant();
        let all = JobId::from_i64(i64::MAX);
        let selection = self.selection();
        let Some(matched) = selection.count(tx, tenant, all, PATIENCE).await? else {
            return Ok(Requested::TooMany);
        };
        if is_rehearsal {
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

/// How far it has come: the job's `progress`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Progress {
    /// How many jobs matched when it was asked for; null when they were too many to count.
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
    /// Nothing done yet.
    #[must_use]
    pub fn new(matched: Option<u64>) -> Self {
        Self {
            matched,
            ..Self::default()
        }
    }

    /// Counts, at the end, those that matched in the beginning and did not any more when their turn came.
    fn close(&mut self) {
        let met = self.done + self.undone.values().sum::<u64>();
        let missed = self.matched.unwrap_or_default().saturating_sub(met);
        if missed > 0 {
            *self.undone.entry("changed".to_owned()).or_default() += missed;
        }
    }

    /// Counts what became of jobs that were asked for.
    fn count(&mut self, action: Action, asked: usize, changes: &[(JobId, ChangeOutcome)]) {
        let mut undone = |reason: &str, jobs: u64| {
            if jobs > 0 {
                *self.undone.entry(reason.to_owned()).or_default() += jobs;
            }
        };
        let gone = asked.saturating_sub(changes.len());
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

/// What came of a batch.
enum Batch {
    /// So many jobs were looked at; there may be more.
    More(usize),
    /// There are none left.
    Finished(Progress),
    /// Another run of the same job goes on with it.
    Superseded,
}

impl Redriver<'_> {
    async fn work(&self) -> Result<Verdict, Error> {
        self.begin().await?;
        let begun = Instant::now();
        let mut pace = Pace::new(self.args.rate(), begun);
        loop {
            // A person's word comes before the next batch, and the one before it is complete.
            let turn = sleep_until(pace.next);
            if self.run.cancel.run_until_cancelled(turn).await.is_none()
                || self.run.cancel.is_cancelled()
            {
                return Ok(Verdict::Cancelled);
            }
            let started = Instant::now();
            if started - begun > SLICE {
                return Ok(Verdict::Yield {
                    wait: Duration::ZERO,
                });
            }
            match self.batch(pace.batch).await? {
                Batch::More(jobs) => pace.did(jobs, started),
                Batch::Finished(progress) => {
                    return Ok(Verdict::Done {
                        result: Some(result(&self.args, &progress)),
                        follow_ups: Vec::new(),
                    });
                }
                Batch::Superseded => {
                    let reason = "another run of this job goes on with it";
                    return Ok(Verdict::retry(JobError::new("superseded", reason), None));
                }
            }
        }
    }

    /// Has this run be the one that goes on, and counts the jobs unless that was done when they were
    /// asked for.
    async fn begin(&self) -> Result<(), Error> {
        let engine = &self.services.engine;
        let mut tx = self.tx().await?;
        let told = engine.claim_progress(&mut tx, &self.run.job).await?;
        tx.commit().await?;
        if told.is_some() {
            return Ok(());
        }
        let mut tx = self.tx().await?;
        let matched = self
            .selection
            .count(&mut tx, self.run.job.tenant, self.run.job.id, PATIENCE)
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

    async fn batch(&self, most: usize) -> Result<Batch, Error> {
        let mut tries = 1;
        loop {
            match self.try_batch(most).await {
                Err(Error::Database(error)) if is_conflict(&error) && tries < TRIES => tries += 1,
                ended => return ended,
            }
        }
    }

    /// Changes the next jobs, and writes down that it did, in one transaction.
    async fn try_batch(&self, most: usize) -> Result<Batch, Error> {
        let engine = &self.services.engine;
        let job = &self.run.job;
        let mut tx = self.tx().await?;
        let Some(told) = engine.lock_progress(&mut tx, job).await? else {
            return Ok(Batch::Superseded);
        };
        let mut progress: Progress = serde_json::from_value(told)?;
        let after = progress.cursor.unwrap_or(JobId::from_i64(-1));
        let step = self
            .selection
            .next_step(&mut tx, job.tenant, after, job.id, most)
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
        let told = serde_json::to_value(&progress)?;
        engine.report_progress(&mut tx, job.id, &told).await?;
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

/// When the next batch is due. Time that was lost is not made up for, but for the little by which a batch
/// is late again and again.
#[derive(Debug)]
struct Pace {
    rate: u32,
    batch: usize,
    next: Instant,
}

impl Pace {
    fn new(rate: u32, now: Instant) -> Self {
        let batch = f64::from(rate) * BATCH.as_secs_f64();
        // Whole numbers within bounds.
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

    /// So many jobs were changed by a batch that began then.
    fn did(&mut self, jobs: usize, started: Instant) {
        let jobs = u32::try_from(jobs).unwrap_or(u32::MAX);
        let worth = Duration::from_secs(1) * jobs / self.rate;
        let late = started.checked_sub(SLACK).unwrap_or(started);
        self.next = self.next.max(late) + worth;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_a_twentieth_of_a_second_but_never_nothing() {
        let now = Instant::now();
        for (rate, batch) in [(1, 1), (10, 1), (19, 1), (2000, 100), (100_000, 5000)] {
            assert_eq!(Pace::new(rate, now).batch, batch, "{rate}");
        }
    }

    #[test]
    fn a_second_holds_what_was_asked_for_however_late_batches_begin() {
        let now = Instant::now();
        for late in [0, 3, 20] {
            let mut pace = Pace::new(2000, now);
            let mut done = 0;
            while pace.next < now + Duration::from_secs(10) {
                let started = pace.next + Duration::from_millis(late);
                pace.did(pace.batch, started);
                done += pace.batch;
            }
            assert!((19_900..=20_100).contains(&done), "{late}: {done}");
        }
    }

    #[test]
    fn time_that_was_lost_is_not_made_up_for() {
        let now = Instant::now();
        let mut pace = Pace::new(2000, now);
        pace.did(100, now);
        let woken = now + Duration::from_secs(60);
        pace.did(100, woken);
        assert_eq!(pace.next, woken - SLACK + Duration::from_millis(50));
    }

    #[test]
    fn what_became_of_each_job_is_counted() {
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
