//! Shared fixtures of the engine's tests: a database with an engine, jobs, handlers made of closures,
//! background workers, and bounded waiting.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::job::{Attempt, Enqueued, Job, JobError, JobState, Lane, NewJob, Trace};
use harkara_queue::read;
use harkara_queue::{Engine, Handler, Quota, Run, Verdict, Worker, WorkerInfo, WorkerOptions};
use harkara_shared::backoff::{Backoff, Jitter};
use harkara_shared::config::QueueConcurrency;
use harkara_shared::database::{TenantTx, query_scalar};
use harkara_shared::id::{JobId, TenantId, WorkerId};
use harkara_test_database::TestDatabase;
use serde_json::value::RawValue;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The maximum wait for any condition; far longer than a passing test needs.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The queue of jobs that name no queue.
pub(crate) const QUEUE: &str = "default";

/// Waits for `future`, at most [`TEST_TIMEOUT`].
pub(crate) async fn with_timeout<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(TEST_TIMEOUT, future).await {
        Ok(output) => output,
        Err(_) => panic!("timed out waiting until {what}"),
    }
}

/// Polls until the condition holds, at most [`TEST_TIMEOUT`].
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    with_timeout(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A database of its own, an engine on it, and a tenant.
pub(crate) struct Fixture {
    pub(crate) database: TestDatabase,
    pub(crate) engine: Engine,
    pub(crate) tenant: TenantId,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with_notify(true).await
    }

    pub(crate) async fn with_notify(notify: bool) -> Self {
        let database = TestDatabase::create().await;
        let engine = Engine::new(database.pool(), notify);
        Self {
            database,
            engine,
            tenant: TenantId::new(),
        }
    }

    pub(crate) fn pool(&self) -> PgPool {
        self.database.pool()
    }

    pub(crate) async fn tx(&self) -> TenantTx {
        TenantTx::begin(&self.pool(), self.tenant).await.unwrap()
    }

    pub(crate) async fn enqueue(&self, job: NewJob) -> Enqueued {
        self.enqueue_for(self.tenant, vec![job])
            .await
            .pop()
            .unwrap()
    }

    pub(crate) async fn enqueue_all(&self, jobs: Vec<NewJob>) -> Vec<Enqueued> {
        self.enqueue_for(self.tenant, jobs).await
    }

    pub(crate) async fn enqueue_for(&self, tenant: TenantId, jobs: Vec<NewJob>) -> Vec<Enqueued> {
        let mut tx = TenantTx::begin(&self.pool(), tenant).await.unwrap();
        let answers = self
            .engine
            .enqueue_all(&mut tx, tenant, jobs, Quota::Skip)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        answers
    }

    pub(crate) async fn job(&self, id: JobId) -> Job {
        read::job(&mut *self.tx().await, id).await.unwrap().unwrap()
    }

    pub(crate) async fn state(&self, id: JobId) -> JobState {
        self.job(id).await.state
    }

    pub(crate) async fn attempts(&self, id: JobId) -> Vec<Attempt> {
        read::attempts(&mut *self.tx().await, id)
            .await
            .unwrap()
            .unwrap()
    }

    /// Waits until the job is in this state, and returns it.
    pub(crate) async fn wait_for_state(&self, id: JobId, state: JobState) -> Job {
        until(&format!("job {id} becomes {state:?}"), async || {
            self.state(id).await == state
        })
        .await;
        self.job(id).await
    }

    /// Waits until no job is scheduled, ready or running.
    pub(crate) async fn wait_until_idle(&self) {
        until("all jobs finish", async || {
            self.count("select count(*) from queue.parcels where state in ('s', 'a', 'r')")
                .await
                == 0
        })
        .await;
    }

    /// Asserts that the counters agree with the jobs.
    pub(crate) async fn assert_counts_agree(&self) {
        let drift = self.engine.drift().await.unwrap();
        assert!(drift.is_empty(), "counters are wrong: {drift:?}");
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        query_scalar(sql).fetch_one(&self.pool()).await.unwrap()
    }

    /// The number of jobs in these states, given by their letters, in every storage form.
    pub(crate) async fn jobs(&self, states: &str) -> i64 {
        count_jobs(&self.pool(), states, None).await.unwrap()
    }

    /// The number of jobs in these states that have this attempt.
    pub(crate) async fn jobs_at(&self, states: &str, attempt: i16) -> i64 {
        let pool = self.pool();
        count_jobs(&pool, states, Some(attempt)).await.unwrap()
    }

    /// Runs a statement and returns the number of affected rows.
    pub(crate) async fn execute(&self, sql: &'static str) -> u64 {
        harkara_shared::database::query(sql)
            .execute(&self.pool())
            .await
            .unwrap()
            .rows_affected()
    }

    /// The current time by the database's clock.
    pub(crate) async fn now(&self) -> DateTime<Utc> {
        query_scalar("select clock_timestamp()")
            .fetch_one(&self.pool())
            .await
            .unwrap()
    }

    pub(crate) fn start_worker(&self, handler: Arc<dyn Handler>) -> RunningWorker {
        self.start_worker_with(options(&[(QUEUE, 8)]), handler)
    }

    pub(crate) fn start_worker_with(
        &self,
        options: WorkerOptions,
        handler: Arc<dyn Handler>,
    ) -> RunningWorker {
        RunningWorker::start(self.engine.clone(), options, handler)
    }
}

/// Counts jobs by state and attempt; members that left their row are not counted in it.
pub(crate) async fn count_jobs(
    pool: &PgPool,
    states: &str,
    attempt: Option<i16>,
) -> Result<i64, sqlx::Error> {
    query_scalar(
        "select count(*) from queue.parcels p cross join lateral generate_series(1, p.n) i
         where i <> all (coalesce(p.gone, '{}'))
           and strpos($1, case when i = any (p.acked) then 'd' else p.state::text end) > 0
           and p.attempt = coalesce($2, p.attempt)",
    )
    .bind(states)
    .bind(attempt)
    .fetch_one(pool)
    .await
}

/// A worker that runs in the background.
pub(crate) struct RunningWorker {
    stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl RunningWorker {
    pub(crate) fn start(engine: Engine, options: WorkerOptions, handler: Arc<dyn Handler>) -> Self {
        let stop = CancellationToken::new();
        let worker = Worker::new(engine, options, handler).run(stop.clone());
        let task = tokio::spawn(async move { worker.await.unwrap() });
        Self { stop, task }
    }

    /// Requests the stop without waiting for it.
    pub(crate) fn request_stop(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        with_timeout("the worker stops", self.task).await.unwrap();
    }
}

pub(crate) fn options(queues: &[(&str, u32)]) -> WorkerOptions {
    WorkerOptions {
        info: WorkerInfo {
            id: WorkerId::new(),
            host: "test".to_owned(),
            pid: std::process::id(),
            version: "0".to_owned(),
            queues: queues.iter().copied().collect(),
        },
        queues: queues
            .iter()
            .map(|(queue, concurrency)| QueueConcurrency {
                queue: (*queue).to_owned(),
                concurrency: *concurrency,
            })
            .collect(),
        lease: TEST_TIMEOUT * 2,
        drain: TEST_TIMEOUT,
        memory: 64 << 20,
        listen_url: None,
    }
}

/// A job that is due now, with a minimal payload and three attempts.
pub(crate) fn job() -> NewJob {
    NewJob {
        kind: "test.job".to_owned(),
        queue: QUEUE.to_owned(),
        payload: payload(0),
        priority: 5,
        run_at: None,
        delay: Duration::ZERO,
        expires_at: None,
        max_attempts: 3,
        timeout: TEST_TIMEOUT * 2,
        backoff: Backoff {
            base: Duration::from_millis(1),
            factor: 2.0,
            max: Duration::from_millis(100),
            jitter: Jitter::None,
        },
        unique: None,
        lane: Lane::Default,
        limits: Vec::new(),
        tags: Vec::new(),
        trace: Trace::default(),
    }
}

pub(crate) fn numbered(number: u64) -> NewJob {
    NewJob {
        payload: payload(number),
        ..job()
    }
}

fn payload(number: u64) -> Box<RawValue> {
    serde_json::value::to_raw_value(&number).unwrap()
}

/// The number of a job created by [`numbered`].
pub(crate) fn number(run: &Run) -> u64 {
    run.job.payload().get().parse().unwrap()
}

pub(crate) fn error(code: &str) -> JobError {
    JobError::new(code, "on purpose")
}

pub(crate) fn failed(code: &str) -> Verdict {
    Verdict::retry(error(code), None)
}

struct Closure<F>(F);

impl<F, Fut> Handler for Closure<F>
where
    F: Fn(Run) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Verdict> + Send + 'static,
{
    fn run(&self, run: Run) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
        Box::pin((self.0)(run))
    }
}

/// A handler made of a closure, dropped when its job is cancelled.
pub(crate) fn handler<F, Fut>(run: F) -> Arc<dyn Handler>
where
    F: Fn(Run) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Verdict> + Send + 'static,
{
    handler_observing_cancel(move |given: Run| {
        let cancel = given.cancel.clone();
        let ends = run(given);
        async move {
            tokio::select! {
                biased;
                verdict = ends => verdict,
                () = cancel.cancelled() => Verdict::Cancelled,
            }
        }
    })
}

/// A handler made of a closure that has to observe cancellation itself.
pub(crate) fn handler_observing_cancel<F, Fut>(run: F) -> Arc<dyn Handler>
where
    F: Fn(Run) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Verdict> + Send + 'static,
{
    Arc::new(Closure(run))
}

/// A handler that succeeds immediately.
pub(crate) fn succeeding_handler() -> Arc<dyn Handler> {
    handler(async |_| Verdict::done())
}

/// A log shared by handlers, in the order of their writes.
#[derive(Debug)]
pub(crate) struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone> Log<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Vec::new())))
    }

    pub(crate) fn write(&self, line: T) {
        self.0.lock().unwrap().push(line);
    }

    pub(crate) fn read(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Waits until the log has at least this many lines.
    pub(crate) async fn holds(&self, lines: usize) {
        until(&format!("the log has {lines} lines"), async || {
            self.len() >= lines
        })
        .await;
    }
}
