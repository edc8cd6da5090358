//! Reasons of the job itself: its due time, its turn, missing workers, a run in progress, a final state.

use std::sync::Arc;

use chrono::TimeDelta;
use harkara_queue::Verdict;
use harkara_queue::job::{JobState, NewJob};
use harkara_queue::read::ReasonCode;
use serde_json::json;
use tokio::sync::Semaphore;

use super::{HOUR, waiting_for_permit};
use crate::cancel::cancel;
use crate::lost_workers::{kill_and_expire, named};
use crate::packed::{at, job_id, left, row};
use crate::support::{
    Fixture, QUEUE, error, failed, handler, job, number, numbered, options, succeeding_handler,
};

#[tokio::test]
async fn scheduled_job_reports_why_it_waits() {
    for packed in [false, true] {
        let fixture = Fixture::new().await;
        let later = |n| NewJob {
            delay: HOUR,
            ..numbered(n)
        };
        let future = fixture
            .enqueue_jobs(packed, (10..13).map(later).collect())
            .await;
        let slow = |n| {
            let mut job = numbered(n);
            job.backoff.base = HOUR;
            job.backoff.max = HOUR;
            job
        };
        let ids = fixture
            .enqueue_jobs(packed, (0..4).map(slow).collect())
            .await;
        let worker = fixture.start_worker(handler(async |run| match number(&run) {
            0 | 1 => failed("http_500"),
            _ => Verdict::Snooze {
                wait: HOUR,
                reason: error("early"),
            },
        }));
        for id in &ids {
            fixture.wait_for_state(*id, JobState::Scheduled).await;
        }
        for (id, words) in [
            (future[1], "it is not due yet"),
            (
                ids[1],
                "it waits for its backoff after a failed run (`http_500`); 1 of 3 attempts are used",
            ),
            (
                ids[2],
                "its last run snoozed it (`early`), which used no attempt",
            ),
        ] {
            assert_eq!(fixture.codes(id).await, [ReasonCode::Scheduled]);
            let reason = fixture.reason(id, ReasonCode::Scheduled).await;
            let job = fixture.job(id).await;
            assert_eq!(reason.detail, words);
            assert_eq!(reason.until, Some(job.run_at));
            let since = fixture.attempts(id).await.last().map(|run| run.finished_at);
            assert_eq!(reason.since, Some(since.unwrap_or(job.created_at)));
        }
        worker.stop().await;
    }
}

#[tokio::test]
async fn queue_without_workers_is_reported_with_the_time_of_the_last_one() {
    for packed in [false, true] {
        let fixture = Fixture::new().await;
        let ids = fixture
            .enqueue_jobs(packed, (0..3).map(numbered).collect())
            .await;
        let reason = fixture.reason(ids[0], ReasonCode::NoWorker).await;
        assert_eq!(reason.since, None);
        assert!(reason.detail.contains("none is on record"));
        assert_eq!(
            fixture.codes(ids[2]).await,
            [ReasonCode::NoWorker, ReasonCode::Behind]
        );
        // A worker of another queue does not count.
        let other = NewJob {
            queue: "other".to_owned(),
            ..job()
        };
        let other = fixture.enqueue(other).await.id();
        let elsewhere = fixture.start_worker_with(options(&[("other", 8)]), succeeding_handler());
        fixture.wait_for_state(other, JobState::Succeeded).await;
        assert_eq!(fixture.codes(ids[0]).await, [ReasonCode::NoWorker]);
        let worker = fixture.start_worker(succeeding_handler());
        fixture.wait_for_state(ids[2], JobState::Succeeded).await;
        worker.stop().await;
        let more = fixture
            .enqueue_jobs(packed, (3..6).map(numbered).collect())
            .await;
        let reason = fixture.reason(more[0], ReasonCode::NoWorker).await;
        let seen = "select max(last_seen_at) from queue.workers where queues ? 'default'";
        assert_eq!(reason.since, fixture.moment(seen).await);
        assert!(reason.since.is_some() && reason.detail.contains("the last one stopped"));
        // Neither does a worker with an expired lease.
        let leave = Arc::new(Semaphore::new(0));
        let worker = fixture.start_worker(waiting_for_permit(&leave));
        fixture.wait_for_state(more[0], JobState::Running).await;
        kill_and_expire(&fixture, worker).await;
        let held = fixture.reason(more[0], ReasonCode::Running).await;
        assert!(held.detail.contains("whose lease ended at"), "{held:?}");
        let one = fixture.enqueue(numbered(9)).await.id();
        assert!(fixture.codes(one).await.contains(&ReasonCode::NoWorker));
        elsewhere.stop().await;
    }
}

#[tokio::test]
async fn ready_job_reports_how_many_jobs_are_ahead() {
    for packed in [false, true] {
        let fixture = Fixture::new().await;
        let leave = Arc::new(Semaphore::new(0));
        let held = fixture
            .enqueue_jobs(packed, (0..2).map(numbered).collect())
            .await;
        let worker = fixture.start_worker_with(options(&[(QUEUE, 1)]), waiting_for_permit(&leave));
        fixture.wait_for_state(held[0], JobState::Running).await;
        let ids = fixture
            .enqueue_jobs(packed, (2..8).map(numbered).collect())
            .await;
        let urgent = fixture
            .enqueue(NewJob {
                priority: 0,
                ..numbered(8)
            })
            .await
            .id();
        fixture.enqueue(named("b", 9)).await;
        let explanation = fixture.explain(ids[3]).await;
        assert!(!explanation.runnable);
        let reason = fixture.reason(ids[3], ReasonCode::ConcurrencyLimit).await;
        assert_eq!(
            reason.detail,
            "the only slot of the live workers is taken in the queue `default`"
        );
        let reason = fixture.reason(ids[3], ReasonCode::Behind).await;
        // The jobs ahead that the worker has not claimed, plus the urgent one.
        let ready = fixture.state(held[1]).await == JobState::Ready;
        assert_eq!(reason.ahead, Some(4 + u32::from(ready)));
        assert_eq!(reason.since, Some(fixture.job(ids[3]).await.run_at));
        assert!(
            reason
                .detail
                .contains("jobs of its lane go first; 1 other lane")
        );
        // The first job waits only for the running one.
        let codes = fixture.codes(urgent).await;
        assert_eq!(codes, [ReasonCode::ConcurrencyLimit]);
        // A member that left its row is not ahead.
        cancel(&fixture, ids[1]).await;
        cancel(&fixture, urgent).await;
        let reason = fixture.reason(ids[3], ReasonCode::Behind).await;
        assert_eq!(reason.ahead, Some(2 + u32::from(ready)));
        leave.add_permits(20);
        fixture.wait_until_idle().await;
        worker.stop().await;
    }
}

#[tokio::test]
async fn count_of_jobs_ahead_is_capped() {
    let fixture = Fixture::new().await;
    let ids = fixture
        .enqueue_jobs(true, (0..10_600).map(numbered).collect())
        .await;
    for (position, ahead, words) in [
        (9_999, 9_999, "9999 jobs of its lane go first"),
        (10_599, 10_000, "at least 10000 jobs of its lane go first"),
    ] {
        let reason = fixture.reason(ids[position], ReasonCode::Behind).await;
        assert_eq!((reason.ahead, &*reason.detail), (Some(ahead), words));
    }
}

/// Rows after members have left, were split off and lost their worker.
#[tokio::test]
async fn jobs_ahead_are_counted_by_member_in_every_row() {
    let fixture = Fixture::new().await;
    let due = fixture.now().await - TimeDelta::minutes(1);
    let when = |more: serde_json::Value| {
        let mut columns = json!({"run_at": due, "created_at": due});
        columns
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        columns
    };
    fixture
        .put(&[
            row(10, 0, 0, 4, "a", when(json!({"gone": [2]}))),
            row(10, 5, 4, 3, "a", when(json!({}))),
            left(
                at(10, 1),
                "a",
                when(json!({"run_at": due + TimeDelta::seconds(9)})),
            ),
            row(20, 0, 0, 1, "a", when(json!({"lost": true, "attempt": 1}))),
            row(21, 0, 0, 1, "a", when(json!({"lost": true, "attempt": 1}))),
        ])
        .await;
    for (job, ahead) in [
        (at(10, 0), 0),
        (at(10, 2), 1),
        (at(10, 3), 2),
        (at(10, 4), 3),
        (at(10, 6), 5),
        (at(10, 1), 6),
        (at(20, 0), 0),
        (at(21, 0), 1),
    ] {
        let explanation = fixture.explain(job_id(job)).await;
        let reported = explanation.reasons.iter().find_map(|reason| reason.ahead);
        assert_eq!(reported.unwrap_or(0), ahead, "{job}: {explanation:?}");
    }
    let reason = fixture.reason(job_id(at(21, 0)), ReasonCode::Behind).await;
    assert!(reason.detail.starts_with("its worker died"), "{reason:?}");
}

#[tokio::test]
async fn running_job_reports_its_worker_and_deadline() {
    for packed in [false, true] {
        let fixture = Fixture::new().await;
        let ids = fixture
            .enqueue_jobs(packed, (0..3).map(numbered).collect())
            .await;
        let settings = options(&[(QUEUE, 8)]);
        let id = settings.info.id;
        let (leave, stays) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (give, stay) = (Arc::clone(&leave), Arc::clone(&stays));
        let worker = fixture.start_worker_with(
            settings,
            handler(move |run| {
                let leave = Arc::clone(if number(&run) == 0 { &give } else { &stay });
                async move {
                    leave.acquire().await.unwrap().forget();
                    Verdict::done()
                }
            }),
        );
        fixture.wait_for_state(ids[2], JobState::Running).await;
        let reason = fixture.reason(ids[2], ReasonCode::Running).await;
        assert_eq!(
            reason.detail,
            format!("worker {id} runs it, in attempt 1 of 3")
        );
        assert_eq!(reason.since, fixture.job(ids[2]).await.started_at);
        assert_eq!(reason.until, None);
        // A member that has finished is explained as finished while the others run.
        leave.add_permits(1);
        let ended = fixture.wait_for_state(ids[0], JobState::Succeeded).await;
        let reason = fixture.reason(ids[0], ReasonCode::Finished).await;
        assert_eq!(reason.since, ended.finished_at);
        assert_eq!(fixture.codes(ids[2]).await, [ReasonCode::Running]);
        stays.add_permits(3);
        worker.stop().await;
    }
}

#[tokio::test]
async fn running_job_reports_a_requested_cancel() {
    let fixture = Fixture::new().await;
    fixture
        .put(&[row(10, 0, 0, 3, "r", json!({"cancelling": [2]}))])
        .await;
    let reported = fixture.reason(job_id(at(10, 1)), ReasonCode::Running).await;
    assert!(
        reported
            .detail
            .starts_with("it was cancelled, and worker wrk_"),
        "{reported:?}"
    );
    let other = fixture.reason(job_id(at(10, 0)), ReasonCode::Running).await;
    assert!(other.detail.starts_with("worker wrk_"), "{other:?}");
}

#[tokio::test]
async fn finished_job_reports_its_outcome() {
    for packed in [false, true] {
        let fixture = Fixture::new().await;
        let mut jobs: Vec<NewJob> = (0..4).map(numbered).collect();
        jobs[1].max_attempts = 1;
        let ids = fixture.enqueue_jobs(packed, jobs).await;
        cancel(&fixture, ids[3]).await;
        let worker = fixture.start_worker(handler(async |run| match number(&run) {
            1 => failed("http_500"),
            2 => Verdict::Dead {
                error: error("gone"),
            },
            _ => Verdict::done(),
        }));
        for (id, state, words) in [
            (
                ids[0],
                JobState::Succeeded,
                "it succeeded in attempt 1 of 3",
            ),
            (
                ids[1],
                JobState::Dead,
                "it is dead: attempt 1 of 1 ended with `http_500`",
            ),
            (
                ids[2],
                JobState::Dead,
                "it is dead: attempt 1 of 3 ended with `gone`",
            ),
            (
                ids[3],
                JobState::Cancelled,
                "it was cancelled before it ran",
            ),
        ] {
            let job = fixture.wait_for_state(id, state).await;
            let reason = fixture.reason(id, ReasonCode::Finished).await;
            assert_eq!(reason.detail, words);
            assert_eq!(reason.since, job.finished_at);
            assert!(reason.since.is_some());
        }
        worker.stop().await;
    }
}
