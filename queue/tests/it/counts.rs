//! Job counters: exact at every moment, before, during and after a rollup; and the history they leave.

use std::time::Duration;

use chrono::TimeDelta;
use harkara_queue::read::QueueCounts;
use harkara_queue::read::stats::{StatsFilter, StatsPoint, StatsRange, stats};
use harkara_shared::database::query_scalar;
use harkara_shared::id::TenantId;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::{Fixture, QUEUE, error, failed, handler, job, numbered, succeeding_handler};

/// The counters of the tenant's jobs in the default queue.
async fn counts_of(fixture: &Fixture, tenant: Option<TenantId>) -> QueueCounts {
    let queue: i32 = query_scalar("select id from queue.queues where name = $1")
        .bind(QUEUE)
        .fetch_one(&fixture.pool())
        .await
        .unwrap();
    let mut counts = fixture.engine.queue_counts(&[queue], tenant).await.unwrap();
    counts.pop().unwrap()
}

/// Creates a queue, a kind and the tenant without enqueueing a job.
async fn create_names(fixture: &Fixture) {
    fixture
        .execute("insert into queue.queues (name) values ('default')")
        .await;
    fixture
        .execute("insert into queue.kinds (name) values ('test.job')")
        .await;
    harkara_shared::database::query("insert into queue.tenants (id) values ($1)")
        .bind(fixture.tenant)
        .execute(&fixture.pool())
        .await
        .unwrap();
}

const READY: &str = "insert into queue.deltas (tenant, queue, kind, ready, enqueued)
    values (1, 1, 1, 3, 3)";

async fn minute_series(fixture: &Fixture) -> Vec<StatsPoint> {
    let now = fixture.now().await;
    let minute = Duration::from_secs(60);
    let span = StatsRange::new(now - TimeDelta::minutes(5), now, minute, now).unwrap();
    let mut tx = fixture.tx().await;
    stats(&mut tx, fixture.tenant, span, &StatsFilter::default())
        .await
        .unwrap()
}

async fn enqueued(fixture: &Fixture) -> i64 {
    minute_series(fixture)
        .await
        .iter()
        .map(|point| point.enqueued)
        .sum()
}

#[tokio::test]
async fn change_is_counted_once_before_and_after_its_rollup() {
    let fixture = Fixture::new().await;
    create_names(&fixture).await;
    for folds in 0..3 {
        fixture.execute(READY).await;
        let ready = 3 * (folds + 1);
        assert_eq!(counts_of(&fixture, Some(fixture.tenant)).await.ready, ready);
        assert_eq!(enqueued(&fixture).await, ready);
        fixture.engine.roll_up().await.unwrap();
        assert_eq!(counts_of(&fixture, Some(fixture.tenant)).await.ready, ready);
        assert_eq!(counts_of(&fixture, None).await.ready, ready);
        assert_eq!(enqueued(&fixture).await, ready);
    }
    assert_eq!(fixture.count("select count(*) from queue.deltas").await, 0);
    let stranger = counts_of(&fixture, Some(TenantId::new())).await;
    assert_eq!((stranger.ready, stranger.enqueued), (0, 0));
}

#[tokio::test]
async fn long_transaction_is_counted_once_after_its_commit() {
    let fixture = Fixture::new().await;
    create_names(&fixture).await;
    let mut writer = PgConnection::connect(&fixture.database.url())
        .await
        .unwrap();
    let mut open = writer.begin().await.unwrap();
    open.execute(READY).await.unwrap();
    // Other changes commit and are rolled up; the open transaction is skipped each time.
    for _ in 0..5 {
        fixture.execute(READY).await;
        fixture.engine.roll_up().await.unwrap();
    }
    assert_eq!(counts_of(&fixture, None).await.ready, 15);
    open.commit().await.unwrap();
    assert_eq!(counts_of(&fixture, None).await.ready, 18);
    for _ in 0..3 {
        fixture.engine.roll_up().await.unwrap();
        assert_eq!(counts_of(&fixture, None).await.ready, 18);
    }
    assert_eq!(fixture.count("select count(*) from queue.deltas").await, 0);
}

#[tokio::test]
async fn dead_rows_pinned_by_a_snapshot_are_not_read() {
    let fixture = Fixture::new().await;
    create_names(&fixture).await;
    let mut holder = PgConnection::connect(&fixture.database.url())
        .await
        .unwrap();
    let mut held = holder.begin().await.unwrap();
    held.execute("set transaction isolation level repeatable read; select 1")
        .await
        .unwrap();
    for _ in 0..4 {
        fixture
            .execute(
                "insert into queue.deltas (tenant, queue, kind, ready)
                 select 1, 1, 1, 1 from generate_series(1, 50000)",
            )
            .await;
        fixture.engine.roll_up().await.unwrap();
    }
    let mut reader = PgConnection::connect(&fixture.database.url())
        .await
        .unwrap();
    let mut tx = reader.begin().await.unwrap();
    let unfolded: i64 = query_scalar("select count(*) from queue.pending_deltas(null)")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    // The rows of the last rollup may still be read: its own transaction was open when it took its snapshot.
    let read: i64 =
        query_scalar("select pg_stat_get_xact_tuples_fetched('queue.deltas'::regclass)")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
    assert_eq!((unfolded, read), (0, 0));
    assert_eq!(counts_of(&fixture, None).await.ready, 200_000);
    held.rollback().await.unwrap();
}

#[tokio::test]
async fn rollup_runs_in_one_process_at_a_time() {
    let fixture = Fixture::new().await;
    create_names(&fixture).await;
    fixture.execute(READY).await;
    let mut other = PgConnection::connect(&fixture.database.url())
        .await
        .unwrap();
    let mut folding = other.begin().await.unwrap();
    folding
        .execute("select queue.roll_up_counters(10)")
        .await
        .unwrap();
    fixture.execute(READY).await;
    fixture.engine.roll_up().await.unwrap();
    assert_eq!(fixture.count("select count(*) from queue.deltas").await, 2);
    assert_eq!(counts_of(&fixture, None).await.ready, 6);
    folding.commit().await.unwrap();
    assert_eq!(counts_of(&fixture, None).await.ready, 6);
    fixture.engine.roll_up().await.unwrap();
    assert_eq!(counts_of(&fixture, None).await.ready, 6);
    assert_eq!(fixture.count("select count(*) from queue.deltas").await, 0);
}

#[tokio::test]
async fn many_changes_are_rolled_up_in_several_batches() {
    let fixture = Fixture::new().await;
    create_names(&fixture).await;
    fixture
        .execute(
            "insert into queue.deltas (tenant, queue, kind, ready, enqueued, waits)
             select 1, 1, 1, 1, 1, array_fill(1, array[19]) from generate_series(1, 25)",
        )
        .await;
    for left in [15, 5, 0] {
        fixture.execute("select queue.roll_up_counters(10)").await;
        assert_eq!(
            fixture.count("select count(*) from queue.deltas").await,
            left
        );
        assert_eq!(counts_of(&fixture, None).await.ready, 25);
        let points = minute_series(&fixture).await;
        let waits: i64 = points.iter().map(|point| point.waits.count()).sum();
        assert_eq!(waits, 25 * 19);
    }
}

#[tokio::test]
async fn wrong_counters_are_detected_and_corrected() {
    let fixture = Fixture::new().await;
    fixture.enqueue_all((0..20).map(numbered).collect()).await;
    fixture
        .execute("insert into queue.tallies (tenant, queue, kind, running) values (7, 7, 7, 7)")
        .await;
    fixture
        .execute("insert into queue.deltas (tenant, queue, kind, dead) values (1, 1, 1, 5)")
        .await;
    let drift = fixture.engine.drift().await.unwrap();
    assert!(
        drift
            .iter()
            .any(|one| one.state == "running" && one.recorded == 7)
    );
    assert!(fixture.engine.recount().await.unwrap() >= 2);
    fixture.assert_counts_agree().await;
    assert_eq!(counts_of(&fixture, None).await.ready, 20);
    fixture.engine.roll_up().await.unwrap();
    fixture.assert_counts_agree().await;
}

#[tokio::test]
async fn counters_restored_from_another_server_are_corrected() {
    let fixture = Fixture::new().await;
    fixture.enqueue_all((0..20).map(numbered).collect()).await;
    fixture.engine.roll_up().await.unwrap();
    fixture
        .execute("update queue.rollup_state set last_snapshot = '900000000:900000000:'")
        .await;
    fixture.execute("delete from queue.tallies").await;
    fixture.engine.roll_up().await.unwrap();
    fixture.assert_counts_agree().await;
}

#[tokio::test]
async fn history_is_kept_by_minute_then_by_hour_then_deleted() {
    let fixture = Fixture::new().await;
    create_names(&fixture).await;
    fixture
        .execute(
            "insert into queue.deltas (tenant, queue, kind, minute, started, succeeded, waits, runs)
             select 1, 1, 1, date_trunc('minute', now()) - g * interval '1 day', 1, 1,
                array_fill(1, array[19]), null
             from generate_series(0, 99) g",
        )
        .await;
    fixture.engine.roll_up().await.unwrap();
    let removed = fixture
        .engine
        .retain(harkara_queue::Retention::default())
        .await
        .unwrap();
    // Of a hundred points a day apart, three lie within the last 48 hours and 91 within the last 90 days: the
    // latest is of this minute, and the others are slightly older than whole days.
    let minutes = fixture
        .count("select count(*) from queue.history where span = 'm' and queue > 0")
        .await;
    let hours = fixture
        .count("select count(*) from queue.history where span = 'h' and queue > 0")
        .await;
    // The same number again for all queues together.
    assert_eq!(removed.history, 2 * (200 - minutes - hours));
    assert!((2..=3).contains(&minutes), "{minutes}");
    assert!((90..=91).contains(&hours), "{hours}");
    let now = fixture.now().await;
    let day = Duration::from_secs(24 * 60 * 60);
    let span = StatsRange::new(now - TimeDelta::days(80), now, day, now).unwrap();
    let mut tx = fixture.tx().await;
    let points = stats(&mut tx, fixture.tenant, span, &StatsFilter::default())
        .await
        .unwrap();
    assert!(
        points
            .iter()
            .all(|point| point.succeeded == 1 && point.waits.count() == 19)
    );
    let elsewhere = StatsFilter {
        queue: Some("none".to_owned()),
        ..StatsFilter::default()
    };
    let points = stats(&mut tx, fixture.tenant, span, &elsewhere)
        .await
        .unwrap();
    assert!(points.iter().all(|point| point.succeeded == 0));
}

#[tokio::test]
async fn age_of_the_oldest_job_excludes_jobs_that_cannot_start() {
    let fixture = Fixture::new().await;
    let mut old = job();
    old.run_at = Some(fixture.now().await - TimeDelta::hours(2));
    let mut urgent = job();
    urgent.priority = 0;
    fixture.enqueue_all(vec![urgent, old]).await;
    let age = async || {
        counts_of(&fixture, Some(fixture.tenant))
            .await
            .oldest_ready_seconds
    };
    assert!(
        age()
            .await
            .is_some_and(|age| (7200.0..9000.0).contains(&age))
    );
    assert!(
        counts_of(&fixture, None)
            .await
            .oldest_ready_seconds
            .is_some_and(|age| age >= 7200.0)
    );
    assert_eq!(
        counts_of(&fixture, Some(TenantId::new()))
            .await
            .oldest_ready_seconds,
        None
    );
    for (stop, go) in [
        (
            "update queue.queues set paused = true",
            "update queue.queues set paused = false",
        ),
        (
            "update queue.tenants set paused = true",
            "update queue.tenants set paused = false",
        ),
        (
            "update queue.lanes set paused = true",
            "update queue.lanes set paused = false",
        ),
        (
            "update queue.lanes set parked_until = now() + interval '1 hour'",
            "update queue.lanes set parked_until = null",
        ),
    ] {
        fixture.execute(stop).await;
        assert_eq!(age().await, None, "{stop}");
        fixture.execute(go).await;
        assert!(age().await.is_some(), "{go}");
    }
    fixture
        .execute("update queue.parcels set lost = true where priority = 5")
        .await;
    assert!(age().await.is_some_and(|age| age >= 7200.0));
}

// The tests below count rows written by the engine's own statements.

#[tokio::test]
async fn enqueue_triggers_a_rollup_soon_after() {
    let fixture = Fixture::new().await;
    fixture.enqueue_all((0..20).map(numbered).collect()).await;
    crate::support::until("all changes are rolled up", async || {
        fixture.count("select count(*) from queue.deltas").await == 0
            && fixture
                .count("select coalesce(sum(ready), 0)::int8 from queue.tallies")
                .await
                == 20
    })
    .await;
    fixture.assert_counts_agree().await;
}

#[tokio::test]
async fn counters_agree_with_jobs_in_every_state() {
    let fixture = Fixture::new().await;
    let mut later = numbered(500);
    later.delay = Duration::from_secs(3600);
    let mut jobs: Vec<_> = (0..500).map(numbered).collect();
    jobs.extend((0..50).map(|_| later.clone()));
    let packed = fixture.enqueue_all(jobs).await;
    fixture.assert_counts_agree().await;
    let mut alone = Vec::new();
    for nth in 0..40 {
        alone.push(fixture.enqueue(numbered(nth)).await.id());
    }
    for enqueued in packed.into_iter().step_by(7) {
        let id = enqueued.id();
        let mut tx = fixture.tx().await;
        fixture.engine.cancel(&mut tx, id).await.unwrap();
        tx.commit().await.unwrap();
    }
    fixture.assert_counts_agree().await;
    let working = fixture.start_worker(handler(async |run| {
        match crate::support::number(&run) % 5 {
            0 => failed("again"),
            1 => harkara_queue::Verdict::Dead {
                error: error("over"),
            },
            _ => harkara_queue::Verdict::done(),
        }
    }));
    crate::support::until("all due jobs have finished", async || {
        fixture.assert_counts_agree().await;
        fixture.jobs("ar").await == 0 && fixture.jobs("s").await <= 50
    })
    .await;
    working.stop().await;
    fixture.assert_counts_agree().await;
    for id in alone {
        let mut tx = fixture.tx().await;
        fixture.engine.retry(&mut tx, id).await.unwrap();
        tx.commit().await.unwrap();
    }
    fixture.assert_counts_agree().await;
    let working = fixture.start_worker(succeeding_handler());
    crate::support::until("all retried jobs have finished", async || {
        fixture.jobs("ar").await == 0
    })
    .await;
    working.stop().await;
    fixture.assert_counts_agree().await;
    fixture.engine.roll_up().await.unwrap();
    fixture.assert_counts_agree().await;
    let points = minute_series(&fixture).await;
    let sum = |of: fn(&StatsPoint) -> i64| points.iter().map(of).sum::<i64>();
    assert_eq!(sum(|point| point.enqueued), 590);
    assert_eq!(
        sum(|point| point.started),
        sum(|point| point.succeeded + point.retried + point.died)
    );
}
