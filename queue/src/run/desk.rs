//! Room: what the parts of one worker share: which jobs it holds, how many places are free.
//! Takes: claims. Gives: places and stop tokens. Never: talks to the database.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use harkara_shared::telemetry::metric;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Run, WorkerOptions};
use crate::claim::Claimed;
use crate::engine::Engine;
use crate::verdict::Ending;

/// No lease held.
const NONE: i64 = 0;

/// The desk of one worker process.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) engine: Engine,
    /// Served queues in the order of the options; their numbers are learnt from the database.
    pub(super) queues: Vec<(String, u32)>,
    /// Longest time between two looks for work.
    pub(super) poll: Duration,
    /// Something may be claimable.
    pub(super) work: Notify,
    /// Something may come due before the next look.
    pub(super) due: Notify,
    /// Runs still in flight are to be put back.
    pub(super) grace_over: CancellationToken,
    lease: AtomicI64,
    held: Mutex<Held>,
    endings: Mutex<Option<mpsc::UnboundedSender<(Claimed, Ending)>>>,
}

#[derive(Debug, Default)]
struct Held {
    /// By parcel and token: after a crash of the database had a claim forgotten, a worker may hold
    /// the same parcel twice, by two claims.
    runs: HashMap<(i64, i64), HeldRun>,
    /// Jobs held of each served queue.
    of_queue: Vec<u32>,
    /// How many jobs claimed by each token are in hand or wait for their ending to be written.
    of_token: HashMap<i64, u32>,
    /// Tokens of jobs whose endings the database refuses for good. Known for ever, so that nobody
    /// puts such a job back as forgotten, again and again, at no attempt.
    given_up: HashSet<i64>,
}

impl Held {
    /// Runs that have ended and whose endings wait to be written.
    fn unwritten(&self) -> u64 {
        let known: u64 = self.of_token.values().map(|jobs| u64::from(*jobs)).sum();
        known.saturating_sub(u64::try_from(self.runs.len()).unwrap_or(u64::MAX))
    }

    fn release(&mut self, token: i64) {
        if let Some(jobs) = self.of_token.get_mut(&token) {
            *jobs = jobs.saturating_sub(1);
            if *jobs == 0 {
                self.of_token.remove(&token);
            }
        }
    }
}

#[derive(Debug)]
struct HeldRun {
    queue_index: usize,
    /// Somebody cancelled the job.
    cancel: CancellationToken,
    /// The lease was lost: the run's outcome no longer counts.
    lost: CancellationToken,
}

/// The ends of the channels that the desk's parts are given.
pub(super) struct DeskEnds {
    pub(super) senders: Vec<mpsc::UnboundedSender<Task<Run>>>,
    pub(super) tasks: Vec<mpsc::UnboundedReceiver<Task<Run>>>,
    pub(super) endings: mpsc::UnboundedReceiver<(Claimed, Ending)>,
}

impl Desk {
    /// The channels are unbounded by type and bounded by [`Desk::free`]: nothing is claimed without a
    /// place, and nothing at all while too many endings wait to be written.
    pub(super) fn new(engine: Engine, options: &WorkerOptions, poll: Duration) -> (Self, DeskEnds) {
        let (senders, tasks) = options
            .queues
            .iter()
            .map(|_| mpsc::unbounded_channel())
            .unzip();
        let (ended, endings) = mpsc::unbounded_channel();
        let queues: Vec<(String, u32)> = options
            .queues
            .iter()
            .map(|queue| (queue.queue.clone(), queue.concurrency))
            .collect();
        let desk = Self {
            engine,
            poll,
            work: Notify::new(),
            due: Notify::new(),
            grace_over: CancellationToken::new(),
            lease: AtomicI64::new(NONE),
            held: Mutex::new(Held {
                of_queue: vec![0; queues.len()],
                ..Held::default()
            }),
            endings: Mutex::new(Some(ended)),
            queues,
        };
        (
            desk,
            DeskEnds {
                senders,
                tasks,
                endings,
            },
        )
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lease(&self) -> Option<i64> {
        Some(self.lease.load(Ordering::Acquire)).filter(|lease| *lease != NONE)
    }

    pub(super) fn take_lease(&self, lease: i64) {
        self.lease.store(lease, Ordering::Release);
        self.look();
    }

    /// Has everybody look at once for what nobody told.
    pub(super) fn look(&self) {
        self.work.notify_one();
        self.due.notify_one();
    }

    /// The lease is gone: what was claimed under it no longer is ours.
    pub(super) fn lose_lease(&self) {
        self.lease.store(NONE, Ordering::Release);
        for run in self.held().runs.values() {
            run.lost.cancel();
        }
    }

    /// Free places of each served queue: none while as many endings wait to be written as the worker
    /// has places, so that a database that takes claims but no outcomes fills no memory.
    pub(super) fn free(&self) -> Vec<u32> {
        let held = self.held();
        let places: u64 = self
            .queues
            .iter()
            .map(|(_, places)| u64::from(*places))
            .sum();
        if held.unwritten() >= places {
            return vec![0; self.queues.len()];
        }
        self.queues
            .iter()
            .zip(&held.of_queue)
            .map(|((_, places), taken)| places.saturating_sub(*taken))
            .collect()
    }

    pub(super) fn in_hand(&self) -> usize {
        self.held().runs.len()
    }

    /// The tokens of all claims that are in hand or whose endings wait to be written.
    pub(super) fn tokens(&self) -> Vec<i64> {
        let held = self.held();
        held.of_token
            .keys()
            .chain(&held.given_up)
            .copied()
            .collect()
    }

    /// Takes a claimed job in hand; it keeps its place until [`Desk::end`].
    pub(super) fn hold(&self, queue_index: usize, job: Claimed) -> Task<Run> {
        let (cancel, lost) = (CancellationToken::new(), CancellationToken::new());
        let mut held = self.held();
        if let Some(taken) = held.of_queue.get_mut(queue_index) {
            *taken += 1;
        }
        *held.of_token.entry(job.token).or_default() += 1;
        let run = HeldRun {
            queue_index,
            cancel: cancel.clone(),
            lost: lost.clone(),
        };
        held.runs.insert((job.parcel, job.token), run);
        // The lease may have been lost between the claim and this line, when the run was not yet
        // here to be told.
        if self.lease() != Some(job.lease) {
            lost.cancel();
        }
        drop(held);
        self.gauge(queue_index, 1.0);
        TaskBuilder::new(Run { job, cancel }).build()
    }

    /// Gives back a job that never was in hand, though it was claimed under this worker's lease.
    pub(super) fn put_back(&self, job: Claimed) {
        *self.held().of_token.entry(job.token).or_default() += 1;
        self.end(job, Some(Ending::PutBack));
    }

    /// Two tokens of a held run: cancelled by somebody, lease lost.
    pub(super) fn signals(&self, job: &Claimed) -> Option<(CancellationToken, CancellationToken)> {
        let held = self.held();
        let run = held.runs.get(&(job.parcel, job.token))?;
        Some((run.cancel.clone(), run.lost.clone()))
    }

    /// The run is over: its place is free, its ending, if it counts, goes to be written.
    pub(super) fn end(&self, job: Claimed, ending: Option<Ending>) {
        let mut held = self.held();
        if let Some(run) = held.runs.remove(&(job.parcel, job.token)) {
            if let Some(taken) = held.of_queue.get_mut(run.queue_index) {
                *taken = taken.saturating_sub(1);
            }
            self.gauge(run.queue_index, -1.0);
        }
        match ending {
            None => held.release(job.token),
            Some(ending) => {
                let endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(endings) = endings.as_ref() {
                    // The completer ends after this sender does.
                    endings.send((job, ending)).ok();
                }
            }
        }
        drop(held);
        self.work.notify_one();
    }

    /// The endings of jobs claimed by these tokens, one entry a job, are written.
    pub(super) fn written(&self, tokens: &[i64]) {
        let mut held = self.held();
        for token in tokens {
            held.release(*token);
        }
        drop(held);
        self.work.notify_one();
    }

    /// The ending of a job claimed by this token cannot be written: the run counts as lost when this
    /// worker's lease ends.
    pub(super) fn give_up(&self, token: i64) {
        let mut held = self.held();
        held.release(token);
        held.given_up.insert(token);
    }

    /// No more endings: the completer writes what it has and ends.
    pub(super) fn close_endings(&self) {
        self.endings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Tells the runs of these parcels, where they are ours, that somebody cancelled them.
    pub(super) fn cancel(&self, parcels: &[i64]) {
        if parcels.is_empty() {
            return;
        }
        let held = self.held();
        for ((parcel, _), run) in &held.runs {
            if parcels.contains(parcel) {
                run.cancel.cancel();
            }
        }
    }

    fn gauge(&self, queue_index: usize, change: f64) {
        if let Some((queue, _)) = self.queues.get(queue_index) {
            metrics::gauge!(metric::JOBS_IN_FLIGHT, "queue" => queue.clone()).increment(change);
        }
    }
}
