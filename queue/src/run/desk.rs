//! Room: what the parts of one worker share: which jobs it holds, how much room there is.
//! Takes: claims. Gives: places and stop tokens. Never: talks to the database.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use harkara_shared::id::JobId;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::lanes::InHand;
use super::places::QueueDesk;
use super::{Run, WorkerOptions};
use crate::claim::{Claimed, Parcel, Room};
use crate::engine::Engine;
use crate::verdict::{Ending, Verdict};

/// No lease held.
const NONE: i64 = 0;

/// After this long in hand a job that has no place yet goes back: runs are longer than they were, and
/// another worker may have a place for it.
const STUCK: Duration = Duration::from_millis(250);

/// What one claim must have room for, in bytes of bodies: more than any row holds.
const LARGEST: u64 = 512 * 1024;

/// How often a body is held while its job runs: as it comes from the database, as it is kept, as its
/// handler's arguments, and as what the handler makes of them.
const COPIES: u64 = 4;

/// How much longer than its timeout a run may take before it is given up from outside: the layer around
/// it does so in time, unless the handler blocks its thread.
const PATIENCE: Duration = Duration::from_secs(1);

/// Endings that may wait to be written, beside one for each place.
const MOST_UNWRITTEN: u64 = 8192;

/// After this long, a job under which a worker has died before is trusted not to do it again.
const TRUST: Duration = Duration::from_secs(1);

/// The desk of one worker process.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) engine: Engine,
    pub(super) queues: Vec<QueueDesk>,
    /// Longest time between two looks for work.
    pub(super) poll: Duration,
    /// Bytes of bodies that this worker may hold.
    memory: u64,
    /// Something may be claimable.
    pub(super) work: Notify,
    /// Something may come due before the next look.
    pub(super) due: Notify,
    /// Runs still in flight are to be put back.
    pub(super) grace_over: CancellationToken,
    /// There may be lanes with work that nobody has looked at.
    news: AtomicBool,
    /// Lanes may be open earlier than they said.
    opened: AtomicBool,
    /// Places may have become free at limiters and in strict lanes.
    freed: AtomicBool,
    lease: AtomicI64,
    held: Mutex<Held>,
    endings: Mutex<Option<mpsc::UnboundedSender<Ended>>>,
}

/// A run that is over.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) job: Claimed,
    pub(super) ending: Ending,
    /// How long it took, if it was begun.
    pub(super) took: Option<Duration>,
}

#[derive(Debug, Default)]
struct Held {
    /// By job and token: after a crash of the database had a claim forgotten, a worker may hold the
    /// same job twice, by two claims.
    runs: HashMap<(JobId, i64), HeldRun>,
    /// Jobs held of each served queue.
    of_queue: Vec<u32>,
    /// And of each lane whose jobs name a key, or limits.
    of_lane: HashMap<i64, u32>,
    /// How many jobs claimed by each token are in hand or wait for their ending to be written.
    of_token: HashMap<i64, u32>,
    /// Their sum.
    unsettled: u64,
    /// What they weigh.
    bytes: u64,
    /// Tokens of jobs whose endings the database refuses for good. Known for ever, so that nobody
    /// puts such a job back as forgotten, again and again, at no attempt.
    given_up: HashSet<i64>,
    /// Jobs in hand under which a worker has died before, and since when.
    lost: HashMap<(JobId, i64), Instant>,
    /// Lanes that the other side asked to leave alone, and until when.
    parked: HashMap<i64, Instant>,
    /// Cancelled when the lease of the jobs in hand is lost.
    lease_lost: CancellationToken,
}

impl Held {
    fn may_take_lost(&self) -> bool {
        !self.lost.values().any(|since| since.elapsed() < TRUST)
    }

    /// A job is no longer in hand.
    fn let_go(&mut self, queue_index: usize, parcel: &Parcel) {
        if let Some(taken) = self.of_queue.get_mut(queue_index) {
            *taken = taken.saturating_sub(1);
        }
        if parcel.parks
            && let Entry::Occupied(mut held) = self.of_lane.entry(parcel.lane)
        {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }

    fn release(&mut self, token: i64, jobs: u32, bytes: u64) {
        if let Some(held) = self.of_token.get_mut(&token) {
            let released = jobs.min(*held);
            *held -= released;
            self.unsettled = self.unsettled.saturating_sub(u64::from(released));
            self.bytes = self.bytes.saturating_sub(bytes);
            if *held == 0 {
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
    /// Until it is begun, the job, and since when it waits in hand.
    waiting: Option<(Claimed, Instant)>,
    /// From when on, once it is begun.
    begun: Option<(Claimed, Instant)>,
}

/// What a run is to heed before and while it goes on.
#[derive(Debug)]
pub(super) struct Signals {
    pub(super) cancel: CancellationToken,
    pub(super) lost: CancellationToken,
    /// Its lane was closed after it was claimed.
    pub(super) parked: bool,
}

/// The ends of the channels that the desk's parts are given.
pub(super) struct DeskEnds {
    pub(super) senders: Vec<mpsc::UnboundedSender<Task<Run>>>,
    pub(super) tasks: Vec<mpsc::UnboundedReceiver<Task<Run>>>,
    pub(super) endings: mpsc::UnboundedReceiver<Ended>,
}

impl Desk {
    /// The channels are unbounded by type and bounded by [`Desk::room`]: nothing is claimed without
    /// room for it, and nothing at all while too many endings wait to be written.
    pub(super) fn new(engine: Engine, options: &WorkerOptions, poll: Duration) -> (Self, DeskEnds) {
        let (senders, tasks) = options
            .queues
            .iter()
            .map(|_| mpsc::unbounded_channel())
            .unzip();
        let (ended, endings) = mpsc::unbounded_channel();
        let queues: Vec<QueueDesk> = options
            .queues
            .iter()
            .map(|queue| QueueDesk::new(&queue.queue, queue.concurrency))
            .collect();
        let desk = Self {
            engine,
            poll,
            memory: options.memory.max(LARGEST * COPIES) / COPIES,
            work: Notify::new(),
            due: Notify::new(),
            grace_over: CancellationToken::new(),
            news: AtomicBool::new(true),
            opened: AtomicBool::new(false),
            freed: AtomicBool::new(false),
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
        self.held().lease_lost = CancellationToken::new();
        self.lease.store(lease, Ordering::Release);
        self.look();
    }

    /// Has everybody look at once for what nobody told.
    pub(super) fn look(&self) {
        self.tell_opened();
        self.due.notify_one();
    }

    /// There may be work in lanes that nobody knows of.
    pub(super) fn tell_news(&self) {
        self.news.store(true, Ordering::Release);
        self.work.notify_one();
    }

    /// Whether there was news since this was last asked.
    pub(super) fn take_news(&self) -> bool {
        self.news.swap(false, Ordering::AcqRel)
    }

    /// Somebody opened lanes, or made their limits wider.
    pub(super) fn tell_opened(&self) {
        self.opened.store(true, Ordering::Release);
        self.tell_news();
    }

    /// Whether lanes were opened since this was last asked.
    pub(super) fn take_opened(&self) -> bool {
        self.opened.swap(false, Ordering::AcqRel)
    }

    /// Whether endings were written since this was last asked.
    pub(super) fn take_freed(&self) -> bool {
        self.freed.swap(false, Ordering::AcqRel)
    }

    /// The lease is gone: what was claimed under it no longer is ours.
    pub(super) fn lose_lease(&self) {
        self.lease.store(NONE, Ordering::Release);
        self.held().lease_lost.cancel();
    }

    /// How much of each served queue may be claimed: nothing while too many endings wait to be
    /// written, so that a database that takes claims but no outcomes fills no memory.
    pub(super) fn room(&self) -> Vec<Room> {
        let held = self.held();
        let places: u64 = self
            .queues
            .iter()
            .map(|queue| u64::from(queue.places()))
            .sum();
        let in_hand = u64::try_from(held.runs.len()).unwrap_or(u64::MAX);
        let unwritten = held.unsettled.saturating_sub(in_hand);
        let bytes = self.memory.saturating_sub(held.bytes);
        let full = unwritten >= places + MOST_UNWRITTEN || bytes < LARGEST;
        let lost = held.may_take_lost();
        self.queues
            .iter()
            .zip(&held.of_queue)
            .map(|(queue, taken)| {
                let (idle, ahead) = if full { (0, 0) } else { queue.room(*taken) };
                Room {
                    places: idle,
                    ahead,
                    bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
                    lost,
                }
            })
            .collect()
    }

    /// What is held of a queue's lanes, and how much of each may be.
    pub(super) fn of_lanes(&self, queue_index: usize) -> InHand {
        let most = self.queues.get(queue_index).map(QueueDesk::of_one_lane);
        InHand {
            most: most.unwrap_or_default(),
            jobs: self.held().of_lane.clone(),
        }
    }

    /// Bytes that may still be claimed; nothing where that is not enough for any claim.
    pub(super) fn bytes_left(&self) -> Option<u32> {
        let left = self.memory.saturating_sub(self.held().bytes);
        (left >= LARGEST).then(|| u32::try_from(left).unwrap_or(u32::MAX))
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

    /// Takes claimed jobs in hand; each keeps its place until [`Desk::end`].
    pub(super) fn hold(&self, queue_index: usize, jobs: Vec<Claimed>) -> Vec<Task<Run>> {
        let mut held = self.held();
        let count = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        if let Some(taken) = held.of_queue.get_mut(queue_index) {
            *taken += count;
        }
        held.unsettled += u64::from(count);
        held.bytes += jobs.iter().map(Claimed::weight).sum::<u64>();
        // The lease may have been lost between the claim and this line, when the runs were not yet
        // here to be told.
        let current = self.lease();
        let now = Instant::now();
        let (lease_lost, stale) = (held.lease_lost.clone(), CancellationToken::new());
        stale.cancel();
        let mut tasks = Vec::with_capacity(jobs.len());
        for job in jobs {
            let cancel = CancellationToken::new();
            *held.of_token.entry(job.parcel.token).or_default() += 1;
            if job.parcel.parks {
                *held.of_lane.entry(job.parcel.lane).or_default() += 1;
            }
            let key = (job.id, job.parcel.token);
            if job.parcel.lost {
                held.lost.insert(key, Instant::now());
            }
            let lost = if current == Some(job.parcel.lease) {
                &lease_lost
            } else {
                &stale
            };
            let run = HeldRun {
                queue_index,
                cancel: cancel.clone(),
                lost: lost.clone(),
                waiting: Some((job.clone(), now)),
                begun: None,
            };
            held.runs.insert(key, run);
            tasks.push(TaskBuilder::new(Run { job, cancel }).build());
        }
        drop(held);
        self.gauge(queue_index, f64::from(count));
        tasks
    }

    /// Gives back a job that never was in hand, though it was claimed under this worker's lease.
    pub(super) fn put_back(&self, job: Claimed) {
        let mut held = self.held();
        *held.of_token.entry(job.parcel.token).or_default() += 1;
        held.unsettled += 1;
        held.bytes += job.weight();
        drop(held);
        self.tell_ended(job, Ending::PutBack, None);
    }

    /// Gives up runs that have gone on for longer than their timeout and a while, because their handlers
    /// block the thread that would have told them. Whatever they still answer no longer counts.
    pub(super) fn give_up_overdue(&self) {
        let overdue = |run: &HeldRun| {
            let (job, since) = run.begun.as_ref()?;
            (since.elapsed() > job.timeout() + PATIENCE)
                .then(|| (job.clone(), run.cancel.is_cancelled(), since.elapsed()))
        };
        let overdue: Vec<_> = self.held().runs.values().filter_map(overdue).collect();
        for (job, is_cancelled, took) in overdue {
            tracing::error!(job.id = %job.id, job.kind = &*job.kind, "a handler blocks its thread: giving its run up");
            let verdict = if is_cancelled {
                Verdict::Cancelled
            } else {
                Verdict::timeout(job.timeout())
            };
            self.end(job, Some(Ending::Verdict(verdict)), Some(took));
        }
    }

    /// Gives back jobs that have waited for a place for too long.
    pub(super) fn put_back_stuck(&self) {
        let now = Instant::now();
        let mut held = self.held();
        let of = |run: &HeldRun| {
            let (job, since) = run.waiting.as_ref()?;
            (now.duration_since(*since) > STUCK).then(|| (run.queue_index, job.clone()))
        };
        let stuck: Vec<(usize, Claimed)> = held.runs.values().filter_map(of).collect();
        for (queue_index, job) in &stuck {
            held.runs.remove(&(job.id, job.parcel.token));
            held.let_go(*queue_index, &job.parcel);
        }
        drop(held);
        for (queue_index, job) in stuck {
            self.gauge(queue_index, -1.0);
            if let Some(queue) = self.queues.get(queue_index) {
                queue.expect_long_runs();
            }
            self.tell_ended(job, Ending::PutBack, None);
        }
    }

    /// What a held run is to heed as it begins; `None` when it is no longer held.
    pub(super) fn signals(&self, job: &Claimed) -> Option<Signals> {
        let mut held = self.held();
        let run = held.runs.get_mut(&(job.id, job.parcel.token))?;
        run.begun = run.waiting.take().map(|(job, _)| (job, Instant::now()));
        let (cancel, lost) = (run.cancel.clone(), run.lost.clone());
        let parked = !held.parked.is_empty()
            && held
                .parked
                .get(&job.parcel.lane)
                .is_some_and(|until| *until > Instant::now());
        Some(Signals {
            cancel,
            lost,
            parked,
        })
    }

    /// The run is over, after so long if it was begun: its place is free, its ending, if it counts,
    /// goes to be written. One that was given up or put back before has ended already.
    pub(super) fn end(&self, job: Claimed, ending: Option<Ending>, took: Option<Duration>) {
        let key = (job.id, job.parcel.token);
        let mut held = self.held();
        let Some(run) = held.runs.remove(&key) else {
            return;
        };
        // Until its ending is written, the death of this worker would count against it.
        if job.parcel.lost && ending.is_none() {
            held.lost.remove(&key);
        }
        held.let_go(run.queue_index, &job.parcel);
        let mut is_room = job.parcel.lost;
        if let (Some(queue), Some(taken)) = (
            self.queues.get(run.queue_index),
            held.of_queue.get(run.queue_index),
        ) {
            is_room |= queue.room(*taken) != (0, 0);
        }
        if let Some(Ending::Verdict(Verdict::RateLimited { wait, .. })) = &ending
            && job.parcel.parks
        {
            let now = Instant::now();
            held.parked.retain(|_, until| *until > now);
            // Nothing waits in hand for longer than that.
            held.parked
                .insert(job.parcel.lane, now + (*wait).min(STUCK * 8));
        }
        match ending {
            None => {
                held.release(job.parcel.token, 1, job.weight());
                is_room = true;
            }
            Some(ending) => self.tell_ended(job, ending, took),
        }
        drop(held);
        self.gauge(run.queue_index, -1.0);
        if let (Some(took), Some(queue)) = (took, self.queues.get(run.queue_index)) {
            queue.note_run(took);
        }
        if is_room {
            self.work.notify_one();
        }
    }

    /// Has an ending written.
    fn tell_ended(&self, job: Claimed, ending: Ending, took: Option<Duration>) {
        let endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endings) = endings.as_ref() {
            // The completer ends after this sender does.
            endings.send(Ended { job, ending, took }).ok();
        }
    }

    /// The endings of these jobs are written, or need not be.
    pub(super) fn written<'a>(&self, jobs: impl Iterator<Item = &'a Claimed>) {
        let mut held = self.held();
        let mut tokens: HashMap<i64, (u32, u64)> = HashMap::new();
        for job in jobs {
            let token = job.parcel.token;
            let (jobs, bytes) = tokens.entry(token).or_default();
            *jobs += 1;
            *bytes += job.weight();
            if job.parcel.lost {
                held.lost.remove(&(job.id, token));
            }
        }
        for (token, (jobs, bytes)) in tokens {
            held.release(token, jobs, bytes);
        }
        drop(held);
        self.freed.store(true, Ordering::Release);
        self.work.notify_one();
    }

    /// Whether a job under which a worker has died may be taken up: not beside another one.
    pub(super) fn may_take_lost(&self) -> bool {
        self.held().may_take_lost()
    }

    /// The ending of a job claimed by this token cannot be written: the run counts as lost when this
    /// worker's lease ends.
    pub(super) fn give_up(&self, job: &Claimed) {
        let token = job.parcel.token;
        let mut held = self.held();
        held.release(token, 1, job.weight());
        held.given_up.insert(token);
        held.lost.remove(&(job.id, token));
    }

    /// No more endings: the completer writes what it has and ends.
    pub(super) fn close_endings(&self) {
        self.endings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Tells the runs of these jobs, where they are ours, that somebody cancelled them.
    pub(super) fn cancel(&self, jobs: &[JobId]) {
        if jobs.is_empty() {
            return;
        }
        let held = self.held();
        for ((job, _), run) in &held.runs {
            if jobs.contains(job) {
                run.cancel.cancel();
            }
        }
    }

    fn gauge(&self, queue_index: usize, change: f64) {
        if let Some(queue) = self.queues.get(queue_index) {
            queue.in_flight.increment(change);
        }
    }
}

#[cfg(test)]
mod tests;
