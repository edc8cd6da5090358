//! Unique keys: one live job per key, under any concurrency.

use std::time::Duration;

use harkara_queue::job::{Enqueued, JobState, NewJob, Unique};
use harkara_queue::{ChangeOutcome, Quota, Verdict};
use harkara_shared::id::JobId;
use tokio::sync::Semaphore;

use crate::support::{Fixture, error, failed, handler, job};

fn keyed(key: &str) -> NewJob {
    NewJob {
        unique: Some(Unique {
            key: key.to_owned(),
            hold: None,
        }),
        ..job()
    }
}

fn held(key: &str, hold: Duration) -> NewJob {
    NewJob {
        unique: Some(Unique {
            key: key.to_owned(),
            hold: Some(hold),
        }),
        ..job()
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn unique_key_identifies_one_job_of_its_tenant_and_kind() {
    let fixture = Fixture::new().await;
    let first = fixture.enqueue(keyed("a")).await;
    assert!(matches!(first, Enqueued::New(_)));
    assert_eq!(
        fixture.enqueue(keyed("a")).await,
        Enqueued::Existing(first.id())
    );
    let other_kind = NewJob {
        kind: "test.other".to_owned(),
        ..keyed("a")
    };
    assert!(matches!(
        fixture.enqueue(other_kind).await,
        Enqueued::New(_)
    ));
    let other_tenant = harkara_shared::id::TenantId::new();
    let theirs = fixture.enqueue_for(other_tenant, vec![keyed("a")]).await;
    assert!(matches!(theirs[..], [Enqueued::New(_)]));
    assert_eq!(fixture.count("select count(*) from queue.parcels").await, 3);
}

#[tokio::test]
async fn duplicates_within_a_batch_and_a_transaction_return_the_first_job() {
    let fixture = Fixture::new().await;
    let mut tx = fixture.tx().await;
    let one = fixture
        .engine
        .enqueue(&mut tx, fixture.tenant, keyed("b"), Quota::Skip)
        .await
        .unwrap();
    let batch = vec![
        keyed("a"),
        keyed("b"),
        job(),
        keyed("a"),
        keyed("c"),
        keyed("a"),
    ];
    let answers = fixture
        .engine
        .enqueue_all(&mut tx, fixture.tenant, batch, Quota::Skip)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let ids: Vec<JobId> = answers.iter().map(|answer| answer.id()).collect();
    assert_eq!(
        answers,
        [
            Enqueued::New(ids[0]),
            Enqueued::Existing(one.id()),
            Enqueued::New(ids[2]),
            Enqueued::Existing(ids[0]),
            Enqueued::New(ids[4]),
            Enqueued::Existing(ids[0]),
        ]
    );
    assert_eq!(fixture.count("select count(*) from queue.parcels").await, 4);
}

#[tokio::test]
async fn unique_key_is_released_after_every_final_state() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |run| match run.job.payload().get() {
        "\"succeed\"" => Verdict::done(),
        "\"bury\"" => Verdict::Dead {
            error: error("buried"),
        },
        "\"exhaust\"" => failed("failed"),
        _ => {
            std::future::pending::<()>().await;
            Verdict::done()
        }
    }));
    for (how, state) in [
        ("succeed", JobState::Succeeded),
        ("bury", JobState::Dead),
        ("exhaust", JobState::Dead),
        ("wait", JobState::Cancelled),
    ] {
        let payload = serde_json::value::to_raw_value(how).unwrap();
        let id = fixture
            .enqueue(NewJob {
                payload,
                ..keyed(how)
            })
            .await
            .id();
        if how == "wait" {
            fixture.wait_for_state(id, JobState::Running).await;
            assert_eq!(fixture.enqueue(keyed(how)).await, Enqueued::Existing(id));
            let mut tx = fixture.tx().await;
            fixture.engine.cancel(&mut tx, id).await.unwrap();
            tx.commit().await.unwrap();
        }
        fixture.wait_for_state(id, state).await;
        let next = NewJob {
            run_at: Some(fixture.now().await + HOUR),
            ..keyed(how)
        };
        let next = fixture.enqueue(next).await;
        assert!(matches!(next, Enqueued::New(_)), "{how}: {next:?}");
        // The same for a job cancelled while it waits.
        let mut tx = fixture.tx().await;
        let cancelled = fixture.engine.cancel(&mut tx, next.id()).await.unwrap();
        assert_eq!(cancelled, ChangeOutcome::Applied(JobState::Cancelled));
        tx.commit().await.unwrap();
        assert_eq!(
            fixture
                .count("select count(*) from queue.unique_keys")
                .await,
            0,
            "{how}"
        );
    }
    worker.stop().await;
}

#[tokio::test]
async fn unique_key_hold_lasts_its_full_time_in_every_job_state() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |_| Verdict::Dead {
        error: error("buried"),
    }));
    let first = fixture.enqueue(held("a", HOUR)).await.id();
    fixture.wait_for_state(first, JobState::Dead).await;
    assert_eq!(
        fixture.enqueue(held("a", HOUR)).await,
        Enqueued::Existing(first)
    );

    // After a retry and another finish, it holds its key for the rest of the same hour.
    let until_then = "select extract(epoch from expires_at)::int8 from queue.unique_keys";
    let before = fixture.count(until_then).await;
    let mut tx = fixture.tx().await;
    let retried = fixture.engine.retry(&mut tx, first).await.unwrap();
    assert_eq!(retried, ChangeOutcome::Applied(JobState::Ready));
    tx.commit().await.unwrap();
    fixture.wait_for_state(first, JobState::Dead).await;
    assert_eq!(fixture.count(until_then).await, before);
    assert_eq!(
        fixture.enqueue(held("a", HOUR)).await,
        Enqueued::Existing(first)
    );

    fixture
        .execute("update queue.unique_keys set expires_at = now() - interval '1 second'")
        .await;
    assert!(matches!(
        fixture.enqueue(held("a", HOUR)).await,
        Enqueued::New(_)
    ));
    worker.stop().await;
}

#[tokio::test]
async fn expired_hold_releases_the_key_of_a_waiting_job() {
    let fixture = Fixture::new().await;
    let first = fixture.enqueue(held("a", HOUR)).await.id();
    fixture
        .execute("update queue.unique_keys set expires_at = now() - interval '1 second'")
        .await;
    let second = fixture.enqueue(keyed("a")).await;
    assert!(matches!(second, Enqueued::New(_)));
    // The end of the first job does not release the key that the second job holds now.
    let mut tx = fixture.tx().await;
    fixture.engine.cancel(&mut tx, first).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        fixture.enqueue(keyed("a")).await,
        Enqueued::Existing(second.id())
    );
}

#[tokio::test]
async fn dead_job_cannot_reclaim_its_key_from_the_current_holder() {
    let fixture = Fixture::new().await;
    let permits = std::sync::Arc::new(Semaphore::new(0));
    let handler_permits = std::sync::Arc::clone(&permits);
    let worker = fixture.start_worker(handler(move |run| {
        let permits = std::sync::Arc::clone(&handler_permits);
        async move {
            if run.job.payload().get() == "0" {
                return Verdict::Dead {
                    error: error("buried"),
                };
            }
            permits.acquire().await.unwrap().forget();
            Verdict::done()
        }
    }));
    let dead = fixture.enqueue(keyed("a")).await.id();
    fixture.wait_for_state(dead, JobState::Dead).await;
    let payload = serde_json::value::to_raw_value("wait").unwrap();
    let holder = fixture
        .enqueue(NewJob {
            payload,
            ..keyed("a")
        })
        .await
        .id();

    let mut tx = fixture.tx().await;
    let refused = fixture.engine.retry(&mut tx, dead).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(refused, ChangeOutcome::KeyTaken(holder));
    assert_eq!(fixture.state(dead).await, JobState::Dead);

    permits.add_permits(1);
    fixture.wait_for_state(holder, JobState::Succeeded).await;
    let mut tx = fixture.tx().await;
    assert_eq!(
        fixture.engine.retry(&mut tx, dead).await.unwrap(),
        ChangeOutcome::Applied(JobState::Ready)
    );
    let again = fixture
        .engine
        .enqueue(&mut tx, fixture.tenant, keyed("a"), Quota::Skip)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        again,
        Enqueued::Existing(dead),
        "the retried job must hold its key again"
    );
    worker.stop().await;
}
