//! Room: draining a queue.
//! Takes: a queue's name. Gives: its ready jobs claimed, run and settled as a worker does it, in an
//! order that is the same each time. Never: waits for anything but handlers.

use std::future::IntoFuture;
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::job::AttemptOutcome;
use harkara_queue::test_worker::{SettledRun, TestWorker};
use harkara_shared::id::JobId;

use crate::handler::KitHandler;
use crate::{Boxed, Kit};

/// A worker's lease in [`Kit::crash`].
const LEASE: Duration = Duration::from_secs(30);

/// Longer than a test moves its clock.
const LONG_LEASE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A drain of more runs than this will not end.
const MOST_RUNS: usize = 100_000;

/// A drain about to begin; `await` it.
#[derive(Debug)]
pub struct Drain<'a> {
    kit: &'a Kit,
    queue: String,
    places: u32,
    until: Option<DateTime<Utc>>,
}

/// What a drain ran: a job stands here once for each of its runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    /// All, in the order they were claimed.
    pub ran: Vec<JobId>,
    /// Did what they should.
    pub succeeded: Vec<JobId>,
    /// Failed and will be tried again.
    pub retried: Vec<JobId>,
    /// Failed for good.
    pub dead: Vec<JobId>,
    /// Asked to be run later.
    pub snoozed: Vec<JobId>,
    /// The other side asked to wait.
    pub rate_limited: Vec<JobId>,
    /// Were cancelled while they ran.
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
            places: 1,
            until: None,
        }
    }
}

impl Drain<'_> {
    /// So many jobs side by side, instead of one after another.
    #[must_use]
    pub fn at_once(mut self, places: u32) -> Self {
        self.places = places;
        self
    }

    /// Goes on until this moment: the clock is set to whatever comes next, again and again, and to
    /// the moment in the end. So a job is seen through all its backoffs in one call.
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
            worker.promote().await.expect("a look at what is due");
            let opens_in = loop {
                let turn = kit.clock.scope(worker.run_batch(self.places));
                let turn = turn.await.expect("a claim and its settlement");
                for ended in &turn.runs {
                    drained.note(ended);
                }
                if turn.runs.is_empty() {
                    break turn.opens_in;
                }
                assert!(
                    drained.ran.len() < MOST_RUNS,
                    "the queue `{}` does not run dry: {MOST_RUNS} runs, the last of them of {:?}",
                    self.queue,
                    drained.ran.last()
                );
            };
            let Some(until) = self.until.filter(|until| kit.now() < *until) else {
                break;
            };
            let due_in = worker.promote().await.expect("a look at what is due");
            let next = due_in.into_iter().chain(opens_in).min();
            // Told in milliseconds: what is nearer is not at no distance.
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
    /// Has a worker claim what is ready in a queue and die under it. The jobs are taken back when its
    /// lease of 30 seconds is over, by the next drain.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn crash(&self, queue: &str) -> Vec<JobId> {
        let handler = KitHandler::of(self, None);
        let engine = &self.services.engine;
        let worker = TestWorker::start(engine, handler, queue, LEASE).await;
        let worker = worker.expect("a lease");
        worker.promote().await.expect("a look at what is due");
        worker.claim_and_crash(1000).await.expect("a claim")
    }
}
