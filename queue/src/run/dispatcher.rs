//! Finds ready jobs for a worker's free slots and hands them to the backends of their queues.
//!
//! Jobs wait in lanes: a lane holds jobs of one tenant in one queue that share limits and pauses. A *search*
//! finds the lanes that have ready jobs; a *claim* takes jobs from lanes that a search has found. A search
//! probes every lane, so the dispatcher searches only when there may be new work, and pauses longer after
//! an expensive search.
//!
//! Never claims more than the worker has capacity for. If the response to a claim is lost, the jobs of that
//! claim are found in the database and put back.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use apalis_core::task::Task;
use harkara_shared::telemetry::metric;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handler::Run;
use super::known_lanes::{ClaimStats, ClaimedFromLane, KnownLanes, MAX_LANES_PER_RANGE};
use super::served_totals;
use super::worker_state::WorkerState;
use crate::claim::{ClaimCapacity, LaneRange, ReadyLane, ScanPosition};
use crate::claimed::ClaimedJob;
use crate::error::Error;
use crate::verdict::RunOutcome;

/// How long the current turn may continue after the worker is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// How often to search the database for lost claims when no claim is known to be lost.
const LOST_CLAIMS_INTERVAL: Duration = Duration::from_secs(10);

/// How often to store the served totals of fair sharing.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// Pause after a search, as a multiple of its duration, while a lane with ready jobs is known.
const BUSY_SEARCH_PAUSE: u32 = 4;

/// Pause after a failed turn, for each consecutive failure up to [`MAX_RETRY_STEPS`].
const RETRY_STEP: Duration = Duration::from_millis(100);

const MAX_RETRY_STEPS: u32 = 20;

/// When to take the next turn.
enum NextTurn {
    Now,
    /// When the dispatcher receives a wake signal, or at this time if it is earlier.
    Wait(Option<Instant>),
}

/// Dispatches jobs until `stop` is cancelled.
pub(super) async fn dispatch_until_stop(
    state: Arc<WorkerState>,
    task_senders: Vec<mpsc::UnboundedSender<Task<Run>>>,
    stop: CancellationToken,
) {
    let mut dispatcher = Dispatcher::new(state, task_senders);
    let mut failures: u32 = 0;
    while !stop.is_cancelled() {
        let Some(next) = finish_unless_stopped(dispatcher.take_turn(), &stop).await else {
            break;
        };
        match next {
            Ok(NextTurn::Now) => failures = 0,
            Ok(NextTurn::Wait(until)) => {
                failures = 0;
                let deadline = async {
                    match until {
                        Some(until) => tokio::time::sleep_until(until).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = dispatcher.state.wake.wait_for_dispatcher_signal() => {}
                    () = deadline => {}
                    () = stop.cancelled() => break,
                }
            }
            Err(error) => {
                // A failed statement never ends a worker: it is retried after increasing pauses.
                failures = failures.saturating_add(1);
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "claim").increment(1);
                tracing::warn!(%error, failures, "could not claim jobs; will try again");
                tokio::select! {
                    () = tokio::time::sleep(RETRY_STEP * failures.min(MAX_RETRY_STEPS)) => {}
                    () = stop.cancelled() => break,
                }
            }
        }
    }
    dispatcher.shut_down().await;
}

/// Awaits `turn`; returns `None` if it takes too long after a stop. A claim whose future is dropped can
/// still take effect in the database.
async fn finish_unless_stopped<F: Future>(turn: F, stop: &CancellationToken) -> Option<F::Output> {
    let timeout = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        output = turn => Some(output),
        () = timeout => None,
    }
}

struct Dispatcher {
    state: Arc<WorkerState>,
    /// One for each queue of the worker.
    task_senders: Vec<mpsc::UnboundedSender<Task<Run>>>,
    /// Internal numbers of the queues, in the order of `task_senders`. Empty before the first turn.
    queue_numbers: Vec<i32>,
    /// In the order of `task_senders`.
    lanes_by_queue: Vec<KnownLanes>,
    /// Number of searches started; the number of the latest search.
    search_no: u64,
    /// Number of turns that tried to claim.
    claim_turns: usize,
    /// When the latest search ended.
    searched_at: Instant,
    search_duration: Duration,
    /// There may be work that the latest search did not find.
    is_search_needed: bool,
    /// The result of the latest claim has not been received: the claim may have taken effect.
    is_claim_outstanding: bool,
    next_lost_claims_check: Instant,
    next_save: Instant,
}

impl Dispatcher {
    fn new(state: Arc<WorkerState>, task_senders: Vec<mpsc::UnboundedSender<Task<Run>>>) -> Self {
        Self {
            lanes_by_queue: state.queues.iter().map(|_| KnownLanes::default()).collect(),
            state,
            task_senders,
            queue_numbers: Vec::new(),
            search_no: 0,
            claim_turns: 0,
            searched_at: Instant::now(),
            search_duration: Duration::ZERO,
            is_search_needed: true,
            is_claim_outstanding: false,
            next_lost_claims_check: Instant::now() + LOST_CLAIMS_INTERVAL,
            next_save: Instant::now() + SAVE_INTERVAL,
        }
    }

    /// Searches if necessary, then claims once in each queue that has capacity and ready jobs.
    async fn take_turn(&mut self) -> Result<NextTurn, Error> {
        let Some(lease) = self.state.lease.id() else {
            return Ok(NextTurn::Wait(None));
        };
        if self.queue_numbers.is_empty() {
            self.queue_numbers = self.load_queue_numbers().await?;
        }
        if self.is_claim_outstanding || Instant::now() >= self.next_lost_claims_check {
            self.put_back_lost_claims(lease).await?;
        }
        if Instant::now() >= self.next_save {
            self.next_save = Instant::now() + SAVE_INTERVAL;
            served_totals::save(
                &self.state.engine,
                &self.queue_numbers,
                &mut self.lanes_by_queue,
            )
            .await?;
        }
        self.is_search_needed |= self.state.wake.take_new_work();
        if self.state.wake.take_lanes_opened() {
            self.lanes_by_queue
                .iter_mut()
                .for_each(KnownLanes::reopen_all);
        }
        if self.state.wake.take_outcomes_written() {
            self.lanes_by_queue
                .iter_mut()
                .for_each(KnownLanes::unblock_all);
        }
        let capacities = self.state.capacities();
        if capacities.iter().all(|capacity| capacity.jobs() == 0) {
            // The end of a run wakes the dispatcher when there is capacity again.
            return Ok(NextTurn::Wait(None));
        }
        let has_known_lanes = self.lanes_by_queue.iter().any(|lanes| !lanes.is_empty());
        let pause_factor = if has_known_lanes {
            BUSY_SEARCH_PAUSE
        } else {
            1
        };
        let search_pause = self.search_duration * pause_factor;
        if self.is_search_needed && self.searched_at + search_pause <= Instant::now() {
            self.search().await?;
        }
        let claims_started_at = Instant::now();
        if self.claim_in_all_queues(lease, capacities).await? {
            // The search finds jobs that arrived during the claims, without waiting for a notification.
            self.is_search_needed = true;
            return Ok(NextTurn::Now);
        }
        let next_search = self
            .is_search_needed
            .then(|| self.searched_at + search_pause);
        // Only lanes that open later than this matter: a lane that was open already waits for capacity, and
        // the end of a run wakes the dispatcher. A lane that opened during the claims may not have been
        // claimed from.
        let openings = self
            .lanes_by_queue
            .iter()
            .filter_map(|lanes| lanes.next_opening(claims_started_at));
        Ok(NextTurn::Wait(openings.chain(next_search).min()))
    }

    /// Claims in each queue that has capacity. Returns whether another claim at once may get more jobs.
    async fn claim_in_all_queues(
        &mut self,
        lease: i64,
        capacities: Vec<ClaimCapacity>,
    ) -> Result<bool, Error> {
        let mut may_have_more = false;
        // The queues share memory, so each is first in turn.
        self.claim_turns = self.claim_turns.wrapping_add(1);
        let mut order: Vec<(usize, ClaimCapacity)> = capacities.into_iter().enumerate().collect();
        let first = self.claim_turns % order.len().max(1);
        order.rotate_left(first);
        for (index, mut capacity) in order {
            if capacity.jobs() > 0 {
                // Claims in the queues before may have used memory and claimed a lost job.
                capacity.accepts_lost_jobs &= self.state.may_claim_lost_job();
                let Some(bytes) = self.state.claimable_bytes() else {
                    continue;
                };
                capacity.bytes = bytes;
                may_have_more |= self.claim_in_queue(index, lease, capacity).await?;
            }
        }
        Ok(may_have_more)
    }

    async fn load_queue_numbers(&self) -> Result<Vec<i32>, Error> {
        let mut numbers = Vec::with_capacity(self.state.queues.len());
        for queue in &self.state.queues {
            numbers.push(
                self.state
                    .engine
                    .interner()
                    .queue_number(&queue.queue)
                    .await?,
            );
        }
        Ok(numbers)
    }

    /// Puts back jobs that are stored as claimed under `lease` but unknown to this worker. Must not run
    /// during a claim, whose jobs would be put back too.
    async fn put_back_lost_claims(&mut self, lease: i64) -> Result<(), Error> {
        let known_tokens = self.state.known_tokens();
        let jobs = self
            .state
            .engine
            .find_lost_claims(lease, &known_tokens)
            .await?;
        self.is_claim_outstanding = false;
        self.next_lost_claims_check = Instant::now() + LOST_CLAIMS_INTERVAL;
        if !jobs.is_empty() {
            tracing::warn!(
                jobs = jobs.len(),
                lease.id = lease,
                "put back jobs of a claim whose response was lost"
            );
        }
        for job in jobs {
            self.state.put_back_lost_claim(job);
        }
        Ok(())
    }

    /// Finds the lanes that have ready jobs.
    async fn search(&mut self) -> Result<(), Error> {
        let started_at = Instant::now();
        self.search_no += 1;
        let mut ranges = Vec::with_capacity(self.queue_numbers.len());
        for (queue, lanes) in self.queue_numbers.iter().zip(&mut self.lanes_by_queue) {
            let lane_ids = lanes.search_ranges(self.search_no, started_at);
            ranges.extend(lane_ids.into_iter().map(|(after, before)| LaneRange {
                queue: *queue,
                after,
                before,
            }));
        }
        let ready_lanes = self
            .state
            .engine
            .find_ready_lanes(&ranges, MAX_LANES_PER_RANGE)
            .await?;
        self.is_search_needed = false;
        let now = Instant::now();
        let mut ready_by_queue: HashMap<i32, Vec<ReadyLane>> = HashMap::new();
        for lane in ready_lanes {
            ready_by_queue.entry(lane.queue).or_default().push(lane);
        }
        for (queue, lanes) in self.queue_numbers.iter().zip(&mut self.lanes_by_queue) {
            let ready_lanes = ready_by_queue.remove(queue).unwrap_or_default();
            lanes.add_ready_lanes(&ready_lanes, self.search_no, now);
            // The search did not cover all lanes of the queue; the next one covers further lanes.
            self.is_search_needed |= lanes.search_after != 0;
        }
        if self.search_no == 1 {
            served_totals::load(
                &self.state.engine,
                &self.queue_numbers,
                &mut self.lanes_by_queue,
            )
            .await?;
        }
        self.searched_at = Instant::now();
        self.search_duration = self.searched_at - started_at;
        Ok(())
    }

    /// Claims from known lanes of one queue. Returns whether another claim at once may get more jobs.
    async fn claim_in_queue(
        &mut self,
        queue_index: usize,
        lease: i64,
        capacity: ClaimCapacity,
    ) -> Result<bool, Error> {
        let (Some(lanes), Some(queue)) = (
            self.lanes_by_queue.get_mut(queue_index),
            self.queue_numbers.get(queue_index),
        ) else {
            return Ok(false);
        };
        let load = self.state.lane_load(queue_index);
        let claims = lanes.plan_claim(capacity, &load, Instant::now());
        if claims.is_empty() {
            return Ok(false);
        }
        self.is_claim_outstanding = true;
        let started_at = Instant::now();
        let batch = self
            .state
            .engine
            .claim(*queue, lease, &claims, capacity)
            .await?;
        self.is_claim_outstanding = false;
        let ended_at = Instant::now();
        let has_lost_job = batch.jobs.iter().any(|job| job.parcel.lost);
        let stats = ClaimStats {
            ended_at,
            duration: ended_at - started_at,
            lost_jobs_ruled_out: capacity.accepts_lost_jobs && !has_lost_job,
        };
        let mut claimed_by_lane: HashMap<i64, ClaimedFromLane> = HashMap::new();
        for job in &batch.jobs {
            let from_lane = claimed_by_lane.entry(job.parcel.lane).or_default();
            from_lane.jobs += 1;
            if !job.parcel.lost {
                let position = Some(ScanPosition::of(job));
                from_lane.last_position = from_lane.last_position.max(position);
            }
        }
        if batch.lanes.is_empty() {
            // The queue is paused or the lease has expired.
            lanes.clear();
        }
        for outcome in batch.lanes {
            let from_lane = claimed_by_lane.remove(&outcome.lane).unwrap_or_default();
            lanes.record_outcome(outcome, from_lane, stats);
        }
        // Even if this claim got no job, there may be claimable lanes: other lanes that were allocated no
        // jobs, or the same lanes, with jobs in front of the position where the claim started.
        let may_have_more =
            !batch.jobs.is_empty() || lanes.has_claimable_lane(capacity, &load, ended_at);
        let lane_order: Vec<i64> = claims.iter().map(|claim| claim.lane).collect();
        self.send_to_backend(queue_index, interleave_lanes(batch.jobs, &lane_order));
        Ok(may_have_more)
    }

    /// Holds claimed jobs and sends them to their queue's backend.
    fn send_to_backend(&self, queue_index: usize, jobs: Vec<ClaimedJob>) {
        let (Some(sender), Some(queue)) = (
            self.task_senders.get(queue_index),
            self.state.queues.get(queue_index),
        ) else {
            return;
        };
        for job in &jobs {
            // Negative if the job was made ready before it was due.
            let wait = (job.started_at - job.run_at).to_std().unwrap_or_default();
            queue.wait_histogram.record(wait.as_secs_f64());
        }
        for task in self.state.hold(queue_index, jobs) {
            if let Err(mpsc::error::SendError(task)) = sender.send(task) {
                // The backend has closed because the worker stops.
                let (run, _) = task.take();
                self.state
                    .finish_run(run.job, Some(RunOutcome::PutBack), None);
            }
        }
    }

    /// Puts back the jobs of an outstanding claim and stores the served totals.
    async fn shut_down(&mut self) {
        let shutdown = async {
            if let Some(lease) = self.state.lease.id()
                && self.is_claim_outstanding
            {
                self.put_back_lost_claims(lease).await?;
            }
            served_totals::save(
                &self.state.engine,
                &self.queue_numbers,
                &mut self.lanes_by_queue,
            )
            .await
        };
        match tokio::time::timeout(STOP_TIMEOUT / 2, shutdown).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                %error,
                "could not look for a lost claim; its jobs will be rescued when the lease expires"
            ),
            Err(_) => tracing::warn!(
                "no time to look for a lost claim; its jobs will be rescued when the lease expires"
            ),
        }
    }
}

/// Orders jobs so that the lanes take turns, one job each, in the order of `lane_order`. Otherwise a lane
/// with one job could wait for another lane's parcel of five hundred.
fn interleave_lanes(jobs: Vec<ClaimedJob>, lane_order: &[i64]) -> Vec<ClaimedJob> {
    let lane_positions: HashMap<i64, usize> = lane_order.iter().copied().zip(0..).collect();
    let mut jobs_by_lane: HashMap<i64, usize> = HashMap::new();
    let mut jobs_by_turn: Vec<((usize, usize), ClaimedJob)> = jobs
        .into_iter()
        .map(|job| {
            let turn = jobs_by_lane.entry(job.parcel.lane).or_default();
            *turn += 1;
            let lane_position = lane_positions
                .get(&job.parcel.lane)
                .copied()
                .unwrap_or(usize::MAX);
            ((*turn, lane_position), job)
        })
        .collect();
    if jobs_by_lane.len() > 1 {
        jobs_by_turn.sort_by_key(|(turn_and_lane, _)| *turn_and_lane);
    }
    jobs_by_turn.into_iter().map(|(_, job)| job).collect()
}

#[cfg(test)]
mod tests;
