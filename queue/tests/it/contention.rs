//! Unique keys requested by many callers concurrently.

use harkara_queue::job::{Enqueued, JobState, NewJob, Unique};
use harkara_queue::{Quota, Verdict};
use harkara_shared::database::{TenantTx, query_scalar};
use rand::seq::SliceRandom;
use tokio::task::JoinSet;

use crate::support::{Fixture, TEST_TIMEOUT, handler, job, until, with_timeout};

fn keyed(key: &str) -> NewJob {
    NewJob {
        unique: Some(Unique {
            key: key.to_owned(),
            hold: None,
        }),
        ..job()
    }
}

#[tokio::test]
async fn second_transaction_with_the_same_key_waits_for_the_first() {
    let fixture = Fixture::new().await;
    // Names are interned on separate connections; done first, so that only the key causes a wait.
    fixture.enqueue(job()).await;
    for commits in [true, false] {
        let key = format!("key-{commits}");
        let mut first = fixture.tx().await;
        let held = fixture
            .engine
            .enqueue(&mut first, fixture.tenant, keyed(&key), Quota::Skip)
            .await
            .unwrap()
            .id();
        let (engine, pool, tenant) = (fixture.engine.clone(), fixture.pool(), fixture.tenant);
        let second = tokio::spawn(async move {
            let mut tx = TenantTx::begin(&pool, tenant).await.unwrap();
            let answer = engine
                .enqueue(&mut tx, tenant, keyed(&key), Quota::Skip)
                .await
                .unwrap();
            tx.commit().await.unwrap();
            answer
        });
        until("the second transaction waits for the first", async || {
            fixture
                .count(
                    "select count(*) from pg_stat_activity
                     where datname = current_database() and wait_event_type = 'Lock'",
                )
                .await
                == 1
        })
        .await;
        if commits {
            first.commit().await.unwrap();
            assert_eq!(
                with_timeout("the second enqueue returns", second)
                    .await
                    .unwrap(),
                Enqueued::Existing(held)
            );
        } else {
            drop(first);
            assert!(matches!(
                with_timeout("the second enqueue returns", second)
                    .await
                    .unwrap(),
                Enqueued::New(_)
            ));
        }
    }
}

#[tokio::test]
async fn open_transaction_with_a_duplicate_does_not_delay_the_key_holder() {
    let fixture = Fixture::new().await;
    let first = fixture.enqueue(keyed("a")).await.id();
    let mut open = fixture.tx().await;
    let answer = fixture
        .engine
        .enqueue(&mut open, fixture.tenant, keyed("a"), Quota::Skip)
        .await
        .unwrap();
    assert_eq!(answer, Enqueued::Existing(first));

    let worker = fixture.start_worker(handler(async |_| Verdict::done()));
    fixture.wait_for_state(first, JobState::Succeeded).await;
    open.commit().await.unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_callers_with_the_same_keys_create_one_job_per_key() {
    let fixture = Fixture::new().await;
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (engine, pool, tenant) = (fixture.engine.clone(), fixture.pool(), fixture.tenant);
        callers.spawn(async move {
            let mut new = 0;
            for _ in 0..20 {
                let mut keys: Vec<usize> = (0..400).collect();
                keys.shuffle(&mut rand::rng());
                let batch = keys[..150]
                    .iter()
                    .map(|key| keyed(&format!("k{key}")))
                    .collect();
                let mut tx = TenantTx::begin(&pool, tenant).await.unwrap();
                let answers = engine
                    .enqueue_all(&mut tx, tenant, batch, Quota::Skip)
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
                new += answers
                    .iter()
                    .filter(|a| matches!(a, Enqueued::New(_)))
                    .count();
            }
            new
        });
    }
    let new: usize = tokio::time::timeout(TEST_TIMEOUT, callers.join_all())
        .await
        .unwrap()
        .iter()
        .sum();
    let keys = fixture
        .count("select count(*) from queue.unique_keys")
        .await;
    assert!(keys <= 400);
    assert_eq!(i64::try_from(new).unwrap(), keys);
    assert_eq!(
        fixture.count("select count(*) from queue.parcels").await,
        keys
    );
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    let deadlocks: i64 = query_scalar(deadlocks)
        .fetch_one(&fixture.pool())
        .await
        .unwrap();
    assert_eq!(deadlocks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_and_workers_contending_for_keys_finish_every_job() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |_| Verdict::done()));
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let (engine, pool, tenant) = (fixture.engine.clone(), fixture.pool(), fixture.tenant);
        callers.spawn(async move {
            for _ in 0..40 {
                let mut keys: Vec<usize> = (0..40).collect();
                keys.shuffle(&mut rand::rng());
                let batch = keys[..20]
                    .iter()
                    .map(|key| keyed(&format!("k{key}")))
                    .collect();
                let mut tx = TenantTx::begin(&pool, tenant).await.unwrap();
                engine
                    .enqueue_all(&mut tx, tenant, batch, Quota::Skip)
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
            }
        });
    }
    with_timeout("the callers finish", callers.join_all()).await;
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_eq!(
        fixture
            .count("select count(*) from queue.unique_keys")
            .await,
        0
    );
    let unfinished = "select count(*) from queue.parcels where state <> 'd'";
    assert_eq!(fixture.count(unfinished).await, 0);
}
