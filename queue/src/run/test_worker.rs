//! Runs jobs step by step in tests: a single run of a job that is not stored, or one batch of a queue.
//!
//! Uses the same claim, run layer and settlement as a [`super::Worker`], without its background tasks.
//! Compiled only with the feature `testing`, never into a binary.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use apalis_core::task::Task;
use futures_util::future::join_all;
use harkara_shared::config::QueueConcurrency;
use harkara_shared::database::query_scalar;
use harkara_shared::id::{JobId, TenantId, WorkerId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

use super::handler::{Handler, HandlerService, Run};
use super::options::WorkerOptions;
use super::run_layer::{RunLayer, RunService};
use super::worker_state::{FinishedRun, WorkerState};
use crate::claim::{ClaimCapacity, LaneAvailability, LaneClaim, LaneRange, ScanStart};
use crate::claimed::{ClaimedJob, ClaimedParcel};
use crate::engine::Engine;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::job::{AttemptOutcome, JobError, NewJob};
use crate::lease::WorkerInfo;
use crate::verdict::{RunOutcome, Settlement, Verdict, decide};

/// Maximum lanes that one batch claims from.
const MAX_LANES: i32 = 10_000;

/// Memory for the bodies of one batch, in bytes.
const MAX_BATCH_BYTES: u32 = 1 << 30;

/// How often to poll for cancellations while a batch runs.
const CANCEL_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// One run of a job that is stored in no table.
#[derive(Debug, Clone)]
pub struct DetachedJob {
    /// The id that the handler sees.
    pub id: JobId,
    /// The tenant that the handler sees.
    pub tenant: TenantId,
    /// The job. Only the parts that a handler sees have an effect.
    pub job: NewJob,
    /// Number of the run, from 1.
    pub attempt: u16,
}

impl DetachedJob {
    fn into_claimed(self) -> ClaimedJob {
        let now = harkara_shared::clock::now();
        ClaimedJob {
            id: self.id,
            tenant: self.tenant,
            kind: self.job.kind.as_str().into(),
            attempt: self.attempt,
            max_attempts: self.job.max_attempts,
            run_at: self.job.run_at.unwrap_or(now),
            started_at: now,
            deferrals: 0,
            body: Ok(Arc::new(Envelope::of(&self.job))),
            parcel: Arc::new(ClaimedParcel::test()),
            member: 1,
        }
    }
}

/// Runs a job once and writes nothing. Panics, timeouts and cancellations become the same verdicts as in
/// a worker. Returns `None` if a worker would not write the outcome.
pub async fn perform_job(
    engine: &Engine,
    handler: Arc<dyn Handler>,
    detached: DetachedJob,
    cancel: CancellationToken,
) -> Option<Verdict> {
    let job = detached.into_claimed();
    let mut runner = Runner::new(engine, handler, &job.kind);
    runner.state.set_lease(job.parcel.lease);
    let id = job.id;
    let all_runs = runner.run_all(vec![job]);
    let state = Arc::clone(&runner.state);
    let pass_on_cancel = async {
        cancel.cancelled().await;
        state.cancel_runs(&[id]);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = pass_on_cancel => {}
        () = all_runs => {}
    }
    match runner.finished_runs.try_recv() {
        Ok(FinishedRun {
            outcome: RunOutcome::Verdict(verdict),
            ..
        }) => Some(verdict),
        Ok(_) | Err(_) => None,
    }
}

/// The settled outcome of one run of a [`TestWorker`].
#[derive(Debug, Clone)]
pub struct SettledRun {
    /// The job that ran.
    pub id: JobId,
    /// How the run ended. `None` if the job was put back.
    pub outcome: Option<AttemptOutcome>,
    /// Why the run did not succeed.
    pub error: Option<JobError>,
}

/// The runs of one batch.
#[derive(Debug, Default)]
pub struct BatchReport {
    /// In the order in which the jobs were claimed.
    pub runs: Vec<SettledRun>,
    /// Time until the first closed lane opens by itself.
    pub opens_in: Option<Duration>,
}

/// A worker for one queue that claims, runs and settles one batch for each call.
#[derive(Debug)]
pub struct TestWorker {
    engine: Engine,
    /// Internal number of the queue.
    queue: i32,
    lease: i64,
    runner: Runner,
}

impl TestWorker {
    /// Opens a lease of this length for a worker of `queue`.
    ///
    /// # Errors
    /// When a statement fails.
    pub async fn start(
        engine: &Engine,
        handler: Arc<dyn Handler>,
        queue: &str,
        lease: Duration,
    ) -> Result<Self, Error> {
        let info = WorkerInfo {
            id: WorkerId::new(),
            host: "test worker".to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            queues: serde_json::json!({}),
        };
        let runner = Runner::new(engine, handler, queue);
        let lease = engine.open_lease(&info, lease).await?;
        runner.state.set_lease(lease);
        Ok(Self {
            engine: engine.clone(),
            queue: engine.interner().queue_number(queue).await?,
            lease,
            runner,
        })
    }

    /// Rescues jobs of lost workers and makes due jobs ready. Returns the time until the next job is
    /// due.
    ///
    /// # Errors
    /// When a statement fails.
    pub async fn promote(&self) -> Result<Option<Duration>, Error> {
        self.engine.rescue().await?;
        loop {
            let heartbeat = self.engine.heartbeat(self.lease).await?;
            if heartbeat.next_due != Some(Duration::ZERO) || !self.has_due_jobs().await? {
                return Ok(heartbeat.next_due);
            }
        }
    }

    async fn has_due_jobs(&self) -> Result<bool, Error> {
        let due = "select exists (select from queue.parcels where state = 's' and run_at <= now())";
        Ok(query_scalar(due).fetch_one(self.engine.pool()).await?)
    }

    /// Claims at most `slots` jobs without running them. Returns them with the time until the first
    /// closed lane opens.
    async fn claim(&self, slots: u32) -> Result<(Vec<ClaimedJob>, Option<Duration>), Error> {
        let all_lanes = LaneRange {
            queue: self.queue,
            after: 0,
            before: i64::MAX,
        };
        let ready_lanes = self
            .engine
            .find_ready_lanes(&[all_lanes], MAX_LANES)
            .await?;
        let jobs = i32::try_from(slots).unwrap_or(i32::MAX);
        let claims: Vec<LaneClaim> = ready_lanes
            .iter()
            .map(|lane| LaneClaim {
                lane: lane.lane,
                jobs,
                max_rows: jobs,
                start: ScanStart::First,
            })
            .collect();
        let capacity = ClaimCapacity {
            slots,
            prefetch: 0,
            bytes: MAX_BATCH_BYTES,
            accepts_lost_jobs: true,
        };
        let batch = self
            .engine
            .claim(self.queue, self.lease, &claims, capacity)
            .await?;
        let opens_in = batch
            .lanes
            .iter()
            .filter_map(|lane| match lane.availability {
                LaneAvailability::ClosedFor(wait) => Some(wait),
                LaneAvailability::More
                | LaneAvailability::Exhausted
                | LaneAvailability::Blocked => None,
            })
            .min();
        Ok((batch.jobs, opens_in))
    }

    /// Signals cancellations to running jobs for as long as it is polled.
    async fn poll_cancellations(&self) {
        loop {
            tokio::time::sleep(CANCEL_POLL_INTERVAL).await;
            if let Ok(heartbeat) = self.engine.heartbeat(self.lease).await {
                self.runner.state.cancel_runs(&heartbeat.cancelling);
            }
        }
    }

    /// Claims at most `slots` jobs, runs them concurrently and settles them.
    ///
    /// # Errors
    /// When a statement fails.
    pub async fn run_batch(&mut self, slots: u32) -> Result<BatchReport, Error> {
        let (jobs, opens_in) = self.claim(slots).await?;
        let claim_order: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        let all_runs = self.runner.run_all(jobs);
        tokio::select! {
            biased;
            () = all_runs => {}
            () = self.poll_cancellations() => {}
        }
        let mut settled_jobs = Vec::new();
        while let Ok(finished) = self.runner.finished_runs.try_recv() {
            let FinishedRun {
                job,
                outcome,
                run_time,
            } = finished;
            let settlement = Settlement {
                run_time,
                ..decide(outcome, &job, &mut rand::rng())
            };
            settled_jobs.push((job, settlement));
        }
        settled_jobs.sort_by_key(|(job, _)| claim_order.iter().position(|id| *id == job.id));
        let written_parcels = self.engine.settle(&settled_jobs).await?;
        self.runner
            .state
            .record_written_outcomes(settled_jobs.iter().map(|(job, _)| job));
        let runs = settled_jobs
            .into_iter()
            .filter(|(job, _)| written_parcels.contains(&job.parcel.key()))
            .map(|(job, settlement)| SettledRun {
                id: job.id,
                outcome: settlement.outcome,
                error: settlement.error,
            })
            .collect();
        Ok(BatchReport { runs, opens_in })
    }

    /// Claims at most `slots` jobs and stops like a killed worker: the jobs are rescued when the lease
    /// expires.
    ///
    /// # Errors
    /// When a statement fails.
    pub async fn claim_and_crash(self, slots: u32) -> Result<Vec<JobId>, Error> {
        let (jobs, _) = self.claim(slots).await?;
        Ok(jobs.into_iter().map(|job| job.id).collect())
    }

    /// Closes the lease.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn stop(self) -> Result<(), Error> {
        self.engine.close_lease(self.lease).await
    }
}

/// A worker's state and run layer, without the background tasks that drive them.
struct Runner {
    state: Arc<WorkerState>,
    service: RunService<HandlerService>,
    finished_runs: mpsc::UnboundedReceiver<FinishedRun>,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").finish_non_exhaustive()
    }
}

impl Runner {
    fn new(engine: &Engine, handler: Arc<dyn Handler>, queue: &str) -> Self {
        let options = WorkerOptions {
            info: WorkerInfo {
                id: WorkerId::new(),
                host: String::new(),
                pid: 0,
                version: String::new(),
                queues: serde_json::Value::Null,
            },
            queues: vec![QueueConcurrency {
                queue: queue.to_owned(),
                concurrency: 1,
            }],
            lease: Duration::ZERO,
            drain: Duration::ZERO,
            memory: u64::MAX,
            listen_url: None,
        };
        let (state, channels) = WorkerState::new(engine.clone(), &options, Duration::ZERO);
        let state = Arc::new(state);
        Self {
            service: RunLayer::new(Arc::clone(&state)).layer(HandlerService(handler)),
            finished_runs: channels.finished_runs,
            state,
        }
    }

    /// Holds jobs and runs them concurrently.
    fn run_all(&mut self, jobs: Vec<ClaimedJob>) -> impl Future<Output = ()> + use<> {
        let tasks: Vec<Task<Run>> = self.state.hold(0, jobs);
        let runs: Vec<_> = tasks
            .into_iter()
            .map(|task| self.service.call(task))
            .collect();
        async move {
            join_all(runs).await;
        }
    }
}
