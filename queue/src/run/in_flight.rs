//! The jobs that one worker holds, from claim until their outcome is written.
//!
//! A job is *held* from its claim until its run ends, and *unsettled* until its outcome is written as
//! well. Each claim has a fencing token, by which the database accepts the outcomes of that claim only. A
//! *lost* job was held by another worker when that worker's lease expired; it may have killed the worker.
//!
//! Plain bookkeeping: sends no signal and writes nothing.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use harkara_shared::id::JobId;
use tokio_util::sync::CancellationToken;

use crate::claimed::{ClaimedJob, ClaimedParcel};

/// After this long without a slot a prefetched job is put back: runs have become longer, and another
/// worker may have a free slot.
const MAX_SLOT_WAIT: Duration = Duration::from_millis(250);

/// How long a lane stays recorded as parked, at most. No job waits longer than that for a slot.
const MAX_PARKED: Duration = MAX_SLOT_WAIT.saturating_mul(8);

/// How much longer than its timeout a run may take before it is given up. The run layer ends it in time,
/// unless the handler blocks its thread.
const OVERDUE_GRACE: Duration = Duration::from_secs(1);

/// After this long, a job that an earlier worker was lost with is no longer suspected of killing its
/// worker.
const LOST_JOB_PROBATION: Duration = Duration::from_secs(1);

/// Identifies a held run: job and fencing token. A worker can hold a job twice, by two claims, after a
/// crash of the database has undone the first one.
type RunKey = (JobId, i64);

fn run_key(job: &ClaimedJob) -> RunKey {
    (job.id, job.parcel.token)
}

/// The jobs that one worker holds.
#[derive(Debug)]
pub(super) struct InFlight {
    runs: HashMap<RunKey, HeldRun>,
    /// Held jobs of each served queue, in the order of the queues.
    held_by_queue: Vec<u32>,
    /// Held jobs of each lane whose jobs name a key or limits.
    held_by_lane: HashMap<i64, u32>,
    /// Unsettled jobs by fencing token.
    unsettled_by_token: HashMap<i64, u32>,
    /// Unsettled jobs in total.
    unsettled: u64,
    /// Memory of the unsettled jobs, in bytes.
    unsettled_bytes: u64,
    /// Tokens of jobs whose outcome the database refuses. Never forgotten: the search for lost claims
    /// would otherwise put such a job back again and again, using no attempt.
    abandoned_tokens: HashSet<i64>,
    /// Unsettled jobs that an earlier worker was lost with, and since when this worker holds them.
    lost_jobs: HashMap<RunKey, Instant>,
    /// Lanes closed by a `RateLimited` verdict, and until when.
    parked_lanes: HashMap<i64, Instant>,
}

/// A held job and the signals to its run.
#[derive(Debug)]
pub(super) struct HeldRun {
    /// Index of its queue.
    pub(super) queue_index: usize,
    job: ClaimedJob,
    /// Whether it runs, or still waits for a slot.
    is_running: bool,
    /// Since when it runs or waits.
    since: Instant,
    cancel: CancellationToken,
    lease_lost: CancellationToken,
}

/// What a run must obey.
#[derive(Debug)]
pub(super) struct RunSignals {
    /// Cancelled when the job is cancelled.
    pub(super) cancel: CancellationToken,
    /// Cancelled when the lease is lost: the outcome of the run no longer counts.
    pub(super) lease_lost: CancellationToken,
    /// The job's lane was closed after the job was claimed.
    pub(super) is_parked: bool,
}

/// A run that exceeded its timeout and has not been ended by the run layer.
#[derive(Debug)]
pub(super) struct OverdueRun {
    pub(super) job: ClaimedJob,
    pub(super) is_cancelled: bool,
    pub(super) run_time: Duration,
}

impl InFlight {
    /// Holds no jobs, of this many queues.
    pub(super) fn new(queues: usize) -> Self {
        Self {
            runs: HashMap::new(),
            held_by_queue: vec![0; queues],
            held_by_lane: HashMap::new(),
            unsettled_by_token: HashMap::new(),
            unsettled: 0,
            unsettled_bytes: 0,
            abandoned_tokens: HashSet::new(),
            lost_jobs: HashMap::new(),
            parked_lanes: HashMap::new(),
        }
    }

    /// Number of held jobs.
    pub(super) fn held(&self) -> usize {
        self.runs.len()
    }

    /// Held jobs of each queue.
    pub(super) fn held_by_queue(&self) -> &[u32] {
        &self.held_by_queue
    }

    /// Held jobs of each lane whose jobs name a key or limits.
    pub(super) fn held_by_lane(&self) -> &HashMap<i64, u32> {
        &self.held_by_lane
    }

    /// Jobs whose run has ended and whose outcome is not written.
    pub(super) fn unwritten_outcomes(&self) -> u64 {
        let held = u64::try_from(self.runs.len()).unwrap_or(u64::MAX);
        self.unsettled.saturating_sub(held)
    }

    /// Memory of the unsettled jobs, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.unsettled_bytes
    }

    /// The tokens of all claims that this worker knows.
    pub(super) fn known_tokens(&self) -> Vec<i64> {
        self.unsettled_by_token
            .keys()
            .chain(&self.abandoned_tokens)
            .copied()
            .collect()
    }

    /// Whether a job that an earlier worker was lost with may be claimed: one at a time, until it has
    /// proved harmless.
    pub(super) fn may_claim_lost(&self) -> bool {
        !self
            .lost_jobs
            .values()
            .any(|since| since.elapsed() < LOST_JOB_PROBATION)
    }

    /// Counts a job as unsettled that this worker does not hold.
    pub(super) fn add_unsettled(&mut self, job: &ClaimedJob) {
        *self.unsettled_by_token.entry(job.parcel.token).or_default() += 1;
        self.unsettled += 1;
        self.unsettled_bytes += job.memory_bytes();
    }

    /// Holds a job until [`InFlight::remove`]; `cancel` and `lease_lost` are given to its run.
    pub(super) fn hold(
        &mut self,
        queue_index: usize,
        job: ClaimedJob,
        cancel: CancellationToken,
        lease_lost: CancellationToken,
        now: Instant,
    ) {
        self.add_unsettled(&job);
        if let Some(held) = self.held_by_queue.get_mut(queue_index) {
            *held += 1;
        }
        if job.parcel.parks {
            *self.held_by_lane.entry(job.parcel.lane).or_default() += 1;
        }
        let key = run_key(&job);
        if job.parcel.lost {
            self.lost_jobs.insert(key, now);
        }
        let run = HeldRun {
            queue_index,
            job,
            is_running: false,
            since: now,
            cancel,
            lease_lost,
        };
        self.runs.insert(key, run);
    }

    /// Records that the run of a held job starts and returns its signals; `None` if the job is no
    /// longer held.
    pub(super) fn start(&mut self, job: &ClaimedJob) -> Option<RunSignals> {
        let run = self.runs.get_mut(&run_key(job))?;
        let now = Instant::now();
        run.is_running = true;
        run.since = now;
        let parked_until = self.parked_lanes.get(&job.parcel.lane);
        Some(RunSignals {
            cancel: run.cancel.clone(),
            lease_lost: run.lease_lost.clone(),
            is_parked: parked_until.is_some_and(|until| *until > now),
        })
    }

    /// Stops holding a job, which stays unsettled. `None` if it was not held.
    pub(super) fn remove(&mut self, job: &ClaimedJob) -> Option<HeldRun> {
        let run = self.runs.remove(&run_key(job))?;
        self.uncount(run.queue_index, &job.parcel);
        Some(run)
    }

    fn uncount(&mut self, queue_index: usize, parcel: &ClaimedParcel) {
        if let Some(held) = self.held_by_queue.get_mut(queue_index) {
            *held = held.saturating_sub(1);
        }
        if parcel.parks
            && let Entry::Occupied(mut held) = self.held_by_lane.entry(parcel.lane)
        {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }

    /// Stops holding jobs that have waited too long for a slot and returns them with the indexes of
    /// their queues.
    pub(super) fn remove_stuck(&mut self) -> Vec<(usize, ClaimedJob)> {
        let now = Instant::now();
        let stuck: Vec<(usize, ClaimedJob)> = self
            .runs
            .values()
            .filter(|run| !run.is_running && now.duration_since(run.since) > MAX_SLOT_WAIT)
            .map(|run| (run.queue_index, run.job.clone()))
            .collect();
        for (_, job) in &stuck {
            self.remove(job);
        }
        stuck
    }

    /// Returns runs that should have ended a while ago.
    pub(super) fn overdue_runs(&self) -> Vec<OverdueRun> {
        let overdue_run = |run: &HeldRun| {
            let run_time = run.since.elapsed();
            (run_time > run.job.timeout() + OVERDUE_GRACE).then(|| OverdueRun {
                job: run.job.clone(),
                is_cancelled: run.cancel.is_cancelled(),
                run_time,
            })
        };
        let running = self.runs.values().filter(|run| run.is_running);
        running.filter_map(overdue_run).collect()
    }

    /// Records that the lane of `job` is closed for `wait`.
    pub(super) fn park_lane(&mut self, job: &ClaimedJob, wait: Duration) {
        let now = Instant::now();
        self.parked_lanes.retain(|_, until| *until > now);
        self.parked_lanes
            .insert(job.parcel.lane, now + wait.min(MAX_PARKED));
    }

    /// Signals the runs of these jobs, as far as they are held, that the jobs are cancelled.
    pub(super) fn cancel_runs(&self, jobs: &[JobId]) {
        for ((job, _), run) in &self.runs {
            if jobs.contains(job) {
                run.cancel.cancel();
            }
        }
    }

    /// Records that the outcome of a job will never be written, because its lease is lost.
    pub(super) fn discard(&mut self, job: &ClaimedJob) {
        self.lost_jobs.remove(&run_key(job));
        self.settle_token(job.parcel.token, 1, job.memory_bytes());
    }

    /// Records that the database refuses the outcome of a job. The job is rescued when the lease ends.
    pub(super) fn abandon(&mut self, job: &ClaimedJob) {
        self.discard(job);
        self.abandoned_tokens.insert(job.parcel.token);
    }

    /// Records that the outcomes of these jobs are written.
    pub(super) fn settled<'a>(&mut self, jobs: impl Iterator<Item = &'a ClaimedJob>) {
        let mut by_token: HashMap<i64, (u32, u64)> = HashMap::new();
        for job in jobs {
            let (count, bytes) = by_token.entry(job.parcel.token).or_default();
            *count += 1;
            *bytes += job.memory_bytes();
            if job.parcel.lost {
                self.lost_jobs.remove(&run_key(job));
            }
        }
        for (token, (count, bytes)) in by_token {
            self.settle_token(token, count, bytes);
        }
    }

    fn settle_token(&mut self, token: i64, jobs: u32, bytes: u64) {
        if let Some(unsettled) = self.unsettled_by_token.get_mut(&token) {
            let settled = jobs.min(*unsettled);
            *unsettled -= settled;
            self.unsettled = self.unsettled.saturating_sub(u64::from(settled));
            self.unsettled_bytes = self.unsettled_bytes.saturating_sub(bytes);
            if *unsettled == 0 {
                self.unsettled_by_token.remove(&token);
            }
        }
    }
}
