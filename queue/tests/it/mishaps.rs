//! Runs that end by no verdict of their handler, and outcomes that cannot be written as they are.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use harkara_queue::job::{AttemptOutcome, JobError, JobState, NewJob};
use harkara_queue::{Run, Verdict};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{Log, QUEUE, Stand, error, handler, job, number, numbered, options, until};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_panic_is_a_failure_that_may_pass_wherever_it_happens() {
    let stand = Stand::new().await;
    let worker = stand.work(handler(
        |run: Run| -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
            assert_ne!(number(&run), 0, "before the first await");
            Box::pin(async move {
                tokio::task::yield_now().await;
                if number(&run) == 1 {
                    panic!("after the first await");
                }
                Verdict::done()
            })
        },
    ));
    for (n, words) in [(0, "before the first await"), (1, "after the first await")] {
        let id = stand
            .enqueue(NewJob {
                max_attempts: 2,
                ..numbered(n)
            })
            .await
            .id();
        let dead = stand.reaches(id, JobState::Dead).await;
        let error = dead.last_error.unwrap();
        assert_eq!(error.code, "panic");
        assert!(error.message.contains(words), "{error:?}");
        assert_eq!(stand.attempts(id).await.len(), 2);
    }
    let id = stand.enqueue(numbered(2)).await.id();
    stand.reaches(id, JobState::Succeeded).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_panic_of_what_a_cancelled_handler_leaves_behind_does_not_stop_the_queue() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("while it is dropped");
            }
        }
    }
    let stand = Stand::new().await;
    let begun = Log::new();
    let noted = begun.clone();
    let worker = stand.work(handler(move |run| {
        noted.write(());
        async move {
            if number(&run) == 0 {
                let _bomb = Bomb;
                std::future::pending::<()>().await;
            }
            Verdict::done()
        }
    }));
    let timed_out = NewJob {
        timeout: Duration::from_millis(50),
        max_attempts: 1,
        ..numbered(0)
    };
    let timed_out = stand.enqueue(timed_out).await.id();
    stand.reaches(timed_out, JobState::Dead).await;
    let cancelled = stand.enqueue(numbered(0)).await.id();
    begun.holds(2).await;
    let mut tx = stand.tx().await;
    stand.engine.cancel(&mut tx, cancelled).await.unwrap();
    tx.commit().await.unwrap();
    stand.reaches(cancelled, JobState::Cancelled).await;
    let id = stand.enqueue(numbered(1)).await.id();
    stand.reaches(id, JobState::Succeeded).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_run_longer_than_its_timeout_is_abandoned_and_failed() {
    let stand = Stand::new().await;
    let worker = stand.work(handler(async |_| {
        std::future::pending::<()>().await;
        Verdict::done()
    }));
    let timeout = Duration::from_millis(40);
    let id = stand
        .enqueue(NewJob {
            max_attempts: 1,
            timeout,
            ..job()
        })
        .await
        .id();
    let dead = stand.reaches(id, JobState::Dead).await;
    worker.stop().await;
    assert_eq!(dead.last_error.unwrap().code, "timeout");
    assert!(
        dead.finished_at.unwrap() - dead.started_at.unwrap() >= chrono::Duration::milliseconds(40)
    );
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_buried_without_a_run() {
    let stand = Stand::new().await;
    let at = stand.now().await + HOUR;
    let id = stand
        .enqueue(NewJob {
            run_at: Some(at),
            ..job()
        })
        .await
        .id();
    stand
        .execute(r"update queue.parcels set run_at = now(), body = array['\xff00'::bytea]")
        .await;
    let runs = Log::new();
    let noted = runs.clone();
    let worker = stand.work(handler(move |_| {
        noted.write(());
        async { Verdict::done() }
    }));
    until("the job is buried", async || {
        stand
            .count("select count(*) from queue.parcels where state = 'x'")
            .await
            == 1
    })
    .await;
    worker.stop().await;
    assert_eq!(runs.len(), 0);
    let attempts = stand.attempts(id).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].outcome, AttemptOutcome::Dead);
    assert_eq!(attempts[0].error.as_ref().unwrap().code, "undecodable");
}

#[tokio::test]
async fn text_that_the_database_cannot_hold_is_stored_cut_and_without_nul() {
    let stand = Stand::new().await;
    let worker = stand.work(handler(async |run| match number(&run) {
        0 => Verdict::Done {
            result: Some(json!({"a\0b": ["c\0d", {"e": "\0"}]})),
            then: Vec::new(),
        },
        _ => {
            let message = format!("x\0{}", "\u{20ac}".repeat(350_000));
            Verdict::Dead {
                error: JobError::new("long", message),
            }
        }
    }));
    let nul = stand.enqueue(numbered(0)).await.id();
    let done = stand.reaches(nul, JobState::Succeeded).await;
    let replaced = json!({"a\u{fffd}b": ["c\u{fffd}d", {"e": "\u{fffd}"}]});
    assert_eq!(done.result, Some(replaced));

    let long = stand.enqueue(numbered(1)).await.id();
    let dead = stand.reaches(long, JobState::Dead).await;
    worker.stop().await;
    let message = dead.last_error.unwrap().message;
    assert!(message.starts_with("x\u{fffd}\u{20ac}\u{20ac}"));
    assert!((2045..=2048).contains(&message.len()), "{}", message.len());
    assert_eq!(
        stand.attempts(long).await[0]
            .error
            .as_ref()
            .unwrap()
            .message,
        message
    );
}

#[tokio::test]
async fn an_outcome_that_cannot_be_stored_holds_no_other_back() {
    let stand = Stand::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let behind = gate.clone();
    let (begun, ended) = (Log::new(), Log::new());
    let noted = (begun.clone(), ended.clone());
    let worker = stand.work_as(
        options(&[(QUEUE, 40)]),
        handler(move |run| {
            let (gate, (begun, ended)) = (behind.clone(), noted.clone());
            async move {
                begun.write(());
                gate.acquire().await.unwrap().forget();
                ended.write(number(&run));
                match number(&run) {
                    // No timestamp is so far away.
                    13 => Verdict::Snooze {
                        wait: Duration::MAX,
                        reason: error("never"),
                    },
                    _ => Verdict::done(),
                }
            }
        }),
    );
    let jobs = (0..40).map(|n| NewJob {
        max_attempts: 2,
        ..numbered(n)
    });
    let ids: Vec<_> = stand
        .enqueue_all(jobs.collect())
        .await
        .iter()
        .map(|answer| answer.id())
        .collect();
    begun.holds(40).await;
    // While the table is locked the outcomes gather to batches.
    let mut dam = stand.pool().begin().await.unwrap();
    harkara_shared::database::query("lock table queue.parcels in share mode")
        .execute(&mut *dam)
        .await
        .unwrap();
    gate.add_permits(41);
    ended.holds(40).await;
    dam.commit().await.unwrap();

    for (n, id) in ids.iter().enumerate() {
        if n == 13 {
            let dead = stand.reaches(*id, JobState::Dead).await;
            assert_eq!(dead.last_error.unwrap().code, "outcome_refused");
            assert_eq!(dead.attempt, 2);
        } else {
            stand.reaches(*id, JobState::Succeeded).await;
        }
    }
    worker.stop().await;
}
