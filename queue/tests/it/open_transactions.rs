//! Effects of a transaction that enqueues by SQL and stays open: it blocks only callers that use the same new
//! name. Also the effects that queues of one worker have on each other.

use std::time::Duration;

use harkara_queue::job::{Lane, NewJob};
use harkara_queue::{Coalescer, Verdict};
use sqlx::{Executor, PgConnection};

use crate::client::Sql;
use crate::support::{
    Fixture, Log, QUEUE, handler, job, options, succeeding_handler, until, with_timeout,
};

/// Enqueues in the ordered lane `o`, under one limit at different costs.
const FIRST: &str = "select queue.enqueue('test.job', '{\"n\":1}', ordering_key => 'o',
    limits => '[{\"key\":\"x\",\"cost\":1}]')";
const SECOND: &str = "select queue.enqueue('test.job', '{\"n\":1}', ordering_key => 'o',
    limits => '[{\"key\":\"x\",\"cost\":2}]')";

/// Runs statements in a transaction of the application and leaves it open.
async fn open_transaction_with(sql: &Sql, done: &'static str) -> PgConnection {
    let mut app = sql.connect().await;
    app.execute("begin").await.unwrap();
    app.execute(done).await.unwrap();
    app
}

async fn succeeded(fixture: &Fixture, jobs: i64) {
    until("jobs succeed", async || fixture.jobs("d").await == jobs).await;
}

#[tokio::test]
async fn claims_continue_while_an_open_transaction_has_enqueued_in_the_lane() {
    let sql = Sql::new().await;
    sql.connect().await.execute(FIRST).await.unwrap();
    // Keeps lanes and limits that have been unused for a day from being deleted.
    for old in [
        "update queue.lanes set used_at = now() - interval '2 days'",
        "update queue.limiters set used_at = now() - interval '2 days'",
    ] {
        sql.fixture.execute(old).await;
    }
    let app = open_transaction_with(&sql, SECOND).await;
    let removed = sql
        .fixture
        .engine
        .retain(harkara_queue::Retention::default());
    assert_eq!(removed.await.unwrap().limits, 0);
    sql.fixture.enqueue_for(sql.other, vec![job()]).await;
    let worker = sql.fixture.start_worker(succeeding_handler());
    succeeded(&sql.fixture, 2).await;
    worker.stop().await;
    drop(app);
}

#[tokio::test]
async fn outcomes_are_written_while_an_open_transaction_has_enqueued_in_the_lane() {
    let sql = Sql::new().await;
    sql.connect().await.execute(FIRST).await.unwrap();
    let started = Log::new();
    let (log_copy, leave) = (
        started.clone(),
        std::sync::Arc::new(tokio::sync::Semaphore::new(0)),
    );
    let may = std::sync::Arc::clone(&leave);
    let worker = sql.fixture.start_worker(handler(move |_| {
        log_copy.write(());
        let may = std::sync::Arc::clone(&may);
        async move {
            may.acquire().await.unwrap().forget();
            Verdict::done()
        }
    }));
    started.holds(1).await;
    let app = open_transaction_with(&sql, SECOND).await;
    leave.add_permits(9);
    succeeded(&sql.fixture, 1).await;
    worker.stop().await;
    drop(app);
}

#[tokio::test]
async fn uncommitted_queue_name_blocks_only_callers_that_use_it() {
    let sql = Sql::new().await;
    let coalescer = Coalescer::new(&sql.fixture.engine);
    coalescer.enqueue(sql.other, job()).await.unwrap();
    let app = open_transaction_with(
        &sql,
        "select queue.enqueue('test.job', '{\"n\":1}', ordering_key => 'fresh')",
    )
    .await;
    let (same, tenant) = (coalescer.clone(), sql.fixture.tenant);
    let waits = tokio::spawn(async move {
        let fresh = NewJob {
            lane: Lane::Ordered("fresh".to_owned()),
            ..job()
        };
        same.enqueue(tenant, fresh).await
    });
    until("the call waits for the name", async || {
        sql.fixture
            .count("select count(*) from pg_locks where not granted")
            .await
            > 0
    })
    .await;
    let other = coalescer.enqueue(sql.other, job());
    with_timeout("the call of another tenant returns", other)
        .await
        .unwrap();
    // It gets a retryable error soon.
    let refused = with_timeout("the call with the new name returns", waits).await;
    assert!(refused.unwrap().is_err());
    drop(app);
}

#[tokio::test]
async fn queue_of_large_payloads_leaves_memory_for_other_queues() {
    let fixture = Fixture::new().await;
    let large = NewJob {
        queue: "large".to_owned(),
        payload: serde_json::value::to_raw_value(&"x".repeat(250_000)).unwrap(),
        ..job()
    };
    for _ in 0..10 {
        fixture.enqueue_all(vec![large.clone(); 20]).await;
    }
    let ran = Log::new();
    let log_copy = ran.clone();
    let mut options = options(&[("large", 100), (QUEUE, 8)]);
    options.memory = 6 << 20;
    let worker = fixture.start_worker_with(
        options,
        handler(move |run| {
            let is_large = run.job.payload().get().len() > 1000;
            log_copy.write(is_large);
            async move {
                if is_large {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Verdict::done()
            }
        }),
    );
    ran.holds(10).await;
    fixture.enqueue(job()).await;
    until("the small job runs", async || ran.read().contains(&false)).await;
    let position = ran.read().iter().position(|is_large| !is_large);
    assert!(
        position < Some(100),
        "the small job ran after {position:?} of 200 large jobs"
    );
    worker.stop().await;
}
