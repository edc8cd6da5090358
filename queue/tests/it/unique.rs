//! Unique keys: one live job a key, however many ask at once.

use std::time::Duration;

use harkara_queue::job::{Enqueued, JobState, NewJob, Unique};
use harkara_queue::{Changed, Verdict};
use harkara_shared::database::{TenantTx, query_scalar};
use harkara_shared::id::JobId;
use rand::seq::SliceRandom;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::{PATIENCE, Stand, error, failed, handler, job, soon, until};

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
async fn a_key_names_one_job_of_its_tenant_and_kind() {
    let stand = Stand::new().await;
    let first = stand.enqueue(keyed("a")).await;
    assert!(matches!(first, Enqueued::New(_)));
    assert_eq!(
        stand.enqueue(keyed("a")).await,
        Enqueued::Existing(first.id())
    );
    let other_kind = NewJob {
        kind: "test.other".to_owned(),
        ..keyed("a")
    };
    assert!(matches!(stand.enqueue(other_kind).await, Enqueued::New(_)));
    let other_tenant = harkara_shared::id::TenantId::new();
    let theirs = stand.enqueue_for(other_tenant, vec![keyed("a")]).await;
    assert!(matches!(theirs[..], [Enqueued::New(_)]));
    assert_eq!(stand.count("select count(*) from queue.parcels").await, 3);
}

#[tokio::test]
async fn duplicates_within_a_batch_and_a_transaction_name_the_first() {
    let stand = Stand::new().await;
    let mut tx = stand.tx().await;
    let one = stand
        .engine
        .enqueue(&mut tx, stand.tenant, keyed("b"))
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
    let answers = stand
        .engine
        .enqueue_all(&mut tx, stand.tenant, batch)
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
    assert_eq!(stand.count("select count(*) from queue.parcels").await, 4);
}

#[tokio::test]
async fn a_key_is_free_again_once_its_job_has_finished_however_it_did() {
    let stand = Stand::new().await;
    let worker = stand.work(handler(async |run| match run.job.payload().get() {
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
        let id = stand
            .enqueue(NewJob {
                payload,
                ..keyed(how)
            })
            .await
            .id();
        if how == "wait" {
            stand.reaches(id, JobState::Running).await;
            assert_eq!(stand.enqueue(keyed(how)).await, Enqueued::Existing(id));
            let mut tx = stand.tx().await;
            stand.engine.cancel(&mut tx, id).await.unwrap();
            tx.commit().await.unwrap();
        }
        stand.reaches(id, state).await;
        let next = NewJob {
            run_at: Some(stand.now().await + HOUR),
            ..keyed(how)
        };
        let next = stand.enqueue(next).await;
        assert!(matches!(next, Enqueued::New(_)), "{how}: {next:?}");
        // And once more: cancelled while it waits.
        let mut tx = stand.tx().await;
        let cancelled = stand.engine.cancel(&mut tx, next.id()).await.unwrap();
        assert_eq!(cancelled, Changed::Now(JobState::Cancelled));
        tx.commit().await.unwrap();
        assert_eq!(
            stand.count("select count(*) from queue.unique_keys").await,
            0,
            "{how}"
        );
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_hold_lasts_its_time_whatever_becomes_of_the_job() {
    let stand = Stand::new().await;
    let worker = stand.work(handler(async |_| Verdict::Dead {
        error: error("buried"),
    }));
    let first = stand.enqueue(held("a", HOUR)).await.id();
    stand.reaches(first, JobState::Dead).await;
    assert_eq!(
        stand.enqueue(held("a", HOUR)).await,
        Enqueued::Existing(first)
    );

    // Retried and finished once more, it holds its key for the rest of the same hour.
    let until_then = "select extract(epoch from expires_at)::int8 from queue.unique_keys";
    let before = stand.count(until_then).await;
    let mut tx = stand.tx().await;
    let retried = stand.engine.retry(&mut tx, first).await.unwrap();
    assert_eq!(retried, Changed::Now(JobState::Ready));
    tx.commit().await.unwrap();
    stand.reaches(first, JobState::Dead).await;
    assert_eq!(stand.count(until_then).await, before);
    assert_eq!(
        stand.enqueue(held("a", HOUR)).await,
        Enqueued::Existing(first)
    );

    stand
        .execute("update queue.unique_keys set expires_at = now() - interval '1 second'")
        .await;
    assert!(matches!(
        stand.enqueue(held("a", HOUR)).await,
        Enqueued::New(_)
    ));
    worker.stop().await;
}

#[tokio::test]
async fn a_hold_that_is_over_frees_the_key_of_a_job_that_still_waits() {
    let stand = Stand::new().await;
    let first = stand.enqueue(held("a", HOUR)).await.id();
    stand
        .execute("update queue.unique_keys set expires_at = now() - interval '1 second'")
        .await;
    let second = stand.enqueue(keyed("a")).await;
    assert!(matches!(second, Enqueued::New(_)));
    // The first one's end does not free what is now the second one's key.
    let mut tx = stand.tx().await;
    stand.engine.cancel(&mut tx, first).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        stand.enqueue(keyed("a")).await,
        Enqueued::Existing(second.id())
    );
}

#[tokio::test]
async fn of_two_transactions_with_one_key_the_second_waits_for_the_first() {
    let stand = Stand::new().await;
    // Names are interned on connections of their own: first, so that only the key is waited for.
    stand.enqueue(job()).await;
    for commits in [true, false] {
        let key = format!("key-{commits}");
        let mut first = stand.tx().await;
        let held = stand
            .engine
            .enqueue(&mut first, stand.tenant, keyed(&key))
            .await
            .unwrap()
            .id();
        let (engine, pool, tenant) = (stand.engine.clone(), stand.pool(), stand.tenant);
        let second = tokio::spawn(async move {
            let mut tx = TenantTx::begin(&pool, tenant).await.unwrap();
            let answer = engine.enqueue(&mut tx, tenant, keyed(&key)).await.unwrap();
            tx.commit().await.unwrap();
            answer
        });
        until("the second waits for the first", async || {
            stand
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
                soon("the second", second).await.unwrap(),
                Enqueued::Existing(held)
            );
        } else {
            drop(first);
            assert!(matches!(
                soon("the second", second).await.unwrap(),
                Enqueued::New(_)
            ));
        }
    }
}

#[tokio::test]
async fn an_open_transaction_with_a_duplicate_does_not_hold_back_the_job_that_has_the_key() {
    let stand = Stand::new().await;
    let first = stand.enqueue(keyed("a")).await.id();
    let mut open = stand.tx().await;
    let answer = stand
        .engine
        .enqueue(&mut open, stand.tenant, keyed("a"))
        .await
        .unwrap();
    assert_eq!(answer, Enqueued::Existing(first));

    let worker = stand.work(handler(async |_| Verdict::done()));
    stand.reaches(first, JobState::Succeeded).await;
    open.commit().await.unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_callers_with_the_same_keys_in_random_order_make_one_job_a_key() {
    let stand = Stand::new().await;
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (engine, pool, tenant) = (stand.engine.clone(), stand.pool(), stand.tenant);
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
                let answers = engine.enqueue_all(&mut tx, tenant, batch).await.unwrap();
                tx.commit().await.unwrap();
                new += answers
                    .iter()
                    .filter(|a| matches!(a, Enqueued::New(_)))
                    .count();
            }
            new
        });
    }
    let new: usize = tokio::time::timeout(PATIENCE, callers.join_all())
        .await
        .unwrap()
        .iter()
        .sum();
    let keys = stand.count("select count(*) from queue.unique_keys").await;
    assert!(keys <= 400);
    assert_eq!(i64::try_from(new).unwrap(), keys);
    assert_eq!(
        stand.count("select count(*) from queue.parcels").await,
        keys
    );
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    let deadlocks: i64 = query_scalar(deadlocks)
        .fetch_one(&stand.pool())
        .await
        .unwrap();
    assert_eq!(deadlocks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_and_workers_that_meet_over_keys_make_and_finish_every_job() {
    let stand = Stand::new().await;
    let worker = stand.work(handler(async |_| Verdict::done()));
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let (engine, pool, tenant) = (stand.engine.clone(), stand.pool(), stand.tenant);
        callers.spawn(async move {
            for _ in 0..40 {
                let mut keys: Vec<usize> = (0..40).collect();
                keys.shuffle(&mut rand::rng());
                let batch = keys[..20]
                    .iter()
                    .map(|key| keyed(&format!("k{key}")))
                    .collect();
                let mut tx = TenantTx::begin(&pool, tenant).await.unwrap();
                engine.enqueue_all(&mut tx, tenant, batch).await.unwrap();
                tx.commit().await.unwrap();
            }
        });
    }
    soon("the callers", callers.join_all()).await;
    stand.is_quiet().await;
    worker.stop().await;
    assert_eq!(
        stand.count("select count(*) from queue.unique_keys").await,
        0
    );
    let unfinished = "select count(*) from queue.parcels where state <> 'd'";
    assert_eq!(stand.count(unfinished).await, 0);
}

#[tokio::test]
async fn a_dead_job_cannot_take_its_key_back_from_the_job_that_has_it() {
    let stand = Stand::new().await;
    let gate = std::sync::Arc::new(Semaphore::new(0));
    let behind = std::sync::Arc::clone(&gate);
    let worker = stand.work(handler(move |run| {
        let gate = std::sync::Arc::clone(&behind);
        async move {
            if run.job.payload().get() == "0" {
                return Verdict::Dead {
                    error: error("buried"),
                };
            }
            gate.acquire().await.unwrap().forget();
            Verdict::done()
        }
    }));
    let dead = stand.enqueue(keyed("a")).await.id();
    stand.reaches(dead, JobState::Dead).await;
    let payload = serde_json::value::to_raw_value("wait").unwrap();
    let holder = stand
        .enqueue(NewJob {
            payload,
            ..keyed("a")
        })
        .await
        .id();

    let mut tx = stand.tx().await;
    let refused = stand.engine.retry(&mut tx, dead).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(refused, Changed::KeyTaken(holder));
    assert_eq!(stand.state(dead).await, JobState::Dead);

    gate.add_permits(1);
    stand.reaches(holder, JobState::Succeeded).await;
    let mut tx = stand.tx().await;
    assert_eq!(
        stand.engine.retry(&mut tx, dead).await.unwrap(),
        Changed::Now(JobState::Ready)
    );
    let again = stand
        .engine
        .enqueue(&mut tx, stand.tenant, keyed("a"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        again,
        Enqueued::Existing(dead),
        "the retried job holds its key again"
    );
    worker.stop().await;
}
