//! Worker shutdown: in-flight runs may finish, other jobs are put back unchanged, and it never hangs.

use std::sync::Arc;
use std::time::Duration;

use harkara_queue::job::{JobState, NewJob};
use harkara_queue::{Handler, Quota, Verdict, WorkerOptions};
use harkara_shared::database::query;
use sqlx::{Postgres, Transaction};
use tokio::sync::{Semaphore, mpsc};

use crate::support::{
    Fixture, Log, QUEUE, handler, job, number, numbered, options, succeeding_handler, until,
    with_timeout,
};

/// Options of a worker with a very short drain period.
fn options_with_short_drain(concurrency: u32) -> WorkerOptions {
    WorkerOptions {
        drain: Duration::from_millis(50),
        ..options(&[(QUEUE, concurrency)])
    }
}

/// A handler that blocks until it gets a permit, with logs of started and finished runs.
struct BlockingHandler {
    permits: Arc<Semaphore>,
    started: Log<u64>,
    ended: Log<u64>,
}

impl BlockingHandler {
    fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(0)),
            started: Log::new(),
            ended: Log::new(),
        }
    }

    fn handler(&self) -> Arc<dyn Handler> {
        let (permits, started, ended) = (
            self.permits.clone(),
            self.started.clone(),
            self.ended.clone(),
        );
        handler(move |run| {
            let (permits, started, ended) = (permits.clone(), started.clone(), ended.clone());
            async move {
                started.write(number(&run));
                permits.acquire().await.unwrap().forget();
                ended.write(number(&run));
                Verdict::done()
            }
        })
    }
}

/// Blocks every statement on jobs until the returned transaction ends.
async fn block_job_statements(fixture: &Fixture) -> Transaction<'static, Postgres> {
    let mut tx = fixture.pool().begin().await.unwrap();
    query("lock table queue.parcels in access exclusive mode")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx
}

#[tokio::test]
async fn in_flight_runs_finish_within_the_grace_period_and_no_new_run_starts() {
    let fixture = Fixture::new().await;
    let blocking = BlockingHandler::new();
    fixture.enqueue_all((0..10).map(numbered).collect()).await;
    let worker = fixture.start_worker_with(options(&[(QUEUE, 3)]), blocking.handler());
    blocking.started.holds(3).await;
    worker.request_stop();
    blocking.permits.add_permits(10);
    worker.stop().await;
    assert_eq!(blocking.ended.len(), 3);
    assert_eq!(fixture.jobs_at("d", 1).await, 3);
    assert_eq!(fixture.jobs_at("a", 0).await, 7);
    let closed = "select count(*) from queue.leases l join queue.workers w on w.id = l.worker_id
        where l.closed_at is not null and w.stopped_at is not null";
    assert_eq!(fixture.count(closed).await, 1);
}

#[tokio::test]
async fn runs_that_outlast_the_grace_period_are_put_back_without_using_an_attempt() {
    struct Guard(mpsc::UnboundedSender<()>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.send(()).ok();
        }
    }
    let fixture = Fixture::new().await;
    let (dropped, mut drops) = mpsc::unbounded_channel();
    let ids = fixture.enqueue_all(
        (0..5)
            .map(|n| NewJob {
                max_attempts: 1,
                ..numbered(n)
            })
            .collect(),
    );
    let ids: Vec<_> = ids.await.iter().map(|answer| answer.id()).collect();
    let started = Log::new();
    let log_copy = started.clone();
    let worker = fixture.start_worker_with(
        options_with_short_drain(3),
        handler(move |_| {
            let guard = Guard(dropped.clone());
            log_copy.write(());
            async move {
                let _guard = guard;
                std::future::pending::<()>().await;
                Verdict::done()
            }
        }),
    );
    started.holds(3).await;
    worker.request_stop();
    for _ in 0..3 {
        with_timeout("a handler is dropped", drops.recv()).await;
    }
    worker.stop().await;
    for id in &ids {
        let job = fixture.job(*id).await;
        assert_eq!(
            (job.state, job.attempt, job.last_error),
            (JobState::Ready, 0, None)
        );
        assert!(fixture.attempts(*id).await.is_empty());
    }
    let open = "select count(*) from queue.leases where closed_at is null";
    assert_eq!(fixture.count(open).await, 0);

    let worker = fixture.start_worker(succeeding_handler());
    for id in ids {
        assert_eq!(
            fixture
                .wait_for_state(id, JobState::Succeeded)
                .await
                .attempt,
            1
        );
    }
    worker.stop().await;
}

#[tokio::test]
async fn job_cancelled_while_its_worker_drains_does_not_return() {
    let fixture = Fixture::with_notify(false).await;
    let id = fixture.enqueue(job()).await.id();
    let slow = WorkerOptions {
        drain: Duration::from_secs(1),
        ..options_with_short_drain(1)
    };
    let blocking = BlockingHandler::new();
    let worker = fixture.start_worker_with(slow, blocking.handler());
    blocking.started.holds(1).await;
    worker.request_stop();
    let mut tx = fixture.tx().await;
    fixture.engine.cancel(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();
    worker.stop().await;
    assert_eq!(fixture.state(id).await, JobState::Cancelled);
}

#[tokio::test]
async fn worker_stopped_twice_stops_once() {
    let fixture = Fixture::new().await;
    let blocking = BlockingHandler::new();
    fixture.enqueue(job()).await;
    let worker = fixture.start_worker(blocking.handler());
    blocking.started.holds(1).await;
    worker.request_stop();
    worker.request_stop();
    blocking.permits.add_permits(1);
    worker.stop().await;
    assert_eq!(
        fixture
            .count("select count(*) from queue.parcels where state = 'd'")
            .await,
        1
    );
}

#[tokio::test]
async fn worker_stopped_before_its_start_ends() {
    let fixture = Fixture::new().await;
    fixture.enqueue(job()).await;
    let worker = fixture.start_worker(succeeding_handler());
    worker.stop().await;
    assert_eq!(fixture.jobs("r").await, 0);
}

#[tokio::test]
async fn stop_during_a_claim_leaves_no_job_claimed() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker_with(options_with_short_drain(8), succeeding_handler());
    let first = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(first, JobState::Succeeded).await;
    // The next claim is blocked in the database while the worker receives the stop request.
    let mut blocking_tx = fixture.pool().begin().await.unwrap();
    query("lock table queue.leases in access exclusive mode")
        .execute(&mut *blocking_tx)
        .await
        .unwrap();
    let ids: Vec<_> = {
        let mut tx = fixture.tx().await;
        let answers = fixture
            .engine
            .enqueue_all(
                &mut tx,
                fixture.tenant,
                (0..5).map(numbered).collect(),
                Quota::Skip,
            )
            .await;
        tx.commit().await.unwrap();
        answers.unwrap().iter().map(|answer| answer.id()).collect()
    };
    until("a claim is in progress", async || {
        fixture
            .count(
                "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'
                   and query like '-- Claims%'",
            )
            .await
            == 1
    })
    .await;
    worker.request_stop();
    blocking_tx.commit().await.unwrap();
    worker.stop().await;
    for id in ids {
        let job = fixture.job(id).await;
        let untouched = (job.state, job.attempt) == (JobState::Ready, 0);
        assert!(untouched || job.state == JobState::Succeeded, "{job:?}");
    }
    let open = "select count(*) from queue.leases where closed_at is null";
    assert_eq!(fixture.count(open).await, 0);
}

#[tokio::test]
async fn worker_stops_when_the_database_does_not_answer() {
    let fixture = Fixture::new().await;
    let blocking = BlockingHandler::new();
    fixture.enqueue_all((0..4).map(numbered).collect()).await;
    let worker = fixture.start_worker_with(options_with_short_drain(3), blocking.handler());
    blocking.started.holds(3).await;
    let block_job_statements = block_job_statements(&fixture).await;
    blocking.permits.add_permits(1);
    blocking.ended.holds(1).await;
    worker.stop().await;
    drop(block_job_statements);
}

#[tokio::test]
async fn worker_stops_when_its_pool_is_closed() {
    let fixture = Fixture::new().await;
    let blocking = BlockingHandler::new();
    fixture.enqueue_all((0..4).map(numbered).collect()).await;
    let pool = sqlx::PgPool::connect(&fixture.database.url())
        .await
        .unwrap();
    let engine = harkara_queue::Engine::new(pool.clone(), true);
    let worker = crate::support::RunningWorker::start(
        engine,
        options_with_short_drain(3),
        blocking.handler(),
    );
    blocking.started.holds(3).await;
    let closing = tokio::spawn(async move { pool.close().await });
    blocking.permits.add_permits(1);
    blocking.ended.holds(1).await;
    worker.stop().await;
    with_timeout("the pool is closed", closing).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handler_that_blocks_its_thread_does_not_delay_the_stop() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(job()).await.id();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let started = Log::new();
    let log_copy = started.clone();
    let worker = fixture.start_worker_with(
        options_with_short_drain(1),
        handler(move |_| {
            log_copy.write(());
            let _ = released.lock().unwrap().recv();
            async { Verdict::done() }
        }),
    );
    started.holds(1).await;
    worker.stop().await;
    drop(release);
    // Its outcome arrives too late: the job is rescued when the lease expires.
    assert_eq!(fixture.state(id).await, JobState::Running);
    fixture
        .execute("update queue.leases set expires_at = now()")
        .await;
    assert_eq!(fixture.engine.rescue().await.unwrap().jobs, 1);
}

#[tokio::test]
async fn worker_without_a_database_stops() {
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(Duration::from_secs(1))
        .connect_lazy("postgres://role@127.0.0.1:1/nothing")
        .unwrap();
    let engine = harkara_queue::Engine::new(pool, true);
    let worker = crate::support::RunningWorker::start(
        engine,
        options_with_short_drain(3),
        succeeding_handler(),
    );
    tokio::task::yield_now().await;
    worker.stop().await;
}

#[tokio::test]
async fn thousands_of_unwritable_outcomes_do_not_block_the_stop() {
    let fixture = Fixture::new().await;
    let blocking = BlockingHandler::new();
    let all: Vec<u64> = (0..3000).collect();
    fixture
        .enqueue_all(all.iter().copied().map(numbered).collect())
        .await;
    let worker = fixture.start_worker_with(options_with_short_drain(3000), blocking.handler());
    blocking.started.holds(3000).await;
    let block_job_statements = block_job_statements(&fixture).await;
    blocking.permits.add_permits(3000);
    blocking.ended.holds(3000).await;
    worker.stop().await;
    drop(block_job_statements);

    // No job is lost: those with unwritten outcomes run again once the lease expires.
    fixture
        .execute("update queue.leases set expires_at = now() - interval '1 second'")
        .await;
    fixture.engine.rescue().await.unwrap();
    blocking.permits.add_permits(3000);
    let next = fixture.start_worker_with(options(&[(QUEUE, 500)]), blocking.handler());
    fixture.wait_until_idle().await;
    next.stop().await;
    assert_eq!(fixture.jobs("d").await, 3000);
}
