//! Verdicts of handlers and how they are stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harkara_queue::job::{Attempt, AttemptOutcome, JobState, Lane, NewJob};
use harkara_queue::{Engine, Verdict};
use harkara_shared::backoff::{Backoff, Jitter};
use serde_json::json;

use crate::lost_workers::assert_at_rest;
use crate::support::{
    Fixture, Log, QUEUE, RunningWorker, error, failed, handler, job, number, numbered, options,
};

fn waits(attempts: &[Attempt]) -> Vec<Option<i64>> {
    attempts
        .iter()
        .map(|attempt| {
            attempt
                .next_run_at
                .map(|at| (at - attempt.finished_at).num_milliseconds())
        })
        .collect()
}

fn outcomes(attempts: &[Attempt]) -> Vec<(u32, AttemptOutcome, Option<String>)> {
    attempts
        .iter()
        .map(|attempt| {
            (
                attempt.number,
                attempt.outcome,
                attempt.error.as_ref().map(|e| e.code.clone()),
            )
        })
        .collect()
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn done_stores_the_result_and_enqueues_follow_ups() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |run| match number(&run) {
        0 => Verdict::Done {
            result: Some(json!({"sum": 3})),
            follow_ups: vec![numbered(1), numbered(2)],
        },
        _ => Verdict::done(),
    }));
    let id = fixture.enqueue(numbered(0)).await.id();
    let done = fixture.wait_for_state(id, JobState::Succeeded).await;
    assert_eq!(done.result, Some(json!({"sum": 3})));
    assert!(done.finished_at >= done.started_at && done.last_error.is_none());
    let attempts = fixture.attempts(id).await;
    assert_eq!(outcomes(&attempts), [(1, AttemptOutcome::Succeeded, None)]);
    assert!(attempts[0].worker_id.is_some());
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_eq!(fixture.jobs("d").await, 3);
}

/// The worker does not know the lane yet: it is created before the settlement locks its row.
#[tokio::test]
async fn follow_ups_into_the_settled_lane_are_enqueued() {
    for lane in [Lane::Ordered("a".to_owned()), Lane::Named("a".to_owned())] {
        let fixture = Fixture::new().await;
        let in_lane = move |number| NewJob {
            lane: lane.clone(),
            ..numbered(number)
        };
        let id = fixture.enqueue(in_lane(0)).await.id();
        // The settlement of the first run writes the lane's row, and so does each use of the lane.
        let written = "update queue.lanes
            set failures = 1, used_at = now() - interval '2 hours'";
        assert_eq!(fixture.execute(written).await, 1);
        let follows = handler(move |run| {
            let then = match number(&run) {
                3 => Vec::new(),
                number => vec![in_lane(number + 1)],
            };
            async {
                Verdict::Done {
                    result: None,
                    follow_ups: then,
                }
            }
        });
        let engine = Engine::new(fixture.pool(), true);
        let worker = RunningWorker::start(engine, options(&[(QUEUE, 8)]), follows);
        fixture.wait_for_state(id, JobState::Succeeded).await;
        fixture.wait_until_idle().await;
        worker.stop().await;
        assert_eq!(fixture.jobs("d").await, 4);
        assert_eq!(fixture.count("select count(*) from queue.lanes").await, 1);
        assert_at_rest(&fixture).await;
    }
}

#[tokio::test]
async fn job_with_an_unacceptable_follow_up_does_not_succeed() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |_| Verdict::Done {
        result: None,
        follow_ups: vec![
            job(),
            NewJob {
                max_attempts: 0,
                ..job()
            },
        ],
    }));
    let id = fixture
        .enqueue(NewJob {
            max_attempts: 2,
            ..job()
        })
        .await
        .id();
    fixture.wait_for_state(id, JobState::Dead).await;
    worker.stop().await;
    let refused = |number, outcome| (number, outcome, Some("outcome_refused".to_owned()));
    assert_eq!(
        outcomes(&fixture.attempts(id).await),
        [
            refused(1, AttemptOutcome::Retry),
            refused(2, AttemptOutcome::Dead)
        ]
    );
    assert_eq!(fixture.count("select count(*) from queue.parcels").await, 1);
}

#[tokio::test]
async fn retry_backs_off_longer_each_time_and_is_dead_after_the_last_attempt() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |_| failed("refused")));
    let backoff = Backoff {
        base: Duration::from_millis(50),
        factor: 3.0,
        max: Duration::from_millis(400),
        jitter: Jitter::None,
    };
    let id = fixture
        .enqueue(NewJob {
            max_attempts: 4,
            backoff,
            ..job()
        })
        .await
        .id();
    let dead = fixture.wait_for_state(id, JobState::Dead).await;
    worker.stop().await;
    assert_eq!((dead.attempt, dead.last_error), (4, Some(error("refused"))));
    let attempts = fixture.attempts(id).await;
    let row = |number, outcome| (number, outcome, Some("refused".to_owned()));
    assert_eq!(
        outcomes(&attempts),
        [
            row(1, AttemptOutcome::Retry),
            row(2, AttemptOutcome::Retry),
            row(3, AttemptOutcome::Retry),
            row(4, AttemptOutcome::Dead),
        ]
    );
    assert_eq!(waits(&attempts), [Some(50), Some(150), Some(400), None]);
    for (ended, next) in attempts.iter().zip(&attempts[1..]) {
        assert!(next.started_at >= ended.next_run_at.unwrap());
    }
}

#[tokio::test]
async fn handler_wait_replaces_the_backoff() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |_| Verdict::retry(error("busy"), Some(HOUR))));
    let id = fixture.enqueue(job()).await.id();
    let waiting = fixture.wait_for_state(id, JobState::Scheduled).await;
    worker.stop().await;
    assert_eq!(
        (waiting.attempt, waiting.last_error),
        (1, Some(error("busy")))
    );
    assert_eq!(waits(&fixture.attempts(id).await), [Some(3_600_000)]);
}

#[tokio::test]
async fn dead_verdict_ends_a_job_at_once() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |_| Verdict::Dead {
        error: error("gone"),
    }));
    let id = fixture.enqueue(job()).await.id();
    let dead = fixture.wait_for_state(id, JobState::Dead).await;
    worker.stop().await;
    assert_eq!((dead.attempt, dead.last_error), (1, Some(error("gone"))));
    assert!(dead.finished_at.is_some());
    let attempts = fixture.attempts(id).await;
    assert_eq!(
        outcomes(&attempts),
        [(1, AttemptOutcome::Dead, Some("gone".to_owned()))]
    );
    assert_eq!(waits(&attempts), [None]);
}

#[tokio::test]
async fn cancelled_verdict_ends_a_job() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |_| Verdict::Cancelled));
    let id = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(id, JobState::Cancelled).await;
    worker.stop().await;
    let attempts = fixture.attempts(id).await;
    assert_eq!(
        outcomes(&attempts),
        [(1, AttemptOutcome::Cancelled, Some("cancelled".to_owned()))]
    );
}

#[tokio::test]
async fn snooze_uses_no_attempt_and_waits_the_requested_time() {
    for (limited, outcome) in [
        (false, AttemptOutcome::Snoozed),
        (true, AttemptOutcome::RateLimited),
    ] {
        let fixture = Fixture::new().await;
        let runs = Arc::new(AtomicUsize::new(0));
        let seen = runs.clone();
        let worker = fixture.start_worker(handler(move |run| {
            let first = seen.fetch_add(1, Ordering::SeqCst) == 0;
            assert_eq!(run.job.attempt, 1, "a snoozed run must use no attempt");
            async move {
                match (first, limited) {
                    (true, false) => Verdict::Snooze {
                        wait: HOUR,
                        reason: error("later"),
                    },
                    (true, true) => Verdict::RateLimited {
                        wait: HOUR,
                        reason: error("later"),
                    },
                    (false, _) => Verdict::done(),
                }
            }
        }));
        let id = fixture
            .enqueue(NewJob {
                max_attempts: 1,
                ..job()
            })
            .await
            .id();
        let waiting = fixture.wait_for_state(id, JobState::Scheduled).await;
        assert_eq!(waiting.attempt, 0);
        let attempts = fixture.attempts(id).await;
        assert_eq!(
            outcomes(&attempts),
            [(1, outcome, Some("later".to_owned()))]
        );
        assert_eq!(waits(&attempts), [Some(3_600_000)]);
        assert_eq!(waiting.run_at, attempts[0].next_run_at.unwrap());

        fixture
            .execute("update queue.parcels set run_at = now()")
            .await;
        let done = fixture.wait_for_state(id, JobState::Succeeded).await;
        assert_eq!(done.attempt, 1);
        assert_eq!(fixture.attempts(id).await.len(), 2);
        worker.stop().await;
    }
}

#[tokio::test]
async fn job_snoozed_too_often_fails() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |_| Verdict::Snooze {
        wait: Duration::from_millis(1),
        reason: error("later"),
    }));
    let at = fixture.now().await + HOUR;
    let id = fixture
        .enqueue(NewJob {
            max_attempts: 2,
            run_at: Some(at),
            ..job()
        })
        .await
        .id();
    fixture
        .execute("update queue.parcels set deferrals = 999, run_at = now()")
        .await;
    let dead = fixture.wait_for_state(id, JobState::Dead).await;
    worker.stop().await;
    assert_eq!((dead.attempt, dead.last_error), (2, Some(error("later"))));
    let outcomes: Vec<_> = fixture
        .attempts(id)
        .await
        .iter()
        .map(|a| a.outcome)
        .collect();
    assert_eq!(
        outcomes,
        [
            AttemptOutcome::Snoozed,
            AttemptOutcome::Retry,
            AttemptOutcome::Dead
        ]
    );
}

#[tokio::test]
async fn run_that_yields_with_a_delay_uses_no_attempt_and_returns_after_it() {
    let fixture = Fixture::new().await;
    let (ran, wait) = (Log::new(), Duration::from_millis(300));
    let log_copy = ran.clone();
    let worker = fixture.start_worker(handler(move |run| {
        let is_first = log_copy.len() == 0;
        log_copy.write((run.job.started_at, run.job.attempt));
        async move {
            match is_first {
                true => Verdict::Yield { wait },
                false => Verdict::done(),
            }
        }
    }));
    let id = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(id, JobState::Succeeded).await;
    worker.stop().await;
    let runs = ran.read();
    assert_eq!(runs.len(), 2);
    assert_eq!(
        (runs[0].1, runs[1].1),
        (1, 1),
        "a yield must use no attempt"
    );
    assert!(runs[1].0 - runs[0].0 >= chrono::Duration::from_std(wait).unwrap());
    assert_eq!(
        fixture.attempts(id).await.len(),
        1,
        "only the success is logged"
    );
    let put_off = "select count(*) from queue.parcels where deferrals > 0";
    assert_eq!(fixture.count(put_off).await, 0);
    fixture.assert_counts_agree().await;
}

#[tokio::test]
async fn run_that_yields_continues_after_the_others_and_uses_no_attempt() {
    let fixture = Fixture::new().await;
    let ran = Log::new();
    let log_copy = ran.clone();
    let jobs = fixture.enqueue_all((0..3).map(numbered).collect()).await;
    let worker = fixture.start_worker_with(
        options(&[(QUEUE, 1)]),
        handler(move |run| {
            let before = log_copy.read().iter().filter(|one| **one == 0).count();
            log_copy.write(number(&run));
            async move {
                match number(&run) {
                    0 if before < 3 => Verdict::Yield {
                        wait: Duration::ZERO,
                    },
                    _ => Verdict::done(),
                }
            }
        }),
    );
    fixture.wait_until_idle().await;
    let order = ran.read();
    assert_eq!(
        order.iter().filter(|one| **one == 0).count(),
        4,
        "{order:?}"
    );
    let last = order.iter().rposition(|one| *one == 0).unwrap();
    assert_eq!(
        last + 1,
        order.len(),
        "the other jobs must run first: {order:?}"
    );
    let first = jobs[0].id();
    assert_eq!(fixture.job(first).await.attempt, 1);
    assert_eq!(fixture.attempts(first).await.len(), 1);
    fixture.assert_counts_agree().await;
    worker.stop().await;
}
