//! Database outages while a worker runs: it survives all of them and loses nothing.

use std::sync::Arc;
use std::time::Duration;

use harkara_queue::job::{JobState, NewJob};
use harkara_queue::{Engine, Quota, Verdict, WorkerOptions};
use harkara_shared::database::query_scalar;
use harkara_test_database::OwnCluster;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::Semaphore;

use crate::support::{
    Fixture, Log, QUEUE, RunningWorker, count_jobs, handler, job, number, numbered, options,
    succeeding_handler, until, with_timeout,
};

/// A pool that is identified by its application name.
fn named_pool(url: &str) -> PgPool {
    let options: PgConnectOptions = url.parse().unwrap();
    PgPoolOptions::new()
        .max_connections(10)
        .connect_lazy_with(options.application_name("worker under test"))
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_with_repeatedly_cut_connections_runs_every_job_once() {
    const JOBS: u64 = 5_000;
    let fixture = Fixture::new().await;
    let all: Vec<NewJob> = (0..JOBS).map(numbered).collect();
    for batch in all.chunks(500) {
        fixture.enqueue_all(batch.to_vec()).await;
    }
    let runs = Log::new();
    let go = Arc::new(Semaphore::new(0));
    let (log_copy, permits) = (runs.clone(), Arc::clone(&go));
    let engine = Engine::new(named_pool(&fixture.database.url()), true);
    let worker = RunningWorker::start(
        engine,
        options(&[(QUEUE, 32)]),
        handler(move |run| {
            let (log_copy, permits) = (log_copy.clone(), Arc::clone(&permits));
            async move {
                permits.acquire().await.unwrap().forget();
                log_copy.write(number(&run));
                Verdict::done()
            }
        }),
    );
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name = 'worker under test'";
    let mut seen = 0;
    while seen < usize::try_from(JOBS).unwrap() {
        go.add_permits(100);
        seen += 100;
        runs.holds(seen).await;
        // The worker can have no connection for a moment, after it has lost one.
        until("a connection is cut", async || fixture.count(cut).await > 0).await;
    }
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_eq!(fixture.jobs_at("d", 1).await, i64::try_from(JOBS).unwrap());
    assert_eq!(
        fixture.count("select count(*) from queue.leases").await,
        1,
        "no lease may be lost"
    );
    let mut runs = runs.read();
    runs.sort_unstable();
    assert_eq!(runs, (0..JOBS).collect::<Vec<u64>>());
}

/// Lets a worker run `jobs` jobs while its server crashes twice, each time after `stretch` more runs, at
/// full speed or with a concurrency of 16. Returns the number of repeated runs.
async fn crash_twice(jobs: u64, stretch: usize, fast: bool) -> usize {
    let mut cluster = OwnCluster::start().await;
    let pool = cluster.pool();
    let engine = Engine::new(pool.clone(), true);
    let tenant = harkara_shared::id::TenantId::new();
    let mut tx = pool.begin().await.unwrap();
    engine
        .enqueue_all(
            &mut tx,
            tenant,
            (0..jobs).map(numbered).collect(),
            Quota::Skip,
        )
        .await
        .unwrap();
    tx.commit().await.unwrap();

    let plenty = Semaphore::MAX_PERMITS / 2;
    let runs = Log::new();
    let go = Arc::new(Semaphore::new(if fast { plenty } else { 0 }));
    let (log_copy, permits) = (runs.clone(), Arc::clone(&go));
    let worker = RunningWorker::start(
        engine.clone(),
        WorkerOptions {
            lease: Duration::from_secs(3),
            ..options(&[(QUEUE, 16)])
        },
        handler(move |run| {
            let (log_copy, permits) = (log_copy.clone(), Arc::clone(&permits));
            async move {
                permits.acquire().await.unwrap().forget();
                log_copy.write(number(&run));
                Verdict::done()
            }
        }),
    );
    for stop in 1..=2 {
        while !fast && runs.len() < stretch * stop {
            let next = runs.len() + 16;
            go.add_permits(16);
            runs.holds(next).await;
        }
        runs.holds(stretch * stop).await;
        cluster.stop_immediate().await;
        cluster.start_again().await;
    }
    go.add_permits(plenty);
    let left = "select count(*) from queue.parcels where state in ('s', 'a', 'r')";
    until("all jobs finish", async || {
        matches!(query_scalar::<i64>(left).fetch_one(&pool).await, Ok(0))
    })
    .await;
    worker.stop().await;
    let succeeded = count_jobs(&pool, "d", None).await.unwrap();
    assert_eq!(succeeded, i64::try_from(jobs).unwrap());
    let mut runs = runs.read();
    let again = runs.len() - usize::try_from(jobs).unwrap();
    runs.sort_unstable();
    runs.dedup();
    assert_eq!(
        runs,
        (0..jobs).collect::<Vec<u64>>(),
        "each job must run at least once"
    );
    again
}

// Only jobs in flight at a crash can run again: prefetched or running ones, and unwritten outcomes.

#[tokio::test(flavor = "multi_thread")]
async fn server_crash_and_recovery_loses_no_job() {
    let again = crash_twice(60_000, 4000, true).await;
    assert!(again <= 2 * (16 + 2048 + 8192), "{again} repeated runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_repeats_few_slow_runs() {
    let again = crash_twice(2000, 400, false).await;
    assert!(again <= 2 * (16 + 500), "{again} repeated runs");
}

#[tokio::test]
async fn worker_started_before_its_database_begins_when_it_appears() {
    let mut cluster = OwnCluster::start().await;
    let pool = cluster.pool();
    let engine = Engine::new(pool.clone(), true);
    let tenant = harkara_shared::id::TenantId::new();
    let mut connection = pool.acquire().await.unwrap();
    let id = engine
        .enqueue(&mut connection, tenant, job(), Quota::Skip)
        .await
        .unwrap()
        .id();
    drop(connection);
    cluster.stop_immediate().await;
    let runs = Log::new();
    let log_copy = runs.clone();
    let worker = RunningWorker::start(
        engine,
        options(&[(QUEUE, 1)]),
        handler(move |run| {
            log_copy.write(run.job.id);
            async { Verdict::done() }
        }),
    );
    cluster.start_again().await;
    runs.holds(1).await;
    worker.stop().await;
    assert_eq!(runs.read(), [id]);
}

#[tokio::test]
async fn queue_whose_id_cannot_be_read_at_first_is_served_later() {
    let fixture = Fixture::new().await;
    fixture.execute("create sequence public.refusals").await;
    fixture
        .execute(
            "create function public.refuse() returns trigger language plpgsql as $$
             begin perform nextval('public.refusals'); raise exception 'not now'; end $$",
        )
        .await;
    fixture
        .execute(
            "create trigger refuse before insert on queue.queues
             for each row when (new.name = 'second') execute function public.refuse()",
        )
        .await;
    let worker = fixture.start_worker_with(
        options(&[("first", 1), ("second", 1)]),
        succeeding_handler(),
    );
    until("the worker has been refused", async || {
        fixture
            .count("select last_value - 1 + is_called::int from public.refusals")
            .await
            >= 1
    })
    .await;
    fixture.execute("drop trigger refuse on queue.queues").await;
    for queue in ["first", "second"] {
        let id = fixture
            .enqueue(NewJob {
                queue: queue.to_owned(),
                ..job()
            })
            .await
            .id();
        fixture.wait_for_state(id, JobState::Succeeded).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn outcome_waits_for_an_unavailable_database() {
    let fixture = Fixture::new().await;
    let permits = Arc::new(Semaphore::new(0));
    let handler_permits = permits.clone();
    let pool = named_pool(&fixture.database.url());
    let worker = RunningWorker::start(
        Engine::new(pool, true),
        options(&[(QUEUE, 1)]),
        handler(move |_| {
            let permits = handler_permits.clone();
            async move {
                permits.acquire().await.unwrap().forget();
                Verdict::done()
            }
        }),
    );
    let id = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(id, JobState::Running).await;
    // The worker's connections are cut as fast as it opens them while the run ends.
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name = 'worker under test'";
    let mut cuts = fixture.count(cut).await;
    permits.add_permits(1);
    with_timeout("the connections are cut", async {
        while cuts < 30 {
            cuts += fixture.count(cut).await;
        }
    })
    .await;
    assert_eq!(
        fixture
            .wait_for_state(id, JobState::Succeeded)
            .await
            .attempt,
        1
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_with_unwritten_outcomes_stops_claiming() {
    const SLOTS: usize = 4;
    const JOBS: usize = 30_000;
    let fixture = Fixture::new().await;
    let first = fixture.enqueue(numbered(0)).await.id();
    let (started, go) = (Log::new(), Arc::new(Semaphore::new(0)));
    let (log_copy, permits) = (started.clone(), Arc::clone(&go));
    let worker = fixture.start_worker_with(
        options(&[(QUEUE, u32::try_from(SLOTS).unwrap())]),
        handler(move |run| {
            log_copy.write(number(&run));
            let permits = Arc::clone(&permits);
            async move {
                permits.acquire().await.unwrap().forget();
                Verdict::done()
            }
        }),
    );
    started.holds(1).await;
    // The running job's row is locked: its outcome cannot be written, but claims continue.
    let mut holder = fixture.pool().begin().await.unwrap();
    query_scalar::<i64>("select id from queue.parcels for update")
        .fetch_one(&mut *holder)
        .await
        .unwrap();
    fixture
        .enqueue_all((1..u64::try_from(JOBS).unwrap()).map(numbered).collect())
        .await;
    go.add_permits(JOBS);
    let all = tokio::time::timeout(Duration::from_secs(1), started.holds(JOBS)).await;
    assert!(all.is_err(), "all jobs ran although no outcome was written");

    drop(holder);
    started.holds(JOBS).await;
    fixture.wait_until_idle().await;
    assert_eq!(fixture.state(first).await, JobState::Succeeded);
    worker.stop().await;
}
