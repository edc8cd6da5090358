//! Room: the worker's line, moved by hand: what test helpers need of the engine.
//! Takes: a handler, and a job that was made up or a queue to claim from. Gives: how the run ended, by
//! the same layer, claim and settlement that a worker uses.
//! Never: is compiled into a binary (feature `testing`); decides anything that the line does not.

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

use super::desk::{self, Desk};
use super::layer::{RunLayer, RunService};
use super::{Handler, HandlerService, Run, WorkerOptions};
use crate::claim::{Begin, Claimed, LaneState, Parcel, Portion, Room, Stretch};
use crate::engine::Engine;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::job::{AttemptOutcome, JobError, NewJob};
use crate::lease::WorkerInfo;
use crate::verdict::{Ending, Settlement, Verdict, decide};

/// Lanes that one turn looks at.
const MOST_LANES: i32 = 10_000;

/// Bytes of bodies that one turn claims.
const MOST_BYTES: u32 = 1 << 30;

/// How often a turn asks whether somebody cancelled what it runs.
const HEARING: Duration = Duration::from_millis(10);

/// A run of a job that stands in no table.
#[derive(Debug, Clone)]
pub struct DetachedJob {
    /// Id.
    pub id: JobId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The job.
    pub job: NewJob,
    /// Which run it is, from 1.
    pub attempt: u16,
}

impl DetachedJob {
    fn claimed(self) -> Claimed {
        let now = harkara_shared::clock::now();
        Claimed {
            id: self.id,
            tenant: self.tenant,
            kind: self.job.kind.as_str().into(),
            attempt: self.attempt,
            max_attempts: self.job.max_attempts,
            run_at: self.job.run_at.unwrap_or(now),
            started_at: now,
            deferrals: 0,
            body: Ok(Arc::new(Envelope::of(&self.job))),
            parcel: Arc::new(Parcel::test()),
            member: 1,
        }
    }
}

/// Runs a job that was made up, once, and writes nothing of it. Panic, timeout and cancel become the
/// verdicts that they become in a worker; `None` for a run whose outcome would not count.
pub async fn perform_job(
    engine: &Engine,
    handler: Arc<dyn Handler>,
    run: DetachedJob,
    cancel: CancellationToken,
) -> Option<Verdict> {
    let job = run.claimed();
    let mut line = Line::new(engine, handler, &job.kind);
    line.desk.take_lease(job.parcel.lease);
    let id = job.id;
    let running = line.begin(vec![job]);
    let desk = Arc::clone(&line.desk);
    let cancelling = async {
        cancel.cancelled().await;
        desk.cancel(&[id]);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = cancelling => {}
        () = running => {}
    }
    match line.endings.try_recv() {
        Ok(desk::Ended {
            ending: Ending::Verdict(verdict),
            ..
        }) => Some(verdict),
        Ok(_) | Err(_) => None,
    }
}

/// What became of one run of a [`TestWorker`].
#[derive(Debug, Clone)]
pub struct SettledRun {
    /// The job.
    pub id: JobId,
    /// How its run ended; `None` when it was put back.
    pub outcome: Option<AttemptOutcome>,
    /// What went wrong.
    pub error: Option<JobError>,
}

/// One claim with everything that came of it.
#[derive(Debug, Default)]
pub struct BatchReport {
    /// The runs, in the order they were claimed.
    pub runs: Vec<SettledRun>,
    /// When nothing was claimed: the time until a lane opens by itself.
    pub opens_in: Option<Duration>,
}

/// A worker for one queue that claims, runs and settles when it is told to.
#[derive(Debug)]
pub struct TestWorker {
    engine: Engine,
    queue: i32,
    lease: i64,
    line: Line,
}

impl TestWorker {
    /// Opens a lease for a worker of `queue`.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn start(
        engine: &Engine,
        handler: Arc<dyn Handler>,
        queue: &str,
        lease: Duration,
    ) -> Result<Self, Error> {
        let info = WorkerInfo {
            id: WorkerId::new(),
            host: "by hand".to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            queues: serde_json::json!({}),
        };
        let line = Line::new(engine, handler, queue);
        let lease = engine.open_lease(&info, lease).await?;
        line.desk.take_lease(lease);
        Ok(Self {
            engine: engine.clone(),
            queue: engine.interner().queue_number(queue).await?,
            lease,
            line,
        })
    }

    /// Takes back what dead workers held and makes ready what has come due. Answers the time until
    /// the next job does.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn promote(&self) -> Result<Option<Duration>, Error> {
        self.engine.rescue().await?;
        loop {
            let pulse = self.engine.pulse(self.lease).await?;
            if pulse.next_due != Some(Duration::ZERO) || !self.is_due().await? {
                return Ok(pulse.next_due);
            }
        }
    }

    async fn is_due(&self) -> Result<bool, Error> {
        let due = "select exists (select from queue.parcels where state = 's' and run_at <= now())";
        Ok(query_scalar(due).fetch_one(self.engine.pool()).await?)
    }

    /// Claims at most `places` jobs without running them.
    async fn take(&self, places: u32) -> Result<(Vec<Claimed>, Option<Duration>), Error> {
        let all = Stretch {
            queue: self.queue,
            after: 0,
            before: i64::MAX,
        };
        let seen = self.engine.look(&[all], MOST_LANES).await?;
        let share = i32::try_from(places).unwrap_or(i32::MAX);
        let portions: Vec<Portion> = seen
            .iter()
            .map(|sight| Portion {
                lane: sight.lane,
                share,
                depth: share,
                from: Begin::First,
            })
            .collect();
        let room = Room {
            places,
            ahead: 0,
            bytes: MOST_BYTES,
            lost: true,
        };
        let take = self
            .engine
            .take(self.queue, self.lease, &portions, room)
            .await?;
        let opens_in = take
            .reports
            .iter()
            .filter_map(|report| match report.state {
                LaneState::ClosedFor(wait) => Some(wait),
                LaneState::More | LaneState::Spent | LaneState::Closed => None,
            })
            .min();
        Ok((take.jobs, opens_in))
    }

    /// Tells runs that somebody cancelled them, for as long as it is polled.
    async fn hear_cancels(&self) {
        loop {
            tokio::time::sleep(HEARING).await;
            if let Ok(pulse) = self.engine.pulse(self.lease).await {
                self.line.desk.cancel(&pulse.cancelling);
            }
        }
    }

    /// Claims at most `places` jobs, runs them side by side and settles them.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn run_batch(&mut self, places: u32) -> Result<BatchReport, Error> {
        let (jobs, opens_in) = self.take(places).await?;
        let order: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        let running = self.line.begin(jobs);
        tokio::select! {
            biased;
            () = running => {}
            () = self.hear_cancels() => {}
        }
        let mut endings = Vec::new();
        while let Ok(desk::Ended { job, ending, took }) = self.line.endings.try_recv() {
            let settlement = Settlement {
                took,
                ..decide(ending, &job, &mut rand::rng())
            };
            endings.push((job, settlement));
        }
        endings.sort_by_key(|(job, _)| order.iter().position(|id| *id == job.id));
        let written = self.engine.settle(&endings).await?;
        self.line.desk.written(endings.iter().map(|(job, _)| job));
        let ended = endings
            .into_iter()
            .filter(|(job, _)| written.contains(&job.parcel.key()))
            .map(|(job, settlement)| SettledRun {
                id: job.id,
                outcome: settlement.outcome,
                error: settlement.error,
            })
            .collect();
        Ok(BatchReport {
            runs: ended,
            opens_in,
        })
    }

    /// Claims at most `places` jobs and dies under them: they are taken back when the lease is over.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn claim_and_crash(self, places: u32) -> Result<Vec<JobId>, Error> {
        let (jobs, _) = self.take(places).await?;
        Ok(jobs.into_iter().map(|job| job.id).collect())
    }

    /// Closes the lease.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn stop(self) -> Result<(), Error> {
        self.engine.close_lease(self.lease).await
    }
}

/// A desk and the layer around the handler, without what moves them by itself.
struct Line {
    desk: Arc<Desk>,
    service: RunService<HandlerService>,
    endings: mpsc::UnboundedReceiver<desk::Ended>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Line {
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
        let (desk, ends) = Desk::new(engine.clone(), &options, Duration::ZERO);
        let desk = Arc::new(desk);
        Self {
            service: RunLayer::new(Arc::clone(&desk)).layer(HandlerService(handler)),
            endings: ends.endings,
            desk,
        }
    }

    /// Takes jobs in hand and runs them to their ends.
    fn begin(&mut self, jobs: Vec<Claimed>) -> impl Future<Output = ()> + use<> {
        let tasks: Vec<Task<Run>> = self.desk.hold(0, jobs);
        let runs: Vec<_> = tasks
            .into_iter()
            .map(|task| self.service.call(task))
            .collect();
        async move {
            join_all(runs).await;
        }
    }
}
