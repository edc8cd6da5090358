//! Tests of the fence: a claim whose lease or token no longer holds writes nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::job::{AttemptOutcome, JobState, NewJob, Unique};
use crate::testing::{Fixture, done, failed, job};
use crate::verdict::{RunOutcome, Verdict};

#[tokio::test]
async fn expired_lease_cannot_settle_even_a_job_not_claimed_again() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(job()).await;
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 1).await;
    fixture.expire(lease).await;
    let then = vec![job()];
    for outcome in [
        RunOutcome::Verdict(Verdict::Done {
            result: None,
            follow_ups: then,
        }),
        failed(),
        RunOutcome::PutBack,
    ] {
        assert_eq!(fixture.settle(vec![(claimed[0].clone(), outcome)]).await, 0);
    }
    assert_eq!(fixture.state_and_attempt(id).await, (JobState::Running, 1));
    assert!(fixture.attempts(id).await.is_empty());
    assert_eq!(
        fixture.count("select count(*) from queue.parcels").await,
        1,
        "no follow-up job"
    );
}

#[tokio::test]
async fn stale_token_cannot_settle_a_rescued_and_reclaimed_job() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(job()).await;
    let old_lease = fixture.open_lease().await;
    let old = fixture.claim(old_lease, 1).await;
    fixture.expire(old_lease).await;
    assert_eq!(fixture.engine.rescue().await.unwrap().jobs, 1);
    assert_eq!(
        fixture.settle(vec![(old[0].clone(), done())]).await,
        0,
        "the job waits"
    );
    let lease = fixture.open_lease().await;
    let new = fixture.claim(lease, 1).await;
    assert_eq!(
        fixture.settle(vec![(old[0].clone(), done())]).await,
        0,
        "another claim runs it"
    );
    assert_eq!(fixture.state_and_attempt(id).await, (JobState::Running, 2));
    assert_eq!(fixture.settle(vec![(new[0].clone(), done())]).await, 1);
    assert_eq!(
        fixture.settle(vec![(old[0].clone(), failed())]).await,
        0,
        "the job has finished"
    );
    assert_eq!(
        fixture.state_and_attempt(id).await,
        (JobState::Succeeded, 2)
    );
    let outcomes: Vec<_> = fixture
        .attempts(id)
        .await
        .iter()
        .map(|a| a.outcome)
        .collect();
    assert_eq!(outcomes, [AttemptOutcome::Lost, AttemptOutcome::Succeeded]);
}

#[tokio::test]
async fn stale_token_cannot_settle_a_job_reclaimed_under_the_same_lease() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(job()).await;
    let lease = fixture.open_lease().await;
    let old = fixture.claim(lease, 1).await;
    assert_eq!(
        fixture
            .settle(vec![(old[0].clone(), RunOutcome::PutBack)])
            .await,
        1
    );
    let new = fixture.claim(lease, 1).await;
    assert_ne!(old[0].parcel.token, new[0].parcel.token);

    // Both in one batch: only the outcome with the valid token is written, and the follow-up jobs of the
    // other are not created.
    let follows = Verdict::Done {
        result: None,
        follow_ups: vec![job()],
    };
    let both = vec![
        (old[0].clone(), RunOutcome::Verdict(follows)),
        (new[0].clone(), done()),
    ];
    assert_eq!(fixture.settle(both).await, 1);
    assert_eq!(
        fixture.state_and_attempt(id).await,
        (JobState::Succeeded, 1)
    );
    assert_eq!(fixture.count("select count(*) from queue.parcels").await, 1);
}

#[tokio::test]
async fn settled_run_cannot_be_settled_again() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(job()).await;
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 1).await;
    assert_eq!(
        fixture.settle(vec![(claimed[0].clone(), failed())]).await,
        1
    );
    assert_eq!(fixture.settle(vec![(claimed[0].clone(), done())]).await, 0);
    assert_eq!(
        fixture.state_and_attempt(id).await,
        (JobState::Scheduled, 1)
    );
    assert_eq!(fixture.attempts(id).await.len(), 1);
}

#[tokio::test]
async fn stale_claim_in_a_batch_does_not_affect_the_others() {
    let fixture = Fixture::new().await;
    for _ in 0..20 {
        fixture.enqueue(job()).await;
    }
    let (dead, live) = (fixture.open_lease().await, fixture.open_lease().await);
    let mut claimed = fixture.claim(dead, 5).await;
    claimed.extend(fixture.claim(live, 15).await);
    assert_eq!(claimed.len(), 20);
    fixture.expire(dead).await;
    let outcomes = claimed.into_iter().map(|job| (job, done())).collect();
    assert_eq!(fixture.settle(outcomes).await, 15);
    assert_eq!(
        fixture
            .count("select coalesce(sum(n), 0) from queue.parcels where state = 'd'")
            .await,
        15
    );
}

#[tokio::test]
async fn expired_or_closed_lease_can_neither_be_renewed_nor_claimed_under() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(job()).await;
    let lease = fixture.open_lease().await;
    let length = Duration::from_secs(60);
    assert!(fixture.engine.renew_lease(lease, length).await.unwrap());
    fixture.expire(lease).await;
    assert!(!fixture.engine.renew_lease(lease, length).await.unwrap());
    assert!(fixture.claim(lease, 1).await.is_empty());

    let closed = fixture.open_lease().await;
    fixture.engine.close_lease(closed).await.unwrap();
    assert!(!fixture.engine.renew_lease(closed, length).await.unwrap());
    assert!(fixture.claim(closed, 1).await.is_empty());
    assert_eq!(fixture.state_and_attempt(id).await, (JobState::Ready, 0));
}

#[tokio::test]
async fn lease_with_a_running_job_is_not_closed() {
    let fixture = Fixture::new().await;
    fixture.enqueue(job()).await;
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 1).await;
    let open = "select count(*) from queue.leases where closed_at is null";
    fixture.engine.close_lease(lease).await.unwrap();
    assert_eq!(fixture.count(open).await, 1);
    fixture.settle(vec![(claimed[0].clone(), done())]).await;
    fixture.engine.close_lease(lease).await.unwrap();
    assert_eq!(fixture.count(open).await, 0);
}

#[tokio::test]
async fn lost_claim_is_found_by_its_unknown_token() {
    let fixture = Fixture::new().await;
    for _ in 0..3 {
        fixture.enqueue(job()).await;
    }
    let lease = fixture.open_lease().await;
    let (known, unknown) = (fixture.claim(lease, 1).await, fixture.claim(lease, 2).await);
    let neighbour = fixture.open_lease().await;
    assert!(
        fixture
            .engine
            .find_lost_claims(neighbour, &[])
            .await
            .unwrap()
            .is_empty()
    );
    let lost = fixture
        .engine
        .find_lost_claims(lease, &[known[0].parcel.token])
        .await
        .unwrap();
    assert_eq!(lost.len(), 2);
    assert!(
        lost.iter()
            .all(|job| job.parcel.token == unknown[0].parcel.token)
    );
    let outcomes = lost
        .into_iter()
        .map(|job| (job, RunOutcome::PutBack))
        .collect();
    assert_eq!(fixture.settle(outcomes).await, 2);
    assert!(
        fixture
            .engine
            .find_lost_claims(lease, &[known[0].parcel.token])
            .await
            .unwrap()
            .is_empty()
    );
    let untouched = "select count(*) from queue.parcels where state = 'a' and attempt = 0";
    assert_eq!(fixture.count(untouched).await, 2);
}

#[tokio::test]
async fn claim_commits_asynchronously_and_everything_else_synchronously() {
    let fixture = Fixture::new().await;
    fixture.enqueue(job()).await;
    let mut tx = fixture.engine.pool().begin().await.unwrap();
    let setting = "select current_setting('synchronous_commit')";
    let setting = harkara_shared::database::query_scalar::<String>(setting);
    let statement = include_str!("../claim/claim_jobs.sql");
    harkara_shared::database::query(statement)
        .bind(1_i32)
        .bind(fixture.open_lease().await)
        .bind(1_i64)
        .bind(vec![1_i64])
        .bind(vec![1_i32])
        .bind(vec![1_i32])
        .bind(Vec::<i16>::new())
        .bind(Vec::<DateTime<Utc>>::new())
        .bind(1_i32)
        .bind(0_i32)
        .bind(1_000_000_i32)
        .bind(true)
        .execute(&mut *tx)
        .await
        .unwrap();
    assert_eq!(setting.fetch_one(&mut *tx).await.unwrap(), "off");
    tx.rollback().await.unwrap();
    assert_eq!(
        fixture
            .count("select (current_setting('synchronous_commit') = 'off')::int::int8")
            .await,
        0
    );
}

#[tokio::test]
async fn follow_up_jobs_of_one_batch_share_its_transaction_and_unique_keys() {
    let fixture = Fixture::new().await;
    fixture.enqueue(job()).await;
    fixture.enqueue(job()).await;
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 2).await;
    let keyed = || NewJob {
        unique: Some(Unique {
            key: "a".to_owned(),
            hold: None,
        }),
        ..job()
    };
    let follows = || {
        RunOutcome::Verdict(Verdict::Done {
            result: None,
            follow_ups: vec![keyed(), job(), keyed()],
        })
    };
    let outcomes = claimed.into_iter().map(|job| (job, follows())).collect();
    assert_eq!(fixture.settle(outcomes).await, 2);
    assert_eq!(
        fixture
            .count("select coalesce(sum(n), 0) from queue.parcels where state = 'a'")
            .await,
        3
    );
    assert_eq!(
        fixture
            .count("select count(*) from queue.unique_keys")
            .await,
        1
    );
}

#[tokio::test]
async fn job_put_back_before_it_ran_has_not_started() {
    let fixture = Fixture::new().await;
    let id = fixture
        .enqueue(NewJob {
            expires_at: Some(fixture.now().await + chrono::TimeDelta::hours(1)),
            ..job()
        })
        .await;
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 1).await;
    let over = "update queue.parcels set expires_at = now()";
    fixture.execute(over).await;
    let expire = "select queue.cancel_expired_jobs(10)::int8";
    assert_eq!(fixture.count(expire).await, 0, "the job runs");
    let put_back = claimed.into_iter().map(|job| (job, RunOutcome::PutBack));
    assert_eq!(fixture.settle(put_back.collect()).await, 1);
    assert_eq!(fixture.job(id).await.started_at, None);
    assert_eq!(fixture.count(expire).await, 1);
    assert_eq!(
        fixture.state_and_attempt(id).await,
        (JobState::Cancelled, 0)
    );
}
