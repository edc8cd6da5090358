//! Tests that a job which kills its worker does not take other jobs with it.

use crate::claimed::ClaimedJob;
use crate::job::{AttemptOutcome, JobState, NewJob};
use crate::testing::{Fixture, done, failed, job};
use crate::verdict::RunOutcome;

/// Runs workers that claim up to `max_jobs` at once and die whenever they hold the job with the payload
/// 250, together with all jobs they hold. Returns the number of deaths when no job is left.
async fn run_dying_workers(fixture: &Fixture, max_jobs: u32) -> u32 {
    let is_poison = |job: &ClaimedJob| job.payload().get() == "250";
    let mut deaths = 0;
    loop {
        let lease = fixture.open_lease().await;
        let mut died = false;
        loop {
            let claimed = fixture.claim(lease, max_jobs).await;
            if claimed.is_empty() {
                break;
            }
            died = claimed.iter().any(is_poison);
            if died {
                break;
            }
            assert!(
                claimed.iter().filter(|job| job.parcel.lost).count() <= 1,
                "lost jobs are claimed one at a time"
            );
            let outcomes: Vec<_> = claimed.into_iter().map(|job| (job, done())).collect();
            let count = outcomes.len();
            assert_eq!(fixture.settle(outcomes).await, count);
        }
        if !died {
            return deaths;
        }
        deaths += 1;
        fixture.expire(lease).await;
        fixture.engine.rescue().await.unwrap();
    }
}

#[tokio::test]
async fn poisonous_job_is_dead_after_its_attempts_and_the_rest_of_its_parcel_succeeds() {
    for max_attempts in [2, 3] {
        let fixture = Fixture::new().await;
        let jobs = (0..500).map(|n: u32| NewJob {
            payload: serde_json::value::to_raw_value(&n).unwrap(),
            max_attempts,
            ..job()
        });
        let ids = fixture.enqueue_all(jobs.collect()).await;
        assert_eq!(fixture.count("select count(*) from queue.parcels").await, 1);
        let deaths = run_dying_workers(&fixture, 500).await;
        assert_eq!(deaths, u32::from(max_attempts));
        let dead = fixture.job(ids[250]).await;
        assert_eq!((dead.state, dead.attempt), (JobState::Dead, max_attempts));
        assert_eq!(dead.last_error.unwrap().code, "worker_lost");
        let log = fixture.attempts(ids[250]).await;
        assert_eq!(log.len(), usize::from(max_attempts));
        assert!(log.iter().all(|run| run.outcome == AttemptOutcome::Lost));
        let well = fixture
            .count(
                "select count(*) from queue.parcels where state = 'd' and n = 1 and gone is null",
            )
            .await;
        assert_eq!(well, 499);
        assert_eq!(
            fixture.state_and_attempt(ids[499]).await,
            (JobState::Succeeded, 2)
        );
    }
}

#[tokio::test]
async fn later_jobs_do_not_wait_for_lost_jobs() {
    let fixture = Fixture::new().await;
    fixture.enqueue_all(vec![job(); 5]).await;
    let lease = fixture.open_lease().await;
    assert_eq!(fixture.claim(lease, 5).await.len(), 5);
    fixture.expire(lease).await;
    fixture.engine.rescue().await.unwrap();
    let later = fixture.enqueue_all(vec![job(); 7]).await;
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 20).await;
    let lost = claimed.iter().filter(|job| job.parcel.lost).count();
    assert_eq!((claimed.len(), lost), (8, 1));
    assert!(
        later
            .iter()
            .all(|id| claimed.iter().any(|job| job.id == *id))
    );
}

#[tokio::test]
async fn lost_job_that_is_put_back_is_still_claimed_alone() {
    let fixture = Fixture::new().await;
    fixture.enqueue_all(vec![job(); 3]).await;
    let lease = fixture.open_lease().await;
    assert_eq!(fixture.claim(lease, 3).await.len(), 3);
    fixture.expire(lease).await;
    fixture.engine.rescue().await.unwrap();
    let lease = fixture.open_lease().await;
    for outcome in [RunOutcome::PutBack, failed()] {
        let claimed = fixture.claim(lease, 3).await;
        assert_eq!((claimed.len(), claimed[0].attempt), (1, 2));
        assert!(claimed[0].parcel.lost);
        assert_eq!(fixture.settle(vec![(claimed[0].clone(), outcome)]).await, 1);
    }
    // One was settled by a live worker, which clears the mark.
    let lost = "select count(*) from queue.parcels where lost and state in ('s', 'a')";
    assert_eq!(fixture.count(lost).await, 2);
}
