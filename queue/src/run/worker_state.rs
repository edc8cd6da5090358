//! What the parts of one worker share: the jobs in flight, the current lease, the slots of each queue and
//! the wake signals.
//!
//! One method makes all the changes that belong to an event. For example, the end of a run frees a slot,
//! sends the outcome to the completer and wakes the dispatcher. Nothing in this module talks to the database.
//!
//! A job is *held* from its claim until its run ends. A *lost* job was held by a worker whose lease expired,
//! possibly because the job crashed that worker.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use harkara_shared::id::JobId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::handler::Run;
use super::in_flight::{InFlight, OverdueRun, RunSignals};
use super::lease_state::LeaseState;
use super::options::WorkerOptions;
use super::queue_slots::QueueSlots;
use super::wake_signals::WakeSignals;
use crate::claim::ClaimCapacity;
use crate::claimed::ClaimedJob;
use crate::engine::Engine;
use crate::verdict::{RunOutcome, Verdict};

/// Memory for bodies that must be free before a claim, in bytes: more than the bodies of any row.
const MIN_CLAIM_BYTES: u64 = 512 * 1024;

/// How many copies of a job's body are in memory while the job runs: the row from the database, the held
/// job, the handler's arguments and the values that the handler builds from its arguments.
const COPIES_PER_BODY: u64 = 4;

/// Maximum unwritten outcomes, in addition to one for each slot. Nothing is claimed while more outcomes wait.
const MAX_UNWRITTEN_OUTCOMES: u64 = 8192;

/// What the parts of one worker share.
#[derive(Debug)]
pub(super) struct WorkerState {
    pub(super) engine: Engine,
    /// The queues of the worker. An index of a queue is a position in this list.
    pub(super) queues: Vec<QueueSlots>,
    /// Maximum time between two polls for due jobs.
    pub(super) poll_interval: Duration,
    pub(super) wake: WakeSignals,
    pub(super) lease: LeaseState,
    /// Cancelled when the drain time is over: runs in flight are put back.
    pub(super) drain_expired: CancellationToken,
    /// Memory for the bodies of jobs in flight, in bytes.
    body_bytes: u64,
    in_flight: Mutex<InFlight>,
    /// Sends outcomes to the completer. `None` after [`WorkerState::close_outcomes`].
    outcomes: Mutex<Option<mpsc::UnboundedSender<FinishedRun>>>,
}

/// A run that has ended.
#[derive(Debug)]
pub(super) struct FinishedRun {
    pub(super) job: ClaimedJob,
    pub(super) outcome: RunOutcome,
    /// `None` if the run never started.
    pub(super) run_time: Option<Duration>,
}

/// The channel ends for the dispatcher, the backends and the completer.
pub(super) struct WorkerChannels {
    /// To each queue's backend, in the order of the queues.
    pub(super) task_senders: Vec<mpsc::UnboundedSender<Task<Run>>>,
    pub(super) task_receivers: Vec<mpsc::UnboundedReceiver<Task<Run>>>,
    /// To the completer.
    pub(super) finished_runs: mpsc::UnboundedReceiver<FinishedRun>,
}

/// How many jobs of each keyed lane of one queue a worker holds, and how many it may hold. A keyed lane
/// holds jobs that share a key and run concurrently.
#[derive(Debug, Default)]
pub(super) struct LaneLoad {
    /// Maximum held jobs of one keyed lane.
    pub(super) max_per_keyed_lane: u32,
    /// Number of held jobs, by lane. Includes all keyed lanes and some others.
    pub(super) held_by_lane: HashMap<i64, u32>,
}

impl WorkerState {
    /// Creates the state of a worker that holds no jobs. The channels need no bound of their own:
    /// [`WorkerState::capacities`] bounds the claimed jobs and the unwritten outcomes.
    pub(super) fn new(
        engine: Engine,
        options: &WorkerOptions,
        poll_interval: Duration,
    ) -> (Self, WorkerChannels) {
        let (task_senders, task_receivers) = options
            .queues
            .iter()
            .map(|_| mpsc::unbounded_channel())
            .unzip();
        let (outcomes, finished_runs) = mpsc::unbounded_channel();
        let queues: Vec<QueueSlots> = options
            .queues
            .iter()
            .map(|queue| QueueSlots::new(&queue.queue, queue.concurrency))
            .collect();
        let state = Self {
            engine,
            poll_interval,
            wake: WakeSignals::new(),
            lease: LeaseState::default(),
            drain_expired: CancellationToken::new(),
            body_bytes: options.memory.max(MIN_CLAIM_BYTES * COPIES_PER_BODY) / COPIES_PER_BODY,
            in_flight: Mutex::new(InFlight::new(queues.len())),
            outcomes: Mutex::new(Some(outcomes)),
            queues,
        };
        let channels = WorkerChannels {
            task_senders,
            task_receivers,
            finished_runs,
        };
        (state, channels)
    }

    fn lock_in_flight(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the lease to claim under and wakes the dispatcher and the due poller.
    pub(super) fn set_lease(&self, lease: i64) {
        self.lease.set(lease);
        self.wake.signal_all();
    }

    /// Returns how much can be claimed from each queue. This is nothing while too many outcomes are
    /// unwritten: a database that accepts claims but no outcomes must not exhaust memory.
    pub(super) fn capacities(&self) -> Vec<ClaimCapacity> {
        let in_flight = self.lock_in_flight();
        let slots: u64 = self
            .queues
            .iter()
            .map(|queue| u64::from(queue.slots()))
            .sum();
        let bytes = self.body_bytes.saturating_sub(in_flight.unsettled_bytes());
        let is_full = in_flight.unwritten_outcomes() >= slots + MAX_UNWRITTEN_OUTCOMES
            || bytes < MIN_CLAIM_BYTES;
        let accepts_lost_jobs = in_flight.may_claim_lost_job();
        self.queues
            .iter()
            .zip(in_flight.held_by_queue())
            .map(|(queue, held)| {
                let (slots, prefetch) = if is_full {
                    (0, 0)
                } else {
                    queue.remaining_for(*held)
                };
                ClaimCapacity {
                    slots,
                    prefetch,
                    bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
                    accepts_lost_jobs,
                }
            })
            .collect()
    }

    /// Returns how many jobs of each keyed lane of a queue are held.
    pub(super) fn lane_load(&self, queue_index: usize) -> LaneLoad {
        let max = self
            .queues
            .get(queue_index)
            .map_or(0, QueueSlots::slots_per_keyed_lane);
        LaneLoad {
            max_per_keyed_lane: max,
            held_by_lane: self.lock_in_flight().held_by_lane().clone(),
        }
    }

    /// Memory for further bodies, in bytes. `None` if the memory does not suffice for a claim.
    pub(super) fn claimable_bytes(&self) -> Option<u32> {
        let bytes = self
            .body_bytes
            .saturating_sub(self.lock_in_flight().unsettled_bytes());
        (bytes >= MIN_CLAIM_BYTES).then(|| u32::try_from(bytes).unwrap_or(u32::MAX))
    }

    /// Whether the worker may claim a lost job.
    pub(super) fn may_claim_lost_job(&self) -> bool {
        self.lock_in_flight().may_claim_lost_job()
    }

    /// Number of held jobs.
    pub(super) fn held_jobs(&self) -> usize {
        self.lock_in_flight().held_jobs()
    }

    /// The fencing tokens of all claims that are known to this worker.
    pub(super) fn known_tokens(&self) -> Vec<i64> {
        self.lock_in_flight().known_tokens()
    }

    /// Holds the jobs of one claim, each until [`WorkerState::finish_run`], and returns them as tasks.
    pub(super) fn hold(&self, queue_index: usize, jobs: Vec<ClaimedJob>) -> Vec<Task<Run>> {
        let Some(lease) = jobs.first().map(|job| job.parcel.lease) else {
            return Vec::new();
        };
        let count = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        let mut in_flight = self.lock_in_flight();
        // The lease may have been lost since the claim; then the runs end as soon as they start.
        let lease_lost = self.lease.lost_token(lease);
        let now = Instant::now();
        let mut tasks = Vec::with_capacity(jobs.len());
        for job in jobs {
            let cancel = CancellationToken::new();
            in_flight.hold(
                queue_index,
                job.clone(),
                cancel.clone(),
                lease_lost.clone(),
                now,
            );
            tasks.push(TaskBuilder::new(Run { job, cancel }).build());
        }
        drop(in_flight);
        self.change_gauge(queue_index, f64::from(count));
        tasks
    }

    /// Puts back a job that was claimed under this worker's lease but never held, because the response to
    /// the claim was lost.
    pub(super) fn put_back_lost_claim(&self, job: ClaimedJob) {
        self.lock_in_flight().add_unsettled(&job);
        self.send_outcome(job, RunOutcome::PutBack, None);
    }

    /// Records a timeout for runs that the run layer could not end at their timeout, because the handler
    /// blocks its thread. Later outcomes of these runs are ignored.
    pub(super) fn give_up_overdue_runs(&self) {
        let overdue = self.lock_in_flight().overdue_runs();
        for OverdueRun {
            job,
            is_cancelled,
            run_time,
        } in overdue
        {
            tracing::error!(
                job.id = %job.id, job.kind = &*job.kind,
                "gave up a run whose handler blocks its thread"
            );
            let verdict = if is_cancelled {
                Verdict::Cancelled
            } else {
                Verdict::timeout(job.timeout())
            };
            self.finish_run(job, Some(RunOutcome::Verdict(verdict)), Some(run_time));
        }
    }

    /// Puts back jobs that have waited too long for a slot.
    pub(super) fn put_back_stuck_jobs(&self) {
        let stuck = self.lock_in_flight().release_stuck();
        for (queue_index, job) in stuck {
            self.change_gauge(queue_index, -1.0);
            if let Some(queue) = self.queues.get(queue_index) {
                queue.expect_long_runs();
            }
            self.send_outcome(job, RunOutcome::PutBack, None);
        }
    }

    /// Records that the run of a held job starts and returns the signals that the run must obey. Returns
    /// `None` if the job is no longer held.
    pub(super) fn start_run(&self, job: &ClaimedJob) -> Option<RunSignals> {
        self.lock_in_flight().start_run(job)
    }

    /// Records that a run has ended: frees its slot and sends its outcome to the completer. With an
    /// `outcome` of `None`, the run is discarded and nothing is written. Does nothing if the job is no
    /// longer held, because the run was given up or put back before.
    pub(super) fn finish_run(
        &self,
        job: ClaimedJob,
        outcome: Option<RunOutcome>,
        run_time: Option<Duration>,
    ) {
        let mut in_flight = self.lock_in_flight();
        let Some(run) = in_flight.release(&job) else {
            return;
        };
        let mut has_capacity = job.parcel.lost;
        if let (Some(queue), Some(held)) = (
            self.queues.get(run.queue_index),
            in_flight.held_by_queue().get(run.queue_index),
        ) {
            has_capacity |= queue.remaining_for(*held) != (0, 0);
        }
        if let Some(RunOutcome::Verdict(Verdict::RateLimited { wait, .. })) = &outcome
            && job.parcel.parks
        {
            in_flight.park_lane(&job, *wait);
        }
        match outcome {
            None => {
                in_flight.discard(&job);
                has_capacity = true;
            }
            Some(outcome) => self.send_outcome(job, outcome, run_time),
        }
        drop(in_flight);
        self.change_gauge(run.queue_index, -1.0);
        if let (Some(run_time), Some(queue)) = (run_time, self.queues.get(run.queue_index)) {
            queue.record_run(run_time);
        }
        if has_capacity {
            self.wake.signal_capacity();
        }
    }

    fn send_outcome(&self, job: ClaimedJob, outcome: RunOutcome, run_time: Option<Duration>) {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcomes) = outcomes.as_ref() {
            let finished = FinishedRun {
                job,
                outcome,
                run_time,
            };
            // Fails only if the completer has ended by itself. The job is then rescued when the lease
            // expires.
            outcomes.send(finished).ok();
        }
    }

    /// Records that the outcomes of these jobs are written, or that the database discarded them because the
    /// lease had expired.
    pub(super) fn record_written_outcomes<'a>(&self, jobs: impl Iterator<Item = &'a ClaimedJob>) {
        self.lock_in_flight().record_settled(jobs);
        self.wake.signal_outcomes_written();
    }

    /// Records that the database refuses the outcome of a job. The job is rescued when the lease expires.
    pub(super) fn abandon_outcome(&self, job: &ClaimedJob) {
        self.lock_in_flight().abandon(job);
    }

    /// Accepts no further outcomes. The completer writes the outcomes that were sent before, and ends.
    pub(super) fn close_outcomes(&self) {
        self.outcomes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Signals a cancellation to the runs of those `jobs` that this worker holds.
    pub(super) fn cancel_runs(&self, jobs: &[JobId]) {
        if !jobs.is_empty() {
            self.lock_in_flight().cancel_runs(jobs);
        }
    }

    fn change_gauge(&self, queue_index: usize, change: f64) {
        if let Some(queue) = self.queues.get(queue_index) {
            queue.in_flight_gauge.increment(change);
        }
    }
}

#[cfg(test)]
mod tests;
