//! Retention: old jobs are deleted with everything that belongs to them, the rest is kept.

use std::time::Duration;

use harkara_queue::job::{Enqueued, JobState, NewJob, Unique};
use harkara_queue::{ChangeOutcome, Removed, Retention, Verdict};
use harkara_shared::id::JobId;

use crate::cancel::{cancel, retry};
use crate::lost_workers::{assert_at_rest, named, ordered};
use crate::support::{Fixture, error, handler, job, number, numbered, succeeding_handler};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// One tagged job in each final state, with a unique key held for ten days.
async fn finished_jobs(fixture: &Fixture) -> [JobId; 3] {
    let worker = fixture.start_worker(handler(async |run| match number(&run) {
        0 => Verdict::done(),
        1 => Verdict::Cancelled,
        _ => Verdict::Dead {
            error: error("gone"),
        },
    }));
    let jobs = (0..3).map(|n| NewJob {
        tags: vec!["red".to_owned()],
        unique: Some(Unique {
            key: format!("k{n}"),
            hold: Some(DAY * 10),
        }),
        ..numbered(n)
    });
    let ids: Vec<JobId> = fixture
        .enqueue_all(jobs.collect())
        .await
        .iter()
        .map(|a| a.id())
        .collect();
    fixture.wait_until_idle().await;
    worker.stop().await;
    [ids[0], ids[1], ids[2]]
}

#[tokio::test]
async fn old_jobs_are_deleted_with_their_labels_and_keys_and_recent_ones_stay() {
    let fixture = Fixture::new().await;
    let old = finished_jobs(&fixture).await;
    fixture
        .execute(
            "update queue.parcels set finished_at = now() - case state
                when 'x' then interval '31 days' else interval '8 days' end",
        )
        .await;
    fixture
        .execute("update queue.unique_keys set expires_at = now() - interval '1 second'")
        .await;
    fixture
        .execute("update queue.workers set last_seen_at = now() - interval '31 days'")
        .await;
    let at = fixture.now().await + chrono::Duration::days(400);
    let waiting = fixture
        .enqueue(NewJob {
            run_at: Some(at),
            ..job()
        })
        .await
        .id();
    fixture
        .execute(
            "update queue.parcels set created_at = now() - interval '400 days' where state = 's'",
        )
        .await;
    let young = recently_dead(&fixture).await;

    let removed = fixture.engine.retain(Retention::default()).await.unwrap();
    assert_eq!(
        removed,
        Removed {
            jobs: 3,
            workers: 1,
            ..Removed::default()
        }
    );
    let mut tx = fixture.tx().await;
    for id in old {
        assert!(
            harkara_queue::read::job(&mut tx, id)
                .await
                .unwrap()
                .is_none()
        );
    }
    drop(tx);
    assert_eq!(fixture.state(waiting).await, JobState::Scheduled);
    assert_eq!(fixture.state(young).await, JobState::Dead);
    // Only the labels and keys of the recent job are left.
    assert_eq!(fixture.count("select count(*) from queue.labels").await, 2);
    assert_eq!(
        fixture
            .count("select count(*) from queue.unique_keys")
            .await,
        1
    );
    assert_eq!(fixture.count("select count(*) from queue.workers").await, 1);

    let again = fixture.engine.retain(Retention::default()).await.unwrap();
    assert_eq!(again, Removed::default());
}

/// A job that died eight days ago: past the retention of successes, within that of dead jobs.
async fn recently_dead(fixture: &Fixture) -> JobId {
    let worker = fixture.start_worker(handler(async |_| Verdict::Dead {
        error: error("gone"),
    }));
    let young = NewJob {
        tags: vec!["red".to_owned()],
        unique: Some(Unique {
            key: "young".to_owned(),
            hold: Some(DAY),
        }),
        ..job()
    };
    let id = fixture.enqueue(young).await.id();
    fixture.wait_for_state(id, JobState::Dead).await;
    worker.stop().await;
    fixture
        .execute(
            "update queue.parcels set finished_at = now() - interval '8 days'
             where state = 'x' and finished_at > now() - interval '1 day'",
        )
        .await;
    id
}

#[tokio::test]
async fn job_whose_key_is_still_held_is_kept() {
    let fixture = Fixture::new().await;
    let old = finished_jobs(&fixture).await;
    fixture
        .execute("update queue.parcels set finished_at = now() - interval '31 days'")
        .await;
    assert_eq!(
        fixture.engine.retain(Retention::default()).await.unwrap(),
        Removed::default()
    );
    for (n, id) in old.iter().enumerate() {
        let unique = Some(Unique {
            key: format!("k{n}"),
            hold: Some(DAY * 10),
        });
        let answer = fixture.enqueue(NewJob { unique, ..job() }).await;
        assert_eq!(answer, Enqueued::Existing(*id));
        fixture.job(*id).await;
    }
    fixture
        .execute("update queue.unique_keys set expires_at = now() - interval '1 second'")
        .await;
    assert_eq!(
        fixture
            .engine
            .retain(Retention::default())
            .await
            .unwrap()
            .jobs,
        3
    );
    assert_eq!(
        fixture
            .count("select count(*) from queue.unique_keys")
            .await,
        0
    );
}

#[tokio::test]
async fn retention_removes_more_than_one_batch_in_a_call() {
    let fixture = Fixture::new().await;
    fixture.enqueue_all((0..2500).map(numbered).collect()).await;
    fixture
        .execute("update queue.parcels set state = 'd', finished_at = now() - interval '8 days'")
        .await;
    assert_eq!(
        fixture
            .engine
            .retain(Retention::default())
            .await
            .unwrap()
            .jobs,
        2500
    );
    assert_eq!(fixture.count("select count(*) from queue.parcels").await, 0);
}

#[tokio::test]
async fn expired_keys_are_deleted_without_their_jobs() {
    let fixture = Fixture::new().await;
    for (key, hold) in [("a", Some(DAY)), ("b", None), ("c", Some(DAY))] {
        let unique = Some(Unique {
            key: key.to_owned(),
            hold,
        });
        fixture.enqueue(NewJob { unique, ..job() }).await;
    }
    fixture
        .execute(
            "update queue.unique_keys set expires_at = now() - interval '1 second' where key = 'a'",
        )
        .await;
    assert_eq!(
        fixture
            .engine
            .retain(Retention::default())
            .await
            .unwrap()
            .unique_keys,
        1
    );
    assert_eq!(
        fixture
            .count("select count(*) from queue.unique_keys")
            .await,
        2
    );
    assert_eq!(fixture.count("select count(*) from queue.parcels").await, 3);
}

#[tokio::test]
async fn attempt_partitions_are_created_and_dropped_by_day() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "create table queue.attempts_20200101 partition of queue.attempts
             for values from ('2020-01-01 00:00+00') to ('2020-01-02 00:00+00')",
        )
        .await;
    fixture
        .execute(
            "do $$ begin execute format('drop table queue.attempts_%s',
                to_char((now() at time zone 'utc')::date + 3, 'YYYYMMDD')); end $$",
        )
        .await;
    fixture
        .execute(
            "insert into queue.attempts (job_id, tenant, started_at, finished_at, outcome)
             select 1024, 1, at, at, 'lost'
             from unnest(array[now() - interval '40 days', now() - interval '20 days', now()]) at",
        )
        .await;
    let days = "select count(*) from pg_inherits where inhparent = 'queue.attempts'::regclass";
    assert_eq!(fixture.count(days).await, 9);

    // Two concurrent calls, as of two schedulers.
    let (one, other) = tokio::join!(
        fixture.engine.retain(Retention::default()),
        fixture.engine.retain(Retention::default()),
    );
    assert_eq!(one.unwrap().attempt_days + other.unwrap().attempt_days, 1);
    assert_eq!(
        fixture.count(days).await,
        9,
        "today, seven more days and the default partition"
    );
    let guarded = "select count(*) from pg_class c join pg_inherits i on i.inhrelid = c.oid
        where i.inhparent = 'queue.attempts'::regclass
          and c.relrowsecurity and c.relforcerowsecurity";
    assert_eq!(fixture.count(guarded).await, 9);
    assert_eq!(
        fixture.count("select count(*) from queue.attempts").await,
        2
    );
    assert_eq!(
        fixture.engine.retain(Retention::default()).await.unwrap(),
        Removed::default()
    );
}

#[tokio::test]
async fn day_with_attempts_in_the_default_partition_does_not_stop_retention() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "do $$ begin execute format('drop table queue.attempts_%s',
                to_char((now() at time zone 'utc')::date, 'YYYYMMDD')); end $$",
        )
        .await;
    let attempt = "insert into queue.attempts (job_id, tenant, started_at, finished_at, outcome)
        values (1024, 1, now(), now(), 'lost')";
    fixture.execute(attempt).await;
    fixture.engine.retain(Retention::default()).await.unwrap();
    fixture.execute(attempt).await;
    assert_eq!(
        fixture.count("select count(*) from queue.attempts").await,
        2
    );
}

#[tokio::test]
async fn job_can_be_retried_long_after_its_lane_was_deleted() {
    let fixture = Fixture::new().await;
    let jobs = vec![named("dead", 1), ordered("ordered", 1), named("none", 0)];
    let answers = fixture.enqueue_all(jobs).await;
    let ids: Vec<JobId> = answers.iter().map(|answer| answer.id()).collect();
    let worker = fixture.start_worker(handler(async |run| match number(&run) {
        0 => Verdict::done(),
        _ => Verdict::Dead {
            error: error("gone"),
        },
    }));
    fixture.wait_until_idle().await;
    worker.stop().await;
    let cancelled = fixture.enqueue(named("cancelled", 0)).await.id();
    cancel(&fixture, cancelled).await;
    fixture
        .execute("update queue.lanes set used_at = now() - interval '2 days'")
        .await;
    let removed = fixture.engine.retain(Retention::default()).await.unwrap();
    assert_eq!(removed.lanes, 1, "only the lane whose jobs cannot return");
    for id in [ids[0], ids[1], cancelled] {
        assert_eq!(
            retry(&fixture, id).await,
            ChangeOutcome::Applied(JobState::Ready)
        );
    }
    let worker = fixture.start_worker(succeeding_handler());
    for id in [ids[0], ids[1], cancelled] {
        fixture.wait_for_state(id, JobState::Succeeded).await;
    }
    worker.stop().await;
    assert_at_rest(&fixture).await;
}
