//! Runs that end without a verdict of their handler, and outcomes that cannot be stored unchanged.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use harkara_queue::job::{AttemptOutcome, JobError, JobState, NewJob};
use harkara_queue::{Run, Verdict};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{Fixture, Log, QUEUE, error, handler, job, number, numbered, options, until};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn panic_is_a_retryable_failure_before_and_after_the_first_await() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(
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
        let id = fixture
            .enqueue(NewJob {
                max_attempts: 2,
                ..numbered(n)
            })
            .await
            .id();
        let dead = fixture.wait_for_state(id, JobState::Dead).await;
        let error = dead.last_error.unwrap();
        assert_eq!(error.code, "panic");
        assert!(error.message.contains(words), "{error:?}");
        assert_eq!(fixture.attempts(id).await.len(), 2);
    }
    let id = fixture.enqueue(numbered(2)).await.id();
    fixture.wait_for_state(id, JobState::Succeeded).await;
    worker.stop().await;
}

#[tokio::test]
async fn panic_while_dropping_a_cancelled_handler_does_not_stop_the_queue() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("while it is dropped");
            }
        }
    }
    let fixture = Fixture::new().await;
    let started = Log::new();
    let log_copy = started.clone();
    let worker = fixture.start_worker(handler(move |run| {
        log_copy.write(());
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
    let timed_out = fixture.enqueue(timed_out).await.id();
    fixture.wait_for_state(timed_out, JobState::Dead).await;
    let cancelled = fixture.enqueue(numbered(0)).await.id();
    started.holds(2).await;
    let mut tx = fixture.tx().await;
    fixture.engine.cancel(&mut tx, cancelled).await.unwrap();
    tx.commit().await.unwrap();
    fixture.wait_for_state(cancelled, JobState::Cancelled).await;
    let id = fixture.enqueue(numbered(1)).await.id();
    fixture.wait_for_state(id, JobState::Succeeded).await;
    worker.stop().await;
}

#[tokio::test]
async fn run_longer_than_its_timeout_is_abandoned_and_fails() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |_| {
        std::future::pending::<()>().await;
        Verdict::done()
    }));
    let timeout = Duration::from_millis(40);
    let id = fixture
        .enqueue(NewJob {
            max_attempts: 1,
            timeout,
            ..job()
        })
        .await
        .id();
    let dead = fixture.wait_for_state(id, JobState::Dead).await;
    worker.stop().await;
    assert_eq!(dead.last_error.unwrap().code, "timeout");
    assert!(
        dead.finished_at.unwrap() - dead.started_at.unwrap() >= chrono::Duration::milliseconds(40)
    );
}

#[tokio::test]
async fn job_with_an_undecodable_body_is_dead_without_a_run() {
    let fixture = Fixture::new().await;
    let at = fixture.now().await + HOUR;
    let id = fixture
        .enqueue(NewJob {
            run_at: Some(at),
            ..job()
        })
        .await
        .id();
    fixture
        .execute(r"update queue.parcels set run_at = now(), body = array['\xff00'::bytea]")
        .await;
    let runs = Log::new();
    let log_copy = runs.clone();
    let worker = fixture.start_worker(handler(move |_| {
        log_copy.write(());
        async { Verdict::done() }
    }));
    until("the job is dead", async || {
        fixture
            .count("select count(*) from queue.parcels where state = 'x'")
            .await
            == 1
    })
    .await;
    worker.stop().await;
    assert_eq!(runs.len(), 0);
    let attempts = fixture.attempts(id).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].outcome, AttemptOutcome::Dead);
    assert_eq!(attempts[0].error.as_ref().unwrap().code, "undecodable");
}

#[tokio::test]
async fn unstorable_text_is_truncated_and_stripped_of_nul() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |run| match number(&run) {
        0 => Verdict::Done {
            result: Some(json!({"a\0b": ["c\0d", {"e": "\0"}]})),
            follow_ups: Vec::new(),
        },
        _ => {
            let message = format!("x\0{}", "\u{20ac}".repeat(350_000));
            Verdict::Dead {
                error: JobError::new("long", message),
            }
        }
    }));
    let nul = fixture.enqueue(numbered(0)).await.id();
    let done = fixture.wait_for_state(nul, JobState::Succeeded).await;
    let replaced = json!({"a\u{fffd}b": ["c\u{fffd}d", {"e": "\u{fffd}"}]});
    assert_eq!(done.result, Some(replaced));

    let long = fixture.enqueue(numbered(1)).await.id();
    let dead = fixture.wait_for_state(long, JobState::Dead).await;
    worker.stop().await;
    let message = dead.last_error.unwrap().message;
    assert!(message.starts_with("x\u{fffd}\u{20ac}\u{20ac}"));
    assert!((2045..=2048).contains(&message.len()), "{}", message.len());
    assert_eq!(
        fixture.attempts(long).await[0]
            .error
            .as_ref()
            .unwrap()
            .message,
        message
    );
}

#[tokio::test]
async fn unstorable_outcome_does_not_delay_others() {
    let fixture = Fixture::new().await;
    let permits = Arc::new(Semaphore::new(0));
    let handler_permits = permits.clone();
    let (started, ended) = (Log::new(), Log::new());
    let log_copy = (started.clone(), ended.clone());
    let worker = fixture.start_worker_with(
        options(&[(QUEUE, 40)]),
        handler(move |run| {
            let (permits, (started, ended)) = (handler_permits.clone(), log_copy.clone());
            async move {
                started.write(());
                permits.acquire().await.unwrap().forget();
                ended.write(number(&run));
                match number(&run) {
                    // Beyond the range of a timestamp.
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
    let ids: Vec<_> = fixture
        .enqueue_all(jobs.collect())
        .await
        .iter()
        .map(|answer| answer.id())
        .collect();
    started.holds(40).await;
    // While the table is locked, outcomes accumulate into batches.
    let mut blocking_tx = fixture.pool().begin().await.unwrap();
    harkara_shared::database::query("lock table queue.parcels in share mode")
        .execute(&mut *blocking_tx)
        .await
        .unwrap();
    permits.add_permits(41);
    ended.holds(40).await;
    blocking_tx.commit().await.unwrap();

    for (n, id) in ids.iter().enumerate() {
        if n == 13 {
            let dead = fixture.wait_for_state(*id, JobState::Dead).await;
            assert_eq!(dead.last_error.unwrap().code, "outcome_refused");
            assert_eq!(dead.attempt, 2);
        } else {
            fixture.wait_for_state(*id, JobState::Succeeded).await;
        }
    }
    worker.stop().await;
}
