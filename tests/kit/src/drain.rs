//! Drains a queue in a test.
//! Claims, runs and settles the ready jobs of a queue as a worker does, in a deterministic
//! order. Waits only for handlers.

use std::future::IntoFuture;
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::job::AttemptOutcome;
use harkara_queue::test_worker::{SettledRun, TestWorker};
use harkara_shared::id::JobId;

use crate::handler::KitHandler;
use crate::{Boxed, Kit};

/// The lease of the worker in [`Kit::crash`].
const CRASH_LEASE: Duration = Duration::from_secs(30);

/// Longer than any test advances its clock.
const LONG_LEASE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The number of runs after which a drain is considered endless.
const MAX_RUNS: usize = 100_000;

/// A drain that starts when it is awaited.
#[derive(Debug)]
pub struct Drain<'a> {
    kit: &'a Kit,
    queue: String,
    slots: u32,
    until: Option<DateTime<Utc>>,
}

/// The runs of a drain. A job is listed once for each of its runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    /// All runs, in the order of their claims.
    pub ran: Vec<JobId>,
    /// Runs that succeeded.
    pub succeeded: Vec<JobId>,
    /// Runs that failed and will be retried.
    pub retried: Vec<JobId>,
    /// Runs that failed permanently.
    pub dead: Vec<JobId>,
    /// Runs that snoozed.
    pub snoozed: Vec<JobId>,
    /// Runs that were rate limited by their receiver.
    pub rate_limited: Vec<JobId>,
    /// Runs that were cancelled.
    pub cancelled: Vec<JobId>,
}

impl Drained {
    fn note(&mut self, ended: &SettledRun) {
        let list = match ended.outcome {
            Some(AttemptOutcome::Succeeded) => &mut self.succeeded,
            Some(AttemptOutcome::Retry) => &mut self.retried,
            Some(AttemptOutcome::Dead) => &mut self.dead,
            Some(AttemptOutcome::Snoozed) => &mut self.snoozed,
            Some(AttemptOutcome::RateLimited) => &mut self.rate_limited,
            Some(AttemptOutcome::Cancelled) => &mut self.cancelled,
            // Put back without having run.
            Some(AttemptOutcome::Lost) | None => return,
        };
        list.push(ended.id);
        self.ran.push(ended.id);
    }
}

impl<'a> Drain<'a> {
    pub(crate) fn new(kit: &'a Kit, queue: &str) -> Self {
        Self {
            kit,
            queue: queue.to_owned(),
            slots: 1,
            until: None,
        }
    }
}

impl Drain<'_> {
    /// Runs up to this many jobs concurrently, instead of one after another.
    #[must_use]
    pub fn at_once(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// Continues until this time: the clock is advanced to each next due time, and finally to
    /// `moment`. One call can therefore run a job through all its backoffs.
    #[must_use]
    pub fn until(mut self, moment: DateTime<Utc>) -> Self {
        self.until = Some(moment);
        self
    }

    async fn run(self) -> Drained {
        let kit = self.kit;
        let mut drained = Drained::default();
        let handler = KitHandler::of(kit, None);
        let engine = &kit.services.engine;
        let mut worker = TestWorker::start(engine, handler, &self.queue, LONG_LEASE)
            .await
            .expect("a lease");
        loop {
            worker.promote().await.expect("promoted due jobs");
            let opens_in = loop {
                let turn = kit.clock.scope(worker.run_batch(self.slots));
                let turn = turn.await.expect("a claim and its settlement");
                for ended in &turn.runs {
                    drained.note(ended);
                }
                if turn.runs.is_empty() {
                    break turn.opens_in;
                }
                assert!(
                    drained.ran.len() < MAX_RUNS,
                    "the queue `{}` is not empty after {MAX_RUNS} runs; the last run was of {:?}",
                    self.queue,
                    drained.ran.last()
                );
            };
            let Some(until) = self.until.filter(|until| kit.now() < *until) else {
                break;
            };
            let due_in = worker.promote().await.expect("promoted due jobs");
            let next = due_in.into_iter().chain(opens_in).min();
            // Reported in whole milliseconds: a shorter distance must not become zero.
            let next = next.map(|wait| kit.now() + wait.max(Duration::from_millis(1)));
            kit.set_clock(next.map_or(until, |next| next.min(until)))
                .await;
        }
        worker.stop().await.expect("the lease's end");
        drained
    }
}

impl<'a> IntoFuture for Drain<'a> {
    type Output = Drained;
    type IntoFuture = Boxed<'a, Drained>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl Kit {
    /// Lets a worker claim the ready jobs of a queue and die. The jobs are rescued when its
    /// lease of 30 seconds has expired, by the next drain.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn crash(&self, queue: &str) -> Vec<JobId> {
        let handler = KitHandler::of(self, None);
        let engine = &self.services.engine;
        let worker = TestWorker::start(engine, handler, queue, CRASH_LEASE).await;
        let worker = worker.expect("a lease");
        worker.promote().await.expect("promoted due jobs");
        worker.claim_and_crash(1000).await.expect("a claim")
    }
}
