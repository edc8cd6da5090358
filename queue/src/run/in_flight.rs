//! Tracks the jobs of one worker from their claim until their outcome is written.
//!
//! A job is *held* from its claim until its run ends, and *unsettled* from its claim until its outcome is
//! written. Each claim has a fencing token; the database accepts an outcome only with the token of the
//! job's latest claim. A *lost* job was held by a worker whose lease expired, possibly because the job
//! crashed that worker. A lane is *parked* while a rate limit reported by a handler keeps its jobs from
//! starting.
//!
//! Only keeps records: the caller sends wake signals and writes outcomes.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use harkara_shared::id::JobId;
use tokio_util::sync::CancellationToken;

use crate::claimed::{ClaimedJob, ClaimedParcel};

/// A prefetched job is put back after this long without a slot: runs have become longer, and another
/// worker may have a free slot.
const MAX_SLOT_WAIT: Duration = Duration::from_millis(250);

/// Maximum time for which a lane is recorded as parked. No job waits longer for a slot, so the record is not
/// needed afterwards.
const MAX_PARKED: Duration = MAX_SLOT_WAIT.saturating_mul(8);

/// How long after its timeout a run is overdue. The run layer ends a run at its timeout, unless the handler
/// blocks its thread.
const OVERDUE_GRACE: Duration = Duration::from_secs(1);

/// A lost job that this worker has held for longer is no longer suspected of crashing its worker.
const LOST_JOB_PROBATION: Duration = Duration::from_secs(1);

/// Identifies a held job by its id and fencing token. A worker can hold a job twice, by two claims, after
/// a crash of the database has undone the first claim.
type RunKey = (JobId, i64);

fn run_key(job: &ClaimedJob) -> RunKey {
    (job.id, job.parcel.token)
}

/// The held and the unsettled jobs of one worker.
#[derive(Debug)]
pub(super) struct InFlight {
    runs: HashMap<RunKey, HeldRun>,
    /// Number of held jobs, by index of the queue.
    held_by_queue: Vec<u32>,
    /// Number of held jobs, by lane. Only lanes whose jobs name a key or limits.
    held_by_lane: HashMap<i64, u32>,
    /// Number of unsettled jobs, by fencing token.
    unsettled_by_token: HashMap<i64, u32>,
    /// Number of all unsettled jobs.
    unsettled_jobs: u64,
    /// Memory of the unsettled jobs, in bytes.
    unsettled_bytes: u64,
    /// Tokens of jobs whose outcome the database refuses. Never removed: the check for lost claims would
    /// put such a job back again and again, using no attempt.
    abandoned_tokens: HashSet<i64>,
    /// Unsettled lost jobs, with the time when this worker claimed them.
    lost_jobs: HashMap<RunKey, Instant>,
    /// Lanes parked by a `RateLimited` verdict, with the end of the parking.
    parked_lanes: HashMap<i64, Instant>,
}

/// A held job and the signals to its run.
#[derive(Debug)]
pub(super) struct HeldRun {
    /// Index of the job's queue.
    pub(super) queue_index: usize,
    job: ClaimedJob,
    /// False while the job waits for a slot.
    is_running: bool,
    /// When the job started to run or, before that, to wait for a slot.
    state_changed_at: Instant,
    cancel: CancellationToken,
    lease_lost: CancellationToken,
}

/// The signals that a run must obey.
#[derive(Debug)]
pub(super) struct RunSignals {
    /// Cancelled when the job is cancelled.
    pub(super) cancel: CancellationToken,
    /// Cancelled when the lease is lost: the outcome of the run no longer counts.
    pub(super) lease_lost: CancellationToken,
    /// The job's lane is parked.
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
    /// Creates an empty record for `queues` queues.
    pub(super) fn new(queues: usize) -> Self {
        Self {
            runs: HashMap::new(),
            held_by_queue: vec![0; queues],
            held_by_lane: HashMap::new(),
            unsettled_by_token: HashMap::new(),
            unsettled_jobs: 0,
            unsettled_bytes: 0,
            abandoned_tokens: HashSet::new(),
            lost_jobs: HashMap::new(),
            parked_lanes: HashMap::new(),
        }
    }

    /// Number of held jobs.
    pub(super) fn held_jobs(&self) -> usize {
        self.runs.len()
    }

    /// Number of held jobs, by index of the queue.
    pub(super) fn held_by_queue(&self) -> &[u32] {
        &self.held_by_queue
    }

    /// Number of held jobs, by lane. Only lanes whose jobs name a key or limits.
    pub(super) fn held_by_lane(&self) -> &HashMap<i64, u32> {
        &self.held_by_lane
    }

    /// Number of jobs whose run has ended and whose outcome is not written.
    pub(super) fn unwritten_outcomes(&self) -> u64 {
        let held = u64::try_from(self.runs.len()).unwrap_or(u64::MAX);
        self.unsettled_jobs.saturating_sub(held)
    }

    /// Memory of the unsettled jobs, in bytes.
    pub(super) fn unsettled_bytes(&self) -> u64 {
        self.unsettled_bytes
    }

    /// The tokens of all claims with jobs that are unsettled or abandoned.
    pub(super) fn known_tokens(&self) -> Vec<i64> {
        self.unsettled_by_token
            .keys()
            .chain(&self.abandoned_tokens)
            .copied()
            .collect()
    }

    /// Whether the worker may claim a lost job: it tries them one after another, so that only one is
    /// suspected if this worker crashes too.
    pub(super) fn may_claim_lost_job(&self) -> bool {
        !self
            .lost_jobs
            .values()
            .any(|claimed_at| claimed_at.elapsed() < LOST_JOB_PROBATION)
    }

    /// Counts a job as unsettled without holding it.
    pub(super) fn add_unsettled(&mut self, job: &ClaimedJob) {
        *self.unsettled_by_token.entry(job.parcel.token).or_default() += 1;
        self.unsettled_jobs += 1;
        self.unsettled_bytes += job.memory_bytes();
    }

    /// Holds a job until [`InFlight::release`]. `cancel` and `lease_lost` become the signals of its run.
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
            state_changed_at: now,
            cancel,
            lease_lost,
        };
        self.runs.insert(key, run);
    }

    /// Records that the run of a held job starts and returns its signals. Returns `None` if the job is
    /// no longer held.
    pub(super) fn start_run(&mut self, job: &ClaimedJob) -> Option<RunSignals> {
        let run = self.runs.get_mut(&run_key(job))?;
        let now = Instant::now();
        run.is_running = true;
        run.state_changed_at = now;
        let parked_until = self.parked_lanes.get(&job.parcel.lane);
        Some(RunSignals {
            cancel: run.cancel.clone(),
            lease_lost: run.lease_lost.clone(),
            is_parked: parked_until.is_some_and(|until| *until > now),
        })
    }

    /// Stops holding a job, which stays unsettled. Returns `None` if the job was not held.
    pub(super) fn release(&mut self, job: &ClaimedJob) -> Option<HeldRun> {
        let run = self.runs.remove(&run_key(job))?;
        self.subtract_held(run.queue_index, &job.parcel);
        Some(run)
    }

    fn subtract_held(&mut self, queue_index: usize, parcel: &ClaimedParcel) {
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

    /// Stops holding jobs that have waited too long for a slot. Returns each with the index of its queue.
    pub(super) fn release_stuck(&mut self) -> Vec<(usize, ClaimedJob)> {
        let now = Instant::now();
        let stuck: Vec<(usize, ClaimedJob)> = self
            .runs
            .values()
            .filter(|run| {
                !run.is_running && now.duration_since(run.state_changed_at) > MAX_SLOT_WAIT
            })
            .map(|run| (run.queue_index, run.job.clone()))
            .collect();
        for (_, job) in &stuck {
            self.release(job);
        }
        stuck
    }

    /// Returns the runs that the run layer should have ended at their timeout.
    pub(super) fn overdue_runs(&self) -> Vec<OverdueRun> {
        let overdue_run = |run: &HeldRun| {
            let run_time = run.state_changed_at.elapsed();
            (run_time > run.job.timeout() + OVERDUE_GRACE).then(|| OverdueRun {
                job: run.job.clone(),
                is_cancelled: run.cancel.is_cancelled(),
                run_time,
            })
        };
        let started_runs = self.runs.values().filter(|run| run.is_running);
        started_runs.filter_map(overdue_run).collect()
    }

    /// Records that the lane of `job` is parked for `wait`.
    pub(super) fn park_lane(&mut self, job: &ClaimedJob, wait: Duration) {
        let now = Instant::now();
        self.parked_lanes.retain(|_, until| *until > now);
        self.parked_lanes
            .insert(job.parcel.lane, now + wait.min(MAX_PARKED));
    }

    /// Signals a cancellation to the runs of those `jobs` that are held.
    pub(super) fn cancel_runs(&self, jobs: &[JobId]) {
        for ((job, _), run) in &self.runs {
            if jobs.contains(job) {
                run.cancel.cancel();
            }
        }
    }

    /// Stops counting a job as unsettled, because its outcome will never be written.
    pub(super) fn discard(&mut self, job: &ClaimedJob) {
        self.lost_jobs.remove(&run_key(job));
        self.subtract_unsettled(job.parcel.token, 1, job.memory_bytes());
    }

    /// Records that the database refuses the outcome of a job. The job is rescued when the lease expires.
    pub(super) fn abandon(&mut self, job: &ClaimedJob) {
        self.discard(job);
        self.abandoned_tokens.insert(job.parcel.token);
    }

    /// Records that the outcomes of these jobs are written.
    pub(super) fn record_settled<'a>(&mut self, jobs: impl Iterator<Item = &'a ClaimedJob>) {
        let mut settled_by_token: HashMap<i64, (u32, u64)> = HashMap::new();
        for job in jobs {
            let (count, bytes) = settled_by_token.entry(job.parcel.token).or_default();
            *count += 1;
            *bytes += job.memory_bytes();
            if job.parcel.lost {
                self.lost_jobs.remove(&run_key(job));
            }
        }
        for (token, (count, bytes)) in settled_by_token {
            self.subtract_unsettled(token, count, bytes);
        }
    }

    fn subtract_unsettled(&mut self, token: i64, jobs: u32, bytes: u64) {
        if let Some(unsettled) = self.unsettled_by_token.get_mut(&token) {
            let settled = jobs.min(*unsettled);
            *unsettled -= settled;
            self.unsettled_jobs = self.unsettled_jobs.saturating_sub(u64::from(settled));
            self.unsettled_bytes = self.unsettled_bytes.saturating_sub(bytes);
            if *unsettled == 0 {
                self.unsettled_by_token.remove(&token);
            }
        }
    }
}
