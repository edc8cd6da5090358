//! Leases: jobs of a dead worker are rescued once, jobs of a live worker are not.

use std::sync::Arc;
use std::time::Duration;

use harkara_queue::job::{AttemptOutcome, JobState, NewJob, Unique};
use harkara_queue::{Engine, Handler, Verdict, WorkerOptions};
use harkara_shared::database::query;
use harkara_shared::id::JobId;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::support::{
    Fixture, Log, QUEUE, RunningWorker, handler, job, number, numbered, options,
    succeeding_handler, until, with_timeout,
};

fn endless() -> Arc<dyn Handler> {
    handler(async |_| {
        std::future::pending::<()>().await;
        Verdict::done()
    })
}

/// Options of a worker with a very short lease.
fn short_lease_options(concurrency: u32) -> WorkerOptions {
    WorkerOptions {
        lease: Duration::from_secs(3),
        ..options(&[(QUEUE, concurrency)])
    }
}

async fn running(fixture: &Fixture, jobs: i64) {
    until(&format!("{jobs} jobs run"), async || {
        fixture.jobs("r").await == jobs
    })
    .await;
}

/// Kills the worker: nothing is put back or closed. Its statements in the
/// database have ended when this returns.
pub(crate) async fn kill(fixture: &Fixture, worker: RunningWorker) {
    worker.task.abort();
    with_timeout("the worker dies", worker.task)
        .await
        .unwrap_err();
    until("its statements end", async || {
        let busy = "select count(*) from pg_stat_activity
            where datname = current_database() and state <> 'idle' and pid <> pg_backend_pid()";
        fixture.count(busy).await == 0
    })
    .await;
}

/// Lets a worker claim this many jobs and die, with its lease expired.
async fn lose_workers(fixture: &Fixture, jobs: u32) {
    let worker = fixture.start_worker_with(options(&[(QUEUE, jobs)]), endless());
    running(fixture, i64::from(jobs)).await;
    kill(fixture, worker).await;
    expire(fixture).await;
}

pub(crate) async fn expire(fixture: &Fixture) {
    fixture
        .execute("update queue.leases set expires_at = now() - interval '1 second' where closed_at is null")
        .await;
}

#[tokio::test]
async fn dead_worker_leaves_its_lease_to_expire() {
    let fixture = Fixture::new().await;
    fixture.enqueue(job()).await;
    let worker = fixture.start_worker_with(short_lease_options(1), endless());
    running(&fixture, 1).await;
    kill(&fixture, worker).await;
    until("the lease has expired", async || {
        fixture
            .count("select count(*) from queue.leases where expires_at <= now()")
            .await
            == 1
    })
    .await;
    assert_eq!(fixture.engine.rescue().await.unwrap().jobs, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_rescuers_return_each_job_once() {
    let fixture = Fixture::new().await;
    fixture.enqueue_all((0..2500).map(numbered).collect()).await;
    lose_workers(&fixture, 2500).await;
    let mut rescuers = JoinSet::new();
    for _ in 0..8 {
        let engine = Engine::new(fixture.pool(), true);
        rescuers.spawn(async move { engine.rescue().await.unwrap() });
    }
    let rescued = with_timeout("the rescuers finish", rescuers.join_all()).await;
    assert_eq!(
        rescued.iter().map(|rescued| rescued.jobs).sum::<i64>(),
        2500
    );
    let lost = "select count(distinct job_id) from queue.attempts where outcome = 'lost'";
    assert_eq!(fixture.count(lost).await, 2500);
    assert_eq!(
        fixture.count("select count(*) from queue.attempts").await,
        2500
    );
    assert_eq!(fixture.jobs_at("a", 1).await, 2500);
    // A later rescue finds no more jobs and closes the lease.
    assert_eq!(fixture.engine.rescue().await.unwrap().jobs, 0);
    let open = "select count(*) from queue.leases where closed_at is null";
    assert_eq!(fixture.count(open).await, 0);
}

#[tokio::test]
async fn live_lease_keeps_its_jobs() {
    let fixture = Fixture::new().await;
    fixture.enqueue_all((0..3).map(numbered).collect()).await;
    let worker = fixture.start_worker_with(options(&[(QUEUE, 3)]), endless());
    running(&fixture, 3).await;
    assert_eq!(fixture.engine.rescue().await.unwrap().jobs, 0);
    running(&fixture, 3).await;
    kill(&fixture, worker).await;
}

#[tokio::test]
async fn job_that_loses_its_worker_too_often_is_dead() {
    let fixture = Fixture::new().await;
    let key = Unique {
        key: "a".to_owned(),
        hold: None,
    };
    let id = fixture
        .enqueue(NewJob {
            unique: Some(key),
            max_attempts: 3,
            ..job()
        })
        .await
        .id();
    for round in 1..=3 {
        lose_workers(&fixture, 1).await;
        let rescued = fixture.engine.rescue().await.unwrap();
        assert_eq!((rescued.jobs, rescued.dead), (1, i64::from(round == 3)));
    }
    let dead = fixture.job(id).await;
    assert_eq!((dead.state, dead.attempt), (JobState::Dead, 3));
    assert_eq!(dead.last_error.unwrap().code, "worker_lost");
    assert!(dead.finished_at.is_some());
    let attempts = fixture.attempts(id).await;
    assert_eq!(attempts.len(), 3);
    assert!(
        attempts
            .iter()
            .all(|a| a.outcome == AttemptOutcome::Lost && a.worker_id.is_some())
    );
    assert!(attempts[1].next_run_at.is_some() && attempts[2].next_run_at.is_none());
    assert_eq!(
        fixture
            .count("select count(*) from queue.unique_keys")
            .await,
        0
    );
}

#[tokio::test]
async fn job_being_cancelled_when_its_worker_dies_is_cancelled() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(job()).await.id();
    let worker = fixture.start_worker_with(options(&[(QUEUE, 1)]), endless());
    running(&fixture, 1).await;
    kill(&fixture, worker).await;
    let mut tx = fixture.tx().await;
    fixture.engine.cancel(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();
    expire(&fixture).await;
    fixture.engine.rescue().await.unwrap();
    let cancelled = fixture.job(id).await;
    assert_eq!(cancelled.state, JobState::Cancelled);
    assert!(cancelled.finished_at.is_some());
    assert_eq!(fixture.attempts(id).await.len(), 1);
}

#[tokio::test]
async fn jobs_of_a_dead_worker_are_run_by_another() {
    let fixture = Fixture::new().await;
    let ids = fixture.enqueue_all((0..20).map(numbered).collect()).await;
    lose_workers(&fixture, 20).await;
    // The worker looks for dead workers by itself.
    let worker = fixture.start_worker_with(short_lease_options(8), succeeding_handler());
    for id in ids {
        assert_eq!(
            fixture
                .wait_for_state(id.id(), JobState::Succeeded)
                .await
                .attempt,
            2
        );
    }
    worker.stop().await;
}

#[tokio::test]
async fn jobs_under_a_prematurely_closed_lease_are_rescued() {
    let fixture = Fixture::new().await;
    fixture.enqueue(job()).await;
    let worker = fixture.start_worker_with(options(&[(QUEUE, 1)]), endless());
    running(&fixture, 1).await;
    kill(&fixture, worker).await;
    // As if the claim had committed only after a rescue found nothing under its lease.
    fixture
        .execute("update queue.leases set expires_at = now(), closed_at = now()")
        .await;
    assert_eq!(fixture.engine.rescue().await.unwrap().jobs, 1);
    let ready = "select count(*) from queue.parcels where state = 'a'";
    assert_eq!(fixture.count(ready).await, 1);
}

/// Reports on its channel that it was dropped.
struct Guard(mpsc::UnboundedSender<JobId>, JobId);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.send(self.1).ok();
    }
}

#[tokio::test]
async fn worker_that_loses_its_lease_drops_its_runs_and_continues_under_a_new_one() {
    let fixture = Fixture::new().await;
    let (dropped, mut drops) = mpsc::unbounded_channel();
    let started = Log::new();
    let log_copy = started.clone();
    let worker = fixture.start_worker_with(
        short_lease_options(2),
        handler(move |run| {
            let guard = Guard(dropped.clone(), run.job.id);
            log_copy.write(());
            async move {
                let _guard = guard;
                if run.job.attempt == 1 {
                    std::future::pending::<()>().await;
                }
                Verdict::done()
            }
        }),
    );
    let ids: Vec<JobId> = fixture
        .enqueue_all(vec![numbered(0), numbered(1)])
        .await
        .iter()
        .map(|a| a.id())
        .collect();
    started.holds(2).await;
    expire(&fixture).await;
    for _ in &ids {
        let id = with_timeout("a run is dropped", drops.recv())
            .await
            .unwrap();
        assert!(ids.contains(&id));
    }
    for id in ids {
        let done = fixture.wait_for_state(id, JobState::Succeeded).await;
        assert!(done.attempt >= 2);
        assert_eq!(fixture.attempts(id).await[0].outcome, AttemptOutcome::Lost);
    }
    worker.stop().await;
    assert!(fixture.count("select count(*) from queue.leases").await >= 2);
}

#[tokio::test]
async fn blocked_rescue_costs_no_worker_its_lease() {
    let fixture = Fixture::new().await;
    let key = Unique {
        key: "a".to_owned(),
        hold: None,
    };
    fixture
        .enqueue(NewJob {
            unique: Some(key),
            max_attempts: 1,
            ..job()
        })
        .await;
    lose_workers(&fixture, 1).await;
    // A rescue releases the job's key, whose row is locked.
    let mut blocking_tx = fixture.pool().begin().await.unwrap();
    query("select from queue.unique_keys for update")
        .execute(&mut *blocking_tx)
        .await
        .unwrap();

    let permits = Arc::new(Semaphore::new(0));
    let handler_permits = permits.clone();
    let worker = fixture.start_worker_with(
        short_lease_options(1),
        handler(move |_| {
            let permits = handler_permits.clone();
            async move {
                permits.acquire().await.unwrap().forget();
                Verdict::done()
            }
        }),
    );
    let id = fixture.enqueue(numbered(1)).await.id();
    fixture.wait_for_state(id, JobState::Running).await;
    for _ in 0..4 {
        let held = "select (extract(epoch from max(expires_at)) * 1000)::int8 from queue.leases";
        let before = fixture.count(held).await;
        until("the lease is renewed", async || {
            fixture.count(held).await > before
        })
        .await;
    }
    permits.add_permits(1);
    assert_eq!(
        fixture
            .wait_for_state(id, JobState::Succeeded)
            .await
            .attempt,
        1
    );
    blocking_tx.rollback().await.unwrap();
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_eq!(fixture.count("select count(*) from queue.leases").await, 2);
}

#[tokio::test]
async fn claim_lost_by_the_database_is_repeated_and_finished_once() {
    let fixture = Fixture::new().await;
    let permits = Arc::new(Semaphore::new(0));
    let started = Log::new();
    let (handler_permits, log_copy) = (permits.clone(), started.clone());
    let worker = fixture.start_worker_with(
        options(&[(QUEUE, 4)]),
        handler(move |run| {
            log_copy.write(number(&run));
            let permits = handler_permits.clone();
            async move {
                permits.acquire().await.unwrap().forget();
                Verdict::done()
            }
        }),
    );
    let ids = fixture.enqueue_all((0..2).map(numbered).collect()).await;
    started.holds(2).await;
    // Claims commit asynchronously: a server crash can undo them while their runs continue.
    fixture
        .execute("update queue.parcels set state = 'a', token = null, lease = null, attempt = 0")
        .await;
    started.holds(4).await;
    permits.add_permits(4);
    for id in ids {
        assert_eq!(
            fixture
                .wait_for_state(id.id(), JobState::Succeeded)
                .await
                .attempt,
            1
        );
        assert_eq!(fixture.attempts(id.id()).await.len(), 1);
    }
    // No slot was lost.
    let more = fixture.enqueue_all((10..14).map(numbered).collect()).await;
    started.holds(8).await;
    permits.add_permits(4);
    for id in more {
        fixture.wait_for_state(id.id(), JobState::Succeeded).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn job_claimed_by_a_statement_with_a_lost_answer_is_not_left_running() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker_with(options(&[(QUEUE, 1)]), succeeding_handler());
    let first = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(first, JobState::Succeeded).await;
    // As such a statement leaves it: under the worker's lease, with a token the worker never received.
    let id = fixture
        .enqueue(NewJob {
            queue: "elsewhere".to_owned(),
            ..job()
        })
        .await
        .id();
    fixture
        .execute(
            "update queue.parcels set state = 'r', attempt = 1, token = 7, started_at = now(),
                lease = (select max(id) from queue.leases)
             where state = 'a'",
        )
        .await;
    let back = fixture.wait_for_state(id, JobState::Ready).await;
    assert_eq!(back.attempt, 0);
    assert!(fixture.attempts(id).await.is_empty());
    worker.stop().await;
}
