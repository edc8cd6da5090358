//! Leases: what a dead worker held is taken back once, what a live one holds is not.

use std::sync::Arc;
use std::time::Duration;

use harkara_queue::job::{AttemptOutcome, JobState, NewJob, Unique};
use harkara_queue::{Engine, Handler, Verdict, WorkerOptions};
use harkara_shared::database::query;
use harkara_shared::id::JobId;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::support::{
    Log, QUEUE, Stand, Working, doing_nothing, handler, job, number, numbered, options, soon, until,
};

fn never_ending() -> Arc<dyn Handler> {
    handler(async |_| {
        std::future::pending::<()>().await;
        Verdict::done()
    })
}

/// Options of a worker that keeps its lease from moment to moment.
fn short(concurrency: u32) -> WorkerOptions {
    WorkerOptions {
        lease: Duration::from_secs(3),
        ..options(&[(QUEUE, concurrency)])
    }
}

async fn running(stand: &Stand, jobs: i64) {
    until(&format!("{jobs} jobs run"), async || {
        stand.jobs("r").await == jobs
    })
    .await;
}

/// The worker dies without a word: nothing is put back, nothing closed. What it had asked of the
/// database is over when this returns.
pub(crate) async fn kill(stand: &Stand, worker: Working) {
    worker.task.abort();
    soon("the worker dies", worker.task).await.unwrap_err();
    until("its statements end", async || {
        let busy = "select count(*) from pg_stat_activity
            where datname = current_database() and state <> 'idle' and pid <> pg_backend_pid()";
        stand.count(busy).await == 0
    })
    .await;
}

/// A worker takes this many jobs and dies, and its lease is over.
async fn lose(stand: &Stand, jobs: u32) {
    let worker = stand.work_as(options(&[(QUEUE, jobs)]), never_ending());
    running(stand, i64::from(jobs)).await;
    kill(stand, worker).await;
    expire(stand).await;
}

pub(crate) async fn expire(stand: &Stand) {
    stand
        .execute("update queue.leases set expires_at = now() - interval '1 second' where closed_at is null")
        .await;
}

#[tokio::test]
async fn a_worker_that_dies_leaves_its_lease_to_expire() {
    let stand = Stand::new().await;
    stand.enqueue(job()).await;
    let worker = stand.work_as(short(1), never_ending());
    running(&stand, 1).await;
    kill(&stand, worker).await;
    until("the lease is over", async || {
        stand
            .count("select count(*) from queue.leases where expires_at <= now()")
            .await
            == 1
    })
    .await;
    assert_eq!(stand.engine.rescue().await.unwrap().jobs, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_rescuers_at_once_take_each_job_back_once() {
    let stand = Stand::new().await;
    stand.enqueue_all((0..2500).map(numbered).collect()).await;
    lose(&stand, 2500).await;
    let mut rescuers = JoinSet::new();
    for _ in 0..8 {
        let engine = Engine::new(stand.pool(), true);
        rescuers.spawn(async move { engine.rescue().await.unwrap() });
    }
    let rescued = soon("the rescuers", rescuers.join_all()).await;
    assert_eq!(
        rescued.iter().map(|rescued| rescued.jobs).sum::<i64>(),
        2500
    );
    let lost = "select count(distinct job_id) from queue.attempts where outcome = 'lost'";
    assert_eq!(stand.count(lost).await, 2500);
    assert_eq!(
        stand.count("select count(*) from queue.attempts").await,
        2500
    );
    assert_eq!(stand.jobs_at("a", 1).await, 2500);
    // A later look finds nothing more and closes the lease.
    assert_eq!(stand.engine.rescue().await.unwrap().jobs, 0);
    let open = "select count(*) from queue.leases where closed_at is null";
    assert_eq!(stand.count(open).await, 0);
}

#[tokio::test]
async fn a_live_lease_is_not_taken_from() {
    let stand = Stand::new().await;
    stand.enqueue_all((0..3).map(numbered).collect()).await;
    let worker = stand.work_as(options(&[(QUEUE, 3)]), never_ending());
    running(&stand, 3).await;
    assert_eq!(stand.engine.rescue().await.unwrap().jobs, 0);
    running(&stand, 3).await;
    kill(&stand, worker).await;
}

#[tokio::test]
async fn a_job_that_loses_its_worker_too_often_is_dead() {
    let stand = Stand::new().await;
    let key = Unique {
        key: "a".to_owned(),
        hold: None,
    };
    let id = stand
        .enqueue(NewJob {
            unique: Some(key),
            max_attempts: 3,
            ..job()
        })
        .await
        .id();
    for round in 1..=3 {
        lose(&stand, 1).await;
        let rescued = stand.engine.rescue().await.unwrap();
        assert_eq!((rescued.jobs, rescued.dead), (1, i64::from(round == 3)));
    }
    let dead = stand.job(id).await;
    assert_eq!((dead.state, dead.attempt), (JobState::Dead, 3));
    assert_eq!(dead.last_error.unwrap().code, "worker_lost");
    assert!(dead.finished_at.is_some());
    let attempts = stand.attempts(id).await;
    assert_eq!(attempts.len(), 3);
    assert!(
        attempts
            .iter()
            .all(|a| a.outcome == AttemptOutcome::Lost && a.worker_id.is_some())
    );
    assert!(attempts[1].next_run_at.is_some() && attempts[2].next_run_at.is_none());
    assert_eq!(
        stand.count("select count(*) from queue.unique_keys").await,
        0
    );
}

#[tokio::test]
async fn a_job_that_was_being_cancelled_when_its_worker_died_is_cancelled() {
    let stand = Stand::new().await;
    let id = stand.enqueue(job()).await.id();
    let worker = stand.work_as(options(&[(QUEUE, 1)]), never_ending());
    running(&stand, 1).await;
    kill(&stand, worker).await;
    let mut tx = stand.tx().await;
    stand.engine.cancel(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();
    expire(&stand).await;
    stand.engine.rescue().await.unwrap();
    let cancelled = stand.job(id).await;
    assert_eq!(cancelled.state, JobState::Cancelled);
    assert!(cancelled.finished_at.is_some());
    assert_eq!(stand.attempts(id).await.len(), 1);
}

#[tokio::test]
async fn what_a_dead_worker_held_is_run_by_another() {
    let stand = Stand::new().await;
    let ids = stand.enqueue_all((0..20).map(numbered).collect()).await;
    lose(&stand, 20).await;
    // It looks for dead workers on its own.
    let worker = stand.work_as(short(8), doing_nothing());
    for id in ids {
        assert_eq!(stand.reaches(id.id(), JobState::Succeeded).await.attempt, 2);
    }
    worker.stop().await;
}

#[tokio::test]
async fn jobs_under_a_lease_that_was_closed_too_early_are_taken_back_too() {
    let stand = Stand::new().await;
    stand.enqueue(job()).await;
    let worker = stand.work_as(options(&[(QUEUE, 1)]), never_ending());
    running(&stand, 1).await;
    kill(&stand, worker).await;
    // As if the claim had been written only after somebody found nothing under its lease.
    stand
        .execute("update queue.leases set expires_at = now(), closed_at = now()")
        .await;
    assert_eq!(stand.engine.rescue().await.unwrap().jobs, 1);
    let ready = "select count(*) from queue.parcels where state = 'a'";
    assert_eq!(stand.count(ready).await, 1);
}

/// Says on its channel that it was dropped.
struct Guard(mpsc::UnboundedSender<JobId>, JobId);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.send(self.1).ok();
    }
}

#[tokio::test]
async fn a_worker_that_loses_its_lease_drops_its_runs_and_goes_on_under_another() {
    let stand = Stand::new().await;
    let (dropped, mut drops) = mpsc::unbounded_channel();
    let begun = Log::new();
    let noted = begun.clone();
    let worker = stand.work_as(
        short(2),
        handler(move |run| {
            let guard = Guard(dropped.clone(), run.job.id);
            noted.write(());
            async move {
                let _guard = guard;
                if run.job.attempt == 1 {
                    std::future::pending::<()>().await;
                }
                Verdict::done()
            }
        }),
    );
    let ids: Vec<JobId> = stand
        .enqueue_all(vec![numbered(0), numbered(1)])
        .await
        .iter()
        .map(|a| a.id())
        .collect();
    begun.holds(2).await;
    expire(&stand).await;
    for _ in &ids {
        let id = soon("a run is dropped", drops.recv()).await.unwrap();
        assert!(ids.contains(&id));
    }
    for id in ids {
        let done = stand.reaches(id, JobState::Succeeded).await;
        assert!(done.attempt >= 2);
        assert_eq!(stand.attempts(id).await[0].outcome, AttemptOutcome::Lost);
    }
    worker.stop().await;
    assert!(stand.count("select count(*) from queue.leases").await >= 2);
}

#[tokio::test]
async fn a_rescue_that_has_to_wait_costs_nobody_the_lease() {
    let stand = Stand::new().await;
    let key = Unique {
        key: "a".to_owned(),
        hold: None,
    };
    stand
        .enqueue(NewJob {
            unique: Some(key),
            max_attempts: 1,
            ..job()
        })
        .await;
    lose(&stand, 1).await;
    // Whoever rescues it frees its key, and somebody has locked that.
    let mut dam = stand.pool().begin().await.unwrap();
    query("select from queue.unique_keys for update")
        .execute(&mut *dam)
        .await
        .unwrap();

    let gate = Arc::new(Semaphore::new(0));
    let behind = gate.clone();
    let worker = stand.work_as(
        short(1),
        handler(move |_| {
            let gate = behind.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Verdict::done()
            }
        }),
    );
    let id = stand.enqueue(numbered(1)).await.id();
    stand.reaches(id, JobState::Running).await;
    for _ in 0..4 {
        let held = "select (extract(epoch from max(expires_at)) * 1000)::int8 from queue.leases";
        let before = stand.count(held).await;
        until("the lease is renewed", async || {
            stand.count(held).await > before
        })
        .await;
    }
    gate.add_permits(1);
    assert_eq!(stand.reaches(id, JobState::Succeeded).await.attempt, 1);
    dam.rollback().await.unwrap();
    stand.is_quiet().await;
    worker.stop().await;
    assert_eq!(stand.count("select count(*) from queue.leases").await, 2);
}

#[tokio::test]
async fn a_claim_that_the_database_forgot_is_claimed_again_and_finished_once() {
    let stand = Stand::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let begun = Log::new();
    let (behind, noted) = (gate.clone(), begun.clone());
    let worker = stand.work_as(
        options(&[(QUEUE, 4)]),
        handler(move |run| {
            noted.write(number(&run));
            let gate = behind.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Verdict::done()
            }
        }),
    );
    let ids = stand.enqueue_all((0..2).map(numbered).collect()).await;
    begun.holds(2).await;
    // Claims do not wait for the disk: a crash of the server may undo them while their runs go on.
    stand
        .execute("update queue.parcels set state = 'a', token = null, lease = null, attempt = 0")
        .await;
    begun.holds(4).await;
    gate.add_permits(4);
    for id in ids {
        assert_eq!(stand.reaches(id.id(), JobState::Succeeded).await.attempt, 1);
        assert_eq!(stand.attempts(id.id()).await.len(), 1);
    }
    // No place was lost over it.
    let more = stand.enqueue_all((10..14).map(numbered).collect()).await;
    begun.holds(8).await;
    gate.add_permits(4);
    for id in more {
        stand.reaches(id.id(), JobState::Succeeded).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_job_claimed_by_a_statement_whose_answer_was_lost_is_not_left_running() {
    let stand = Stand::new().await;
    let worker = stand.work_as(options(&[(QUEUE, 1)]), doing_nothing());
    let first = stand.enqueue(job()).await.id();
    stand.reaches(first, JobState::Succeeded).await;
    // As such a statement would have left it: under the worker's lease, by a token it never saw.
    let id = stand
        .enqueue(NewJob {
            queue: "elsewhere".to_owned(),
            ..job()
        })
        .await
        .id();
    stand
        .execute(
            "update queue.parcels set state = 'r', attempt = 1, token = 7, started_at = now(),
                lease = (select max(id) from queue.leases)
             where state = 'a'",
        )
        .await;
    let back = stand.reaches(id, JobState::Ready).await;
    assert_eq!(back.attempt, 0);
    assert!(stand.attempts(id).await.is_empty());
    worker.stop().await;
}
