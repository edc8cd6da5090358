//! Finds ready jobs for a worker's free slots and hands them to the backends of their queues.
//!
//! Jobs wait in lanes: a lane holds jobs of one tenant in one queue that are limited and parked together.
//! A *search* finds the lanes that have ready jobs; a *claim* takes jobs from lanes that are known to have
//! some. A search probes every lane, so one is made only when there may be new work, and the next one
//! waits the longer the more the last one cost.
//!
//! Never claims more than the worker has capacity for. A claim whose answer was lost is looked up in the
//! database, and its jobs are put back.

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
use super::known_lanes::{AnsweredClaim, ClaimedFromLane, KnownLanes, MAX_LANES_PER_SEARCH};
use super::served_totals;
use super::worker_state::WorkerState;
use crate::claim::{ClaimCapacity, LaneRange, ReadyLane, ScanPosition};
use crate::claimed::ClaimedJob;
use crate::error::Error;
use crate::verdict::RunOutcome;

/// How long a turn that is under way when the worker is stopped may still take.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the database is searched for lost claims without a known reason.
const LOST_CLAIMS_INTERVAL: Duration = Duration::from_secs(10);

/// How often the served totals are stored.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// The pause after a search, as a multiple of its duration, while there is known work.
const BUSY_SEARCH_PAUSE: u32 = 4;

/// Pause after a failed turn; multiplied by the number of failures, up to [`MAX_RETRY_STEPS`].
const RETRY_STEP: Duration = Duration::from_millis(100);

const MAX_RETRY_STEPS: u32 = 20;

/// When to take the next turn.
enum NextTurn {
    Now,
    /// When the dispatcher is woken, or at this time.
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
        let Some(next) = finish_unless_stopped(dispatcher.turn(), &stop).await else {
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
                    () = dispatcher.state.wake.dispatcher_woken() => {}
                    () = deadline => {}
                    () = stop.cancelled() => break,
                }
            }
            Err(error) => {
                // A failed statement never ends a worker: it pauses, longer each time, and retries.
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

/// Awaits `turn`, unless it takes too long after a stop: a claim whose future is dropped may take effect
/// all the same.
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
    /// One for each served queue.
    task_senders: Vec<mpsc::UnboundedSender<Task<Run>>>,
    /// Internal numbers of the served queues, in their order; empty until they are looked up.
    queue_numbers: Vec<i32>,
    /// The known lanes of each queue, in the same order.
    lanes: Vec<KnownLanes>,
    /// Number of searches made.
    searches: u64,
    /// Number of turns taken.
    turns: usize,
    /// When the latest search ended, and how long it took.
    searched_at: Instant,
    search_duration: Duration,
    /// There may be work that the latest search did not find.
    is_search_needed: bool,
    /// A claim was started and not answered.
    is_claim_unanswered: bool,
    next_lost_claims_check: Instant,
    next_save: Instant,
}

impl Dispatcher {
    fn new(state: Arc<WorkerState>, task_senders: Vec<mpsc::UnboundedSender<Task<Run>>>) -> Self {
        Self {
            lanes: state.queues.iter().map(|_| KnownLanes::default()).collect(),
            state,
            task_senders,
            queue_numbers: Vec::new(),
            searches: 0,
            turns: 0,
            searched_at: Instant::now(),
            search_duration: Duration::ZERO,
            is_search_needed: true,
            is_claim_unanswered: false,
            next_lost_claims_check: Instant::now() + LOST_CLAIMS_INTERVAL,
            next_save: Instant::now() + SAVE_INTERVAL,
        }
    }

    /// Searches if necessary, then makes one claim in each queue that has capacity and work.
    async fn turn(&mut self) -> Result<NextTurn, Error> {
        let Some(lease) = self.state.lease.id() else {
            return Ok(NextTurn::Wait(None));
        };
        if self.queue_numbers.is_empty() {
            self.queue_numbers = self.look_up_queues().await?;
        }
        if self.is_claim_unanswered || Instant::now() >= self.next_lost_claims_check {
            self.put_back_lost_claims(lease).await?;
        }
        if Instant::now() >= self.next_save {
            self.next_save = Instant::now() + SAVE_INTERVAL;
            served_totals::save(&self.state.engine, &self.queue_numbers, &mut self.lanes).await?;
        }
        self.is_search_needed |= self.state.wake.take_new_work();
        if self.state.wake.take_lanes_opened() {
            self.lanes.iter_mut().for_each(KnownLanes::reopen_all);
        }
        if self.state.wake.take_outcomes_written() {
            self.lanes.iter_mut().for_each(KnownLanes::unblock);
        }
        let capacities = self.state.capacity();
        if capacities.iter().all(|capacity| capacity.jobs() == 0) {
            // The end of a run wakes the dispatcher when there is capacity again.
            return Ok(NextTurn::Wait(None));
        }
        let has_known_work = self
            .lanes
            .iter()
            .any(|lanes| lanes.waiting().next().is_some());
        let search_pause =
            self.search_duration * if has_known_work { BUSY_SEARCH_PAUSE } else { 1 };
        if self.is_search_needed && self.searched_at + search_pause <= Instant::now() {
            self.search().await?;
        }
        let claims_began_at = Instant::now();
        if self.claim_in_all_queues(lease, capacities).await? {
            // Finds work that arrived meanwhile without waiting for a notification.
            self.is_search_needed = true;
            return Ok(NextTurn::Now);
        }
        let next_search = self
            .is_search_needed
            .then(|| self.searched_at + search_pause);
        // A lane that was open before the claims waits for capacity, and the end of a run wakes the
        // dispatcher. A lane that has opened since may not have been tried.
        let openings = self
            .lanes
            .iter()
            .filter_map(|lanes| lanes.next_opening(claims_began_at));
        Ok(NextTurn::Wait(openings.chain(next_search).min()))
    }

    /// Claims in each queue that has capacity. Returns whether there may be more to claim at once.
    async fn claim_in_all_queues(
        &mut self,
        lease: i64,
        capacities: Vec<ClaimCapacity>,
    ) -> Result<bool, Error> {
        let mut may_have_more = false;
        // The queues share memory; they take turns at being first.
        self.turns = self.turns.wrapping_add(1);
        let mut order: Vec<(usize, ClaimCapacity)> = capacities.into_iter().enumerate().collect();
        let first = self.turns % order.len().max(1);
        order.rotate_left(first);
        for (index, mut capacity) in order {
            if capacity.jobs() > 0 {
                // The queues before it may have used memory, and claimed a lost job.
                capacity.lost &= self.state.may_claim_lost();
                let Some(bytes) = self.state.free_bytes() else {
                    continue;
                };
                capacity.bytes = bytes;
                may_have_more |= self.claim(index, lease, capacity).await?;
            }
        }
        Ok(may_have_more)
    }

    async fn look_up_queues(&self) -> Result<Vec<i32>, Error> {
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

    /// Puts back jobs that the database has as claimed under `lease` and this worker does not know. No
    /// claim is under way meanwhile.
    async fn put_back_lost_claims(&mut self, lease: i64) -> Result<(), Error> {
        let known_tokens = self.state.known_tokens();
        let lost = self
            .state
            .engine
            .find_lost_claims(lease, &known_tokens)
            .await?;
        self.is_claim_unanswered = false;
        self.next_lost_claims_check = Instant::now() + LOST_CLAIMS_INTERVAL;
        if !lost.is_empty() {
            tracing::warn!(
                jobs = lost.len(),
                lease.id = lease,
                "put back jobs of a claim whose answer was lost"
            );
        }
        for job in lost {
            self.state.put_back_lost_claim(job);
        }
        Ok(())
    }

    /// Finds the lanes that have ready jobs.
    async fn search(&mut self) -> Result<(), Error> {
        let started_at = Instant::now();
        self.searches += 1;
        let mut ranges = Vec::with_capacity(self.queue_numbers.len());
        for (queue, lanes) in self.queue_numbers.iter().zip(&mut self.lanes) {
            let of_queue = lanes.search_ranges(self.searches, started_at);
            ranges.extend(of_queue.into_iter().map(|(after, before)| LaneRange {
                queue: *queue,
                after,
                before,
            }));
        }
        let found = self
            .state
            .engine
            .find_ready_lanes(&ranges, MAX_LANES_PER_SEARCH)
            .await?;
        self.is_search_needed = false;
        let now = Instant::now();
        let mut by_queue: HashMap<i32, Vec<ReadyLane>> = HashMap::new();
        for lane in found {
            by_queue.entry(lane.queue).or_default().push(lane);
        }
        for (queue, lanes) in self.queue_numbers.iter().zip(&mut self.lanes) {
            let found = by_queue.remove(queue).unwrap_or_default();
            lanes.add_found(&found, self.searches, now);
            // With very many lanes, the next search continues after those found.
            self.is_search_needed |= lanes.search_after != 0;
        }
        if self.searches == 1 {
            served_totals::load(&self.state.engine, &self.queue_numbers, &mut self.lanes).await?;
        }
        self.searched_at = Instant::now();
        self.search_duration = self.searched_at - started_at;
        Ok(())
    }

    /// Claims from known lanes of one queue. Returns whether there may be more to claim at once.
    async fn claim(
        &mut self,
        queue_index: usize,
        lease: i64,
        capacity: ClaimCapacity,
    ) -> Result<bool, Error> {
        let (Some(lanes), Some(queue)) = (
            self.lanes.get_mut(queue_index),
            self.queue_numbers.get(queue_index),
        ) else {
            return Ok(false);
        };
        let load = self.state.lane_load(queue_index);
        let claims = lanes.plan_claim(capacity, &load, Instant::now());
        if claims.is_empty() {
            return Ok(false);
        }
        self.is_claim_unanswered = true;
        let started_at = Instant::now();
        let batch = self
            .state
            .engine
            .claim(*queue, lease, &claims, capacity)
            .await?;
        self.is_claim_unanswered = false;
        let answered_at = Instant::now();
        let answered = AnsweredClaim {
            answered_at,
            duration: answered_at - started_at,
            found_no_lost: capacity.lost && !batch.jobs.iter().any(|job| job.parcel.lost),
        };
        let mut claimed_by_lane: HashMap<i64, ClaimedFromLane> = HashMap::new();
        for job in &batch.jobs {
            let claimed = claimed_by_lane.entry(job.parcel.lane).or_default();
            claimed.jobs += 1;
            if !job.parcel.lost {
                claimed.last = claimed.last.max(Some(ScanPosition::of(job)));
            }
        }
        if batch.lanes.is_empty() {
            // The queue is paused or the lease has expired; the next search finds what is left.
            lanes.clear();
        }
        for outcome in batch.lanes {
            let claimed = claimed_by_lane.remove(&outcome.lane).unwrap_or_default();
            lanes.record_outcome(outcome, claimed, answered);
        }
        // Even if the lanes that were tried had nothing, others may not have had a share, or there may
        // be jobs in front of the position where the claim started.
        let may_have_more =
            !batch.jobs.is_empty() || lanes.has_claimable(capacity, &load, answered_at);
        let lane_order: Vec<i64> = claims.iter().map(|claim| claim.lane).collect();
        self.hand_over(queue_index, interleave_lanes(batch.jobs, &lane_order));
        Ok(may_have_more)
    }

    /// Holds claimed jobs and sends them to their queue's backend.
    fn hand_over(&self, queue_index: usize, jobs: Vec<ClaimedJob>) {
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

    /// Puts back a claim whose answer is outstanding and stores the served totals.
    async fn shut_down(&mut self) {
        let shutdown = async {
            if let Some(lease) = self.state.lease.id()
                && self.is_claim_unanswered
            {
                self.put_back_lost_claims(lease).await?;
            }
            served_totals::save(&self.state.engine, &self.queue_numbers, &mut self.lanes).await
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

/// Orders jobs so that the lanes take turns, one job each, in the given order of lanes: a claim takes
/// whole parcels, and a lane with one job should not wait for another's five hundred.
fn interleave_lanes(jobs: Vec<ClaimedJob>, lane_order: &[i64]) -> Vec<ClaimedJob> {
    let positions: HashMap<i64, usize> = lane_order.iter().copied().zip(0..).collect();
    let mut jobs_by_lane: HashMap<i64, usize> = HashMap::new();
    let mut keyed: Vec<((usize, usize), ClaimedJob)> = jobs
        .into_iter()
        .map(|job| {
            let turn = jobs_by_lane.entry(job.parcel.lane).or_default();
            *turn += 1;
            let position = positions
                .get(&job.parcel.lane)
                .copied()
                .unwrap_or(usize::MAX);
            ((*turn, position), job)
        })
        .collect();
    if jobs_by_lane.len() > 1 {
        keyed.sort_by_key(|(key, _)| *key);
    }
    keyed.into_iter().map(|(_, job)| job).collect()
}

#[cfg(test)]
mod tests;
