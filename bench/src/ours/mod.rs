//! Room: Harkara as a contender: its engine, its real worker, its real processes.
//! Takes: a database with Harkara's schema. Gives: one function a measure. Never: runs a job by
//! another path than a user's, or without its history.

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

/// How bulk enqueues lie in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// As an ordinary bulk call leaves them: jobs of one kind, due now, packed together.
    Packed,
    /// A row for every job: the jobs of a call are each due at a moment of their own.
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
pub(crate) struct Stand {
    pub(crate) url: String,
    /// The producers' engine.
    pub(crate) engine: Engine,
    /// The producers' way for single jobs, the one the API takes.
    coalescer: Coalescer,
    /// A tenant without limits.
    pub(crate) tenant: TenantId,
    /// Jobs that a worker runs at once.
    pub(crate) places: u32,
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

impl Stand {
    pub(crate) fn open(url: &str, places: u32) -> anyhow::Result<Self> {
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
            places,
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

    /// Enqueues many jobs of a tenant, 1000 a call.
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
                    job.run_at = Some(moment(long_ago, done + nth));
                }
            }
            self.enqueue(tenant, call).await?;
        }
        Ok(())
    }

    /// Starts a worker, as a worker process does, on connections of its own.
    pub(crate) fn start(&self, tally: &Arc<Tally>) -> anyhow::Result<Working> {
        self.start_with(tally, self.places)
    }

    /// Starts a worker with so many places.
    pub(crate) fn start_with(&self, tally: &Arc<Tally>, places: u32) -> anyhow::Result<Working> {
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
                queues: serde_json::json!({QUEUE: places}),
            },
            queues: vec![QueueConcurrency {
                queue: QUEUE.to_owned(),
                concurrency: places,
            }],
            lease: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            memory: 64 << 20,
            listen_url: None,
        };
        let stop = CancellationToken::new();
        let worker = Worker::new(engine.clone(), options, Arc::<Tally>::clone(tally));
        Ok(Working {
            task: tokio::spawn(worker.run(stop.clone())),
            stop,
            engine,
        })
    }

    pub(crate) async fn close(self) {
        self.engine.pool().close().await;
    }
}

/// A moment of its own for the nth job.
fn moment(start: DateTime<Utc>, nth: usize) -> DateTime<Utc> {
    start + Duration::from_micros(u64::try_from(nth).unwrap_or(u64::MAX))
}

/// A worker at work.
pub(crate) struct Working {
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerStopped>>,
    engine: Engine,
}

impl Working {
    /// Stops it; on return every outcome is durable.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await??;
        self.engine.pool().close().await;
        Ok(())
    }
}

/// What is done with each run.
type Seen = dyn Fn(&Run) + Send + Sync;

/// A handler that counts its runs.
pub(crate) struct Tally {
    ran: AtomicUsize,
    goal: AtomicUsize,
    reached: Notify,
    seen: Box<Seen>,
    /// How long a run takes.
    takes: Duration,
}

impl Tally {
    /// Counts only.
    pub(crate) fn new() -> Arc<Self> {
        Self::seeing(|_| ())
    }

    /// Counts and shows each run to `seen`.
    pub(crate) fn seeing(seen: impl Fn(&Run) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self::of(Box::new(seen), Duration::ZERO))
    }

    fn of(seen: Box<Seen>, takes: Duration) -> Self {
        Self {
            ran: AtomicUsize::new(0),
            goal: AtomicUsize::new(usize::MAX),
            reached: Notify::new(),
            seen,
            takes,
        }
    }

    /// Counts runs that take their time.
    pub(crate) fn sleeping(takes: Duration) -> Arc<Self> {
        Arc::new(Self::of(Box::new(|_| ()), takes))
    }

    /// Runs so far.
    pub(crate) fn ran(&self) -> usize {
        self.ran.load(Ordering::Relaxed)
    }

    /// Waits until so many have run.
    pub(crate) async fn reaches(&self, goal: usize) {
        self.goal.store(goal, Ordering::SeqCst);
        if self.ran.load(Ordering::SeqCst) < goal {
            self.reached.notified().await;
        }
    }
}

impl Handler for Tally {
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
