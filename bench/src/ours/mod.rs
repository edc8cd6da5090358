//! Harkara as a contender: its engine, its real worker, its real processes.
//!
//! One function per measure, on a database with Harkara's schema. Jobs run on the path that a user's jobs
//! take, with history.

pub(crate) mod drain;
pub(crate) mod enqueue;
pub(crate) mod fairness;
pub(crate) mod http;
pub(crate) mod latency;
pub(crate) mod limits;
pub(crate) mod requests;
pub(crate) mod resources;
pub(crate) mod steering;
pub(crate) mod webhooks;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::job::{Lane, NewJob, Trace};
use harkara_queue::{
    Coalescer, Engine, Handler, Quota, Run, Verdict, Worker, WorkerInfo, WorkerOptions,
    WorkerStopped,
};
use harkara_shared::backoff::Backoff;
use harkara_shared::config::QueueConcurrency;
use harkara_shared::database::{self, DatabaseSettings};
use harkara_shared::id::{TenantId, WorkerId};
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The same 48 bytes of JSON for every contender.
const PAYLOAD: &str = r#"{"nothing":"to do, in forty-eight bytes or so"}"#;

/// The queue of the benchmark.
const QUEUE: &str = "bench";

/// How bulk enqueues are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// As an ordinary bulk call stores them: jobs of one kind, due now, packed into parcels.
    Packed,
    /// One row per job: every job of a call has a due time of its own.
    Single,
}

impl Rows {
    /// The contender's name in the tables.
    pub(crate) fn contender(self) -> &'static str {
        match self {
            Self::Packed => "Harkara, packed",
            Self::Single => "Harkara, one row a job",
        }
    }
}

/// Harkara on one database.
#[derive(Clone)]
pub(crate) struct Harkara {
    pub(crate) url: String,
    /// The producers' engine.
    pub(crate) engine: Engine,
    /// Enqueues single jobs as the API does.
    coalescer: Coalescer,
    /// A tenant without limits.
    pub(crate) tenant: TenantId,
    /// Concurrency of a worker.
    pub(crate) slots: u32,
}

/// A job with nothing to do.
pub(crate) fn job(payload: &str) -> anyhow::Result<NewJob> {
    Ok(NewJob {
        kind: "bench.noop".to_owned(),
        queue: QUEUE.to_owned(),
        payload: RawValue::from_string(payload.to_owned())?,
        priority: 5,
        run_at: None,
        delay: Duration::ZERO,
        expires_at: None,
        max_attempts: 3,
        timeout: Duration::from_secs(30),
        backoff: Backoff::default(),
        unique: None,
        lane: Lane::Default,
        limits: Vec::new(),
        tags: Vec::new(),
        trace: Trace::default(),
    })
}

impl Harkara {
    pub(crate) fn open(url: &str, slots: u32) -> anyhow::Result<Self> {
        let settings = DatabaseSettings {
            max_connections: 32,
            acquire_timeout: Duration::from_secs(30),
            ..DatabaseSettings::new(url)
        };
        let pool = database::pool(&settings, "bench")?;
        let engine = Engine::new(pool, true);
        Ok(Self {
            url: url.to_owned(),
            coalescer: Coalescer::new(&engine),
            engine,
            tenant: TenantId::new(),
            slots,
        })
    }

    /// Enqueues jobs in one call and one transaction.
    pub(crate) async fn enqueue(&self, tenant: TenantId, jobs: Vec<NewJob>) -> anyhow::Result<()> {
        let mut tx = self.engine.pool().begin().await?;
        self.engine
            .enqueue_all(&mut tx, tenant, jobs, Quota::Skip)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Enqueues many jobs of a tenant, 1000 per call.
    pub(crate) async fn fill(
        &self,
        tenant: TenantId,
        jobs: usize,
        rows: Rows,
    ) -> anyhow::Result<()> {
        let blank = job(PAYLOAD)?;
        let long_ago = harkara_shared::clock::now() - Duration::from_secs(3600);
        for done in (0..jobs).step_by(1000) {
            let mut call = vec![blank.clone(); (jobs - done).min(1000)];
            if rows == Rows::Single {
                for (nth, job) in call.iter_mut().enumerate() {
                    job.run_at = Some(due_time(long_ago, done + nth));
                }
            }
            self.enqueue(tenant, call).await?;
        }
        Ok(())
    }

    /// Starts a worker, as a worker process does, on connections of its own.
    pub(crate) fn start(&self, tally: &Arc<CountingHandler>) -> anyhow::Result<RunningWorker> {
        self.start_with(tally, self.slots)
    }

    /// As [`Self::start`], with a concurrency of `slots`.
    pub(crate) fn start_with(
        &self,
        tally: &Arc<CountingHandler>,
        slots: u32,
    ) -> anyhow::Result<RunningWorker> {
        let settings = DatabaseSettings {
            max_connections: 8,
            ..DatabaseSettings::new(self.url.clone())
        };
        let engine = Engine::new(database::pool(&settings, "bench-worker")?, true);
        let options = WorkerOptions {
            info: WorkerInfo {
                id: WorkerId::new(),
                host: "bench".to_owned(),
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                queues: serde_json::json!({QUEUE: slots}),
            },
            queues: vec![QueueConcurrency {
                queue: QUEUE.to_owned(),
                concurrency: slots,
            }],
            lease: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            memory: 64 << 20,
            listen_url: None,
        };
        let stop = CancellationToken::new();
        let worker = Worker::new(
            engine.clone(),
            options,
            Arc::<CountingHandler>::clone(tally),
        );
        Ok(RunningWorker {
            task: tokio::spawn(worker.run(stop.clone())),
            stop,
            engine,
        })
    }

    pub(crate) async fn close(self) {
        self.engine.pool().close().await;
    }
}

/// A due time of its own for the nth job.
fn due_time(start: DateTime<Utc>, nth: usize) -> DateTime<Utc> {
    start + Duration::from_micros(u64::try_from(nth).unwrap_or(u64::MAX))
}

/// A running worker.
pub(crate) struct RunningWorker {
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerStopped>>,
    engine: Engine,
}

impl RunningWorker {
    /// Stops it; every outcome is durable when this returns.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await??;
        self.engine.pool().close().await;
        Ok(())
    }
}

/// Called with each run.
type OnRun = dyn Fn(&Run) + Send + Sync;

/// A handler that counts its runs.
pub(crate) struct CountingHandler {
    ran: AtomicUsize,
    goal: AtomicUsize,
    reached: Notify,
    seen: Box<OnRun>,
    /// How long a run takes.
    takes: Duration,
}

impl CountingHandler {
    /// A handler that only counts.
    pub(crate) fn new() -> Arc<Self> {
        Self::seeing(|_| ())
    }

    /// A handler that counts and passes each run to `seen`.
    pub(crate) fn seeing(seen: impl Fn(&Run) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self::of(Box::new(seen), Duration::ZERO))
    }

    fn of(seen: Box<OnRun>, takes: Duration) -> Self {
        Self {
            ran: AtomicUsize::new(0),
            goal: AtomicUsize::new(usize::MAX),
            reached: Notify::new(),
            seen,
            takes,
        }
    }

    /// A handler that counts and sleeps for `takes`.
    pub(crate) fn sleeping(takes: Duration) -> Arc<Self> {
        Arc::new(Self::of(Box::new(|_| ()), takes))
    }

    /// Runs so far.
    pub(crate) fn ran(&self) -> usize {
        self.ran.load(Ordering::Relaxed)
    }

    /// Waits until `goal` jobs have run.
    pub(crate) async fn reaches(&self, goal: usize) {
        self.goal.store(goal, Ordering::SeqCst);
        if self.ran.load(Ordering::SeqCst) < goal {
            self.reached.notified().await;
        }
    }
}

impl Handler for CountingHandler {
    fn run(&self, run: Run) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
        (self.seen)(&run);
        if self.ran.fetch_add(1, Ordering::SeqCst) + 1 == self.goal.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
        if self.takes.is_zero() {
            return Box::pin(std::future::ready(Verdict::done()));
        }
        let takes = self.takes;
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            Verdict::done()
        })
    }
}
