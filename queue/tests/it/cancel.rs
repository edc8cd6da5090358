//! Cancel and retry of single jobs.

use std::future::Future;
use std::sync::Arc;

use harkara_queue::job::{AttemptOutcome, JobState, NewJob, Unique};
use harkara_queue::{ChangeOutcome, Run, Verdict};
use harkara_shared::database::query;
use harkara_shared::id::JobId;
use tokio::sync::mpsc;

use crate::support::{
    Fixture, Log, QUEUE, error, failed, handler, handler_observing_cancel, job, number, numbered,
    options, succeeding_handler, until, with_timeout,
};

pub(crate) async fn cancel(fixture: &Fixture, id: JobId) -> ChangeOutcome {
    let mut tx = fixture.tx().await;
    let changed = fixture.engine.cancel(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();
    changed
}

pub(crate) async fn retry(fixture: &Fixture, id: JobId) -> ChangeOutcome {
    let mut tx = fixture.tx().await;
    let changed = fixture.engine.retry(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();
    changed
}

/// Reports on its channel that it was dropped.
struct Guard(mpsc::UnboundedSender<JobId>, JobId);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.send(self.1).ok();
    }
}

#[tokio::test]
async fn waiting_job_is_cancelled_at_once_and_never_runs() {
    let fixture = Fixture::new().await;
    let keyed = |key: &str| NewJob {
        unique: Some(Unique {
            key: key.to_owned(),
            hold: None,
        }),
        ..job()
    };
    let ready = fixture.enqueue(keyed("ready")).await.id();
    let at = fixture.now().await + chrono::Duration::hours(1);
    let scheduled = fixture
        .enqueue(NewJob {
            run_at: Some(at),
            ..keyed("scheduled")
        })
        .await
        .id();
    for id in [ready, scheduled] {
        assert_eq!(
            cancel(&fixture, id).await,
            ChangeOutcome::Applied(JobState::Cancelled)
        );
        let cancelled = fixture.job(id).await;
        assert_eq!(
            (cancelled.state, cancelled.attempt),
            (JobState::Cancelled, 0)
        );
        assert!(cancelled.finished_at.is_some());
        assert_eq!(
            cancel(&fixture, id).await,
            ChangeOutcome::Refused(JobState::Cancelled)
        );
        assert!(fixture.attempts(id).await.is_empty());
    }
    assert_eq!(
        fixture
            .count("select count(*) from queue.unique_keys")
            .await,
        0
    );
    let worker = fixture.start_worker(succeeding_handler());
    let other = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(other, JobState::Succeeded).await;
    worker.stop().await;
    assert_eq!(fixture.state(ready).await, JobState::Cancelled);
}

#[tokio::test]
async fn rolled_back_cancel_cancels_nothing() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(job()).await.id();
    let mut tx = fixture.tx().await;
    fixture.engine.cancel(&mut tx, id).await.unwrap();
    drop(tx);
    let worker = fixture.start_worker(succeeding_handler());
    fixture.wait_for_state(id, JobState::Succeeded).await;
    worker.stop().await;
}

#[tokio::test]
async fn cancel_of_a_running_job_reaches_its_handler() {
    for notify in [true, false] {
        let fixture = Fixture::with_notify(notify).await;
        let (dropped, mut drops) = mpsc::unbounded_channel();
        let started = Log::new();
        let log_copy = started.clone();
        let worker = fixture.start_worker(handler(move |run| {
            let guard = Guard(dropped.clone(), run.job.id);
            log_copy.write(());
            async move {
                let _guard = guard;
                std::future::pending::<()>().await;
                Verdict::done()
            }
        }));
        let id = fixture.enqueue(job()).await.id();
        let other = fixture.enqueue(job()).await.id();
        started.holds(2).await;
        assert_eq!(
            cancel(&fixture, id).await,
            ChangeOutcome::Applied(JobState::Running)
        );
        assert_eq!(
            with_timeout("the handler is dropped", drops.recv()).await,
            Some(id)
        );
        let cancelled = fixture.wait_for_state(id, JobState::Cancelled).await;
        assert_eq!(cancelled.last_error.unwrap().code, "cancelled");
        let attempts = fixture.attempts(id).await;
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0].outcome, AttemptOutcome::Cancelled);
        assert_eq!(
            fixture.state(other).await,
            JobState::Running,
            "no other run may be dropped"
        );
        assert_eq!(
            cancel(&fixture, other).await,
            ChangeOutcome::Applied(JobState::Running)
        );
        assert_eq!(
            with_timeout("the other handler is dropped", drops.recv()).await,
            Some(other)
        );
        worker.stop().await;
    }
}

#[tokio::test]
async fn handler_that_observes_its_cancel_ends_itself() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler_observing_cancel(async |run: Run| {
        run.cancel.cancelled().await;
        // This part of the handler is not interrupted.
        tokio::task::yield_now().await;
        match number(&run) {
            0 => Verdict::Cancelled,
            1 => Verdict::done(),
            2 => failed("cut short"),
            _ => Verdict::Dead {
                error: error("ruined"),
            },
        }
    }));
    for (n, ends) in [
        (0, JobState::Cancelled),
        (1, JobState::Succeeded),
        (2, JobState::Cancelled),
        (3, JobState::Dead),
    ] {
        let id = fixture.enqueue(numbered(n)).await.id();
        fixture.wait_for_state(id, JobState::Running).await;
        assert_eq!(
            cancel(&fixture, id).await,
            ChangeOutcome::Applied(JobState::Running)
        );
        fixture.wait_for_state(id, ends).await;
    }
    worker.stop().await;
}

/// A handler that ignores its cancel runs until its timeout; its later verdict is discarded.
async fn is_abandoned_at_its_timeout(worker_threads_block: bool) {
    let fixture = Fixture::new().await;
    let (received, mut observed) = mpsc::unbounded_channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    let worker = fixture.start_worker(handler_observing_cancel(move |run: Run| {
        let (received, released) = (received.clone(), Arc::clone(&released));
        async move {
            if run.job.attempt > 1 || number(&run) != 7 {
                return Verdict::done();
            }
            let cancel = run.cancel.clone();
            tokio::spawn(async move {
                cancel.cancelled().await;
                received.send(()).ok();
            });
            if worker_threads_block {
                tokio::task::yield_now().await;
                released.lock().unwrap().recv().ok();
                Verdict::done()
            } else {
                std::future::pending().await
            }
        }
    }));
    let stubborn = NewJob {
        timeout: std::time::Duration::from_millis(1500),
        ..numbered(7)
    };
    let id = fixture.enqueue(stubborn).await.id();
    fixture.wait_for_state(id, JobState::Running).await;
    assert_eq!(
        cancel(&fixture, id).await,
        ChangeOutcome::Applied(JobState::Running)
    );
    with_timeout("the handler observes the cancel", observed.recv())
        .await
        .unwrap();
    let cancelled = fixture.wait_for_state(id, JobState::Cancelled).await;
    let began = cancelled.started_at.unwrap();
    assert!(cancelled.finished_at.unwrap() - began >= chrono::TimeDelta::milliseconds(1500));
    assert_eq!(cancelled.last_error.unwrap().code, "cancelled");
    // The handler returns eventually, without effect.
    release.send(()).ok();
    let other = fixture.enqueue(numbered(1)).await.id();
    fixture.wait_for_state(other, JobState::Succeeded).await;
    assert_eq!(fixture.state(id).await, JobState::Cancelled);
    assert_eq!(fixture.attempts(id).await.len(), 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn handler_that_ignores_its_cancel_is_abandoned_at_its_timeout() {
    is_abandoned_at_its_timeout(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn handler_that_blocks_its_thread_is_abandoned_soon_after_its_timeout() {
    is_abandoned_at_its_timeout(true).await;
}

#[tokio::test]
async fn finished_job_is_not_cancelled() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |run| match number(&run) {
        0 => Verdict::done(),
        _ => Verdict::Dead {
            error: error("gone"),
        },
    }));
    for (n, state) in [(0, JobState::Succeeded), (1, JobState::Dead)] {
        let id = fixture.enqueue(numbered(n)).await.id();
        fixture.wait_for_state(id, state).await;
        assert_eq!(cancel(&fixture, id).await, ChangeOutcome::Refused(state));
        assert_eq!(fixture.state(id).await, state);
    }
    worker.stop().await;
}

#[tokio::test]
async fn accepted_cancel_overrides_every_verdict_of_the_run() {
    for verdict in [
        failed("refused"),
        Verdict::Snooze {
            wait: std::time::Duration::from_secs(3600),
            reason: error("later"),
        },
    ] {
        let fixture = Fixture::new().await;
        let permits = Arc::new(tokio::sync::Semaphore::new(0));
        let (handler_permits, returned_verdict) = (permits.clone(), verdict.clone());
        // As if the handler ended at the same moment: the flag is set in the database, but the
        // worker is not notified.
        let worker = fixture.start_worker_with(
            options(&[(QUEUE, 1)]),
            handler(move |_| {
                let (permits, returned_verdict) =
                    (handler_permits.clone(), returned_verdict.clone());
                async move {
                    permits.acquire().await.unwrap().forget();
                    returned_verdict
                }
            }),
        );
        let key = Unique {
            key: "a".to_owned(),
            hold: None,
        };
        let id = fixture
            .enqueue(NewJob {
                unique: Some(key),
                ..job()
            })
            .await
            .id();
        fixture.wait_for_state(id, JobState::Running).await;
        let mut blocking_tx = fixture.pool().begin().await.unwrap();
        query("update queue.parcels set cancelling = array[1] where state = 'r'")
            .execute(&mut *blocking_tx)
            .await
            .unwrap();
        permits.add_permits(1);
        until("the outcome waits for the cancel", async || {
            fixture.count(LOCK_WAITS).await == 1
        })
        .await;
        blocking_tx.commit().await.unwrap();
        let cancelled = fixture.wait_for_state(id, JobState::Cancelled).await;
        assert!(cancelled.finished_at.is_some());
        let attempts = fixture.attempts(id).await;
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0].outcome, AttemptOutcome::Cancelled);
        assert_eq!(attempts[0].next_run_at, None);
        assert_eq!(
            fixture
                .count("select count(*) from queue.unique_keys")
                .await,
            0
        );
        worker.stop().await;
    }
}

#[tokio::test]
async fn dead_or_cancelled_job_is_retried_with_all_its_attempts() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |_| failed("refused")));
    let id = fixture
        .enqueue(NewJob {
            max_attempts: 2,
            ..job()
        })
        .await
        .id();
    for round in 1..=2 {
        let dead = fixture.wait_for_state(id, JobState::Dead).await;
        assert_eq!(dead.attempt, 2);
        assert_eq!(fixture.attempts(id).await.len(), 2 * round);
        assert_eq!(
            retry(&fixture, id).await,
            ChangeOutcome::Applied(JobState::Ready)
        );
        let again = fixture.job(id).await;
        assert!(again.attempt < 2 || again.state == JobState::Dead);
    }
    fixture.wait_for_state(id, JobState::Dead).await;
    worker.stop().await;

    assert_eq!(
        retry(&fixture, id).await,
        ChangeOutcome::Applied(JobState::Ready)
    );
    assert_eq!(
        cancel(&fixture, id).await,
        ChangeOutcome::Applied(JobState::Cancelled)
    );
    assert_eq!(
        retry(&fixture, id).await,
        ChangeOutcome::Applied(JobState::Ready)
    );
    let ready = fixture.job(id).await;
    assert_eq!(
        (ready.state, ready.attempt, ready.finished_at),
        (JobState::Ready, 0, None)
    );
}

#[tokio::test]
async fn only_a_dead_or_cancelled_job_is_retried() {
    let fixture = Fixture::new().await;
    let at = fixture.now().await + chrono::Duration::hours(1);
    let scheduled = fixture
        .enqueue(NewJob {
            run_at: Some(at),
            ..job()
        })
        .await
        .id();
    assert_eq!(
        retry(&fixture, scheduled).await,
        ChangeOutcome::Refused(JobState::Scheduled)
    );
    let ready = fixture.enqueue(numbered(1)).await.id();
    assert_eq!(
        retry(&fixture, ready).await,
        ChangeOutcome::Refused(JobState::Ready)
    );

    let permits = Arc::new(tokio::sync::Semaphore::new(0));
    let handler_permits = permits.clone();
    let worker = fixture.start_worker(handler(move |_| {
        let permits = handler_permits.clone();
        async move {
            permits.acquire().await.unwrap().forget();
            Verdict::done()
        }
    }));
    fixture.wait_for_state(ready, JobState::Running).await;
    assert_eq!(
        retry(&fixture, ready).await,
        ChangeOutcome::Refused(JobState::Running)
    );
    permits.add_permits(1);
    fixture.wait_for_state(ready, JobState::Succeeded).await;
    assert_eq!(
        retry(&fixture, ready).await,
        ChangeOutcome::Refused(JobState::Succeeded)
    );
    worker.stop().await;
}

#[tokio::test]
async fn unknown_job_id_is_not_found() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(job()).await.id();
    for number in [0, 1, id.as_i64() + 1, id.as_i64() + 1024, i64::MAX] {
        let stranger = JobId::from_i64(number);
        assert_eq!(cancel(&fixture, stranger).await, ChangeOutcome::NotFound);
        assert_eq!(retry(&fixture, stranger).await, ChangeOutcome::NotFound);
    }
}

/// Changes the only job by `statement` in a transaction that stays open until another statement waits for it.
pub(crate) async fn change_while_locked(
    fixture: &Fixture,
    statement: &'static str,
    act: impl Future<Output = ChangeOutcome>,
) -> ChangeOutcome {
    let mut blocking_tx = fixture.pool().begin().await.unwrap();
    query(statement).execute(&mut *blocking_tx).await.unwrap();
    let release = async {
        until(
            "the statement waits for the other transaction",
            async || fixture.count(LOCK_WAITS).await == 1,
        )
        .await;
        blocking_tx.commit().await.unwrap();
    };
    tokio::join!(with_timeout("the change completes", act), release).0
}

const LOCK_WAITS: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock'";

#[tokio::test]
async fn cancel_races_with_claim_settlement_and_release() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(job()).await.id();
    let claimed = "update queue.parcels
        set state = 'r', token = 7, lease = 7, attempt = 1, started_at = now()";
    let changed = change_while_locked(&fixture, claimed, cancel(&fixture, id)).await;
    assert_eq!(changed, ChangeOutcome::Applied(JobState::Running));
    assert_eq!(
        fixture
            .count("select count(*) from queue.parcels where cancelling is not null and token = 7")
            .await,
        1
    );

    let put_back =
        "update queue.parcels set state = 'a', token = null, cancelling = null, attempt = 0";
    let changed = change_while_locked(&fixture, put_back, cancel(&fixture, id)).await;
    assert_eq!(changed, ChangeOutcome::Applied(JobState::Cancelled));

    fixture
        .execute("update queue.parcels set state = 'r', token = 7, finished_at = null")
        .await;
    let succeeded = "update queue.parcels set state = 'd', token = null, finished_at = now()";
    let changed = change_while_locked(&fixture, succeeded, cancel(&fixture, id)).await;
    assert_eq!(changed, ChangeOutcome::Refused(JobState::Succeeded));
}

#[tokio::test]
async fn retry_races_with_the_death_of_the_job() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(job()).await.id();
    fixture
        .execute("update queue.parcels set state = 'r', token = 7, lease = 7, attempt = 3")
        .await;
    let died = "update queue.parcels set state = 'x', token = null, finished_at = now()";
    let changed = change_while_locked(&fixture, died, retry(&fixture, id)).await;
    assert_eq!(changed, ChangeOutcome::Applied(JobState::Ready));
    let ready = fixture.job(id).await;
    assert_eq!(
        (ready.state, ready.attempt, ready.finished_at),
        (JobState::Ready, 0, None)
    );
}
