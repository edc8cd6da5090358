//! Expiry: jobs that must start before a given time or not at all.

use std::time::Duration;

use chrono::TimeDelta;
use harkara_queue::job::{JobState, Lane, NewJob, Unique};
use harkara_queue::{ChangeOutcome, Verdict};
use harkara_shared::database::query;
use harkara_shared::id::JobId;

use crate::support::{Fixture, QUEUE, error, handler, job, options, succeeding_handler, until};

/// Moves the job's expiry into the past.
async fn expire_start(fixture: &Fixture, id: JobId) {
    query("update queue.parcels set expires_at = now() - interval '1 millisecond' where id * 1024 + lo = $1")
        .bind(id.as_i64())
        .execute(&fixture.pool())
        .await
        .unwrap();
}

async fn expiring(fixture: &Fixture, job: NewJob) -> NewJob {
    NewJob {
        expires_at: Some(fixture.now().await + TimeDelta::hours(1)),
        ..job
    }
}

#[tokio::test]
async fn expired_job_is_cancelled_and_never_runs() {
    let fixture = Fixture::new().await;
    let ready = fixture.enqueue(expiring(&fixture, job()).await).await.id();
    let later = NewJob {
        delay: Duration::from_secs(60),
        ..job()
    };
    let scheduled = fixture.enqueue(expiring(&fixture, later).await).await.id();
    let (kept, other) = (
        fixture.enqueue(expiring(&fixture, job()).await).await.id(),
        fixture.enqueue(job()).await.id(),
    );
    for id in [ready, scheduled] {
        expire_start(&fixture, id).await;
    }
    let worker = fixture.start_worker(succeeding_handler());
    for id in [ready, scheduled] {
        let expired = fixture.wait_for_state(id, JobState::Cancelled).await;
        assert_eq!(expired.last_error.unwrap().code, "expired");
        assert_eq!(expired.attempt, 0);
        assert!(expired.expires_at.is_some());
        assert!(expired.finished_at.is_some());
        assert!(fixture.attempts(id).await.is_empty());
    }
    for id in [kept, other] {
        fixture.wait_for_state(id, JobState::Succeeded).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn claim_skips_expired_jobs_that_are_not_cancelled_yet() {
    for lane in [
        Lane::Default,
        Lane::Named("limited".to_owned()),
        Lane::Ordered("line".to_owned()),
    ] {
        let fixture = Fixture::new().await;
        let of_lane = |job| NewJob {
            lane: lane.clone(),
            ..job
        };
        let first = fixture
            .enqueue(expiring(&fixture, of_lane(job())).await)
            .await
            .id();
        let second = fixture.enqueue(of_lane(job())).await.id();
        expire_start(&fixture, first).await;
        // The row is locked, so that it cannot be cancelled.
        let mut blocking_tx = fixture.pool().begin().await.unwrap();
        query(
            "create function refuse() returns trigger language plpgsql as $$ begin
                 if new.state = 'c' then return null; end if; return new; end $$",
        )
        .execute(&mut *blocking_tx)
        .await
        .unwrap();
        query("create trigger refuse before update on queue.parcels for each row execute function refuse()")
            .execute(&mut *blocking_tx)
            .await
            .unwrap();
        blocking_tx.commit().await.unwrap();
        let worker = fixture.start_worker(handler(async |_| Verdict::done()));
        fixture.wait_for_state(second, JobState::Succeeded).await;
        assert_eq!(fixture.state(first).await, JobState::Ready, "{lane:?}");
        worker.stop().await;
    }
}

#[tokio::test]
async fn started_job_does_not_expire() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(expiring(&fixture, job()).await).await.id();
    let worker = fixture.start_worker(handler(async |run| match run.job.attempt {
        1 => Verdict::retry(error("once"), Some(Duration::from_millis(200))),
        _ => Verdict::done(),
    }));
    until("the job has failed once", async || {
        fixture.attempts(id).await.len() == 1
    })
    .await;
    expire_start(&fixture, id).await;
    fixture.wait_for_state(id, JobState::Succeeded).await;
    worker.stop().await;
}

#[tokio::test]
async fn expired_job_releases_what_it_held() {
    let fixture = Fixture::new().await;
    let unique = || NewJob {
        unique: Some(Unique {
            key: "one".to_owned(),
            hold: None,
        }),
        lane: Lane::Ordered("line".to_owned()),
        ..job()
    };
    let held = fixture
        .enqueue(expiring(&fixture, unique()).await)
        .await
        .id();
    assert_eq!(fixture.enqueue(unique()).await.id(), held);
    expire_start(&fixture, held).await;
    let worker = fixture.start_worker_with(options(&[(QUEUE, 1)]), succeeding_handler());
    fixture.wait_for_state(held, JobState::Cancelled).await;
    let next = fixture.enqueue(unique()).await.id();
    assert_ne!(next, held);
    fixture.wait_for_state(next, JobState::Succeeded).await;
    worker.stop().await;
}

#[tokio::test]
async fn manually_retried_expired_job_runs() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(expiring(&fixture, job()).await).await.id();
    expire_start(&fixture, id).await;
    let worker = fixture.start_worker(succeeding_handler());
    fixture.wait_for_state(id, JobState::Cancelled).await;
    let mut tx = fixture.tx().await;
    let changed = fixture.engine.retry(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(changed, ChangeOutcome::Applied(JobState::Ready));
    let done = fixture.wait_for_state(id, JobState::Succeeded).await;
    assert_eq!(done.expires_at, None);
    worker.stop().await;
}
