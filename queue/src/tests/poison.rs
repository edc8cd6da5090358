//! A job that kills its worker takes nobody with it.

use crate::claim::Claimed;
use crate::job::{AttemptOutcome, JobState, NewJob};
use crate::testing::{Stand, done, failed, job};
use crate::verdict::Ending;

/// Works as a worker does that takes what it can get, at most `most` at once, and dies of the job
/// with the payload 250: whatever it holds then is lost.
async fn work_and_die(stand: &Stand, most: u32) -> u32 {
    let is_poison = |job: &Claimed| job.payload().get() == "250";
    let mut deaths = 0;
    loop {
        let lease = stand.open_lease().await;
        let mut died = false;
        loop {
            let claimed = stand.claim(lease, most).await;
            if claimed.is_empty() {
                break;
            }
            died = claimed.iter().any(is_poison);
            if died {
                break;
            }
            assert!(
                claimed.iter().filter(|job| job.parcel.lost).count() <= 1,
                "one at a time of those under which a worker died"
            );
            let endings: Vec<_> = claimed.into_iter().map(|job| (job, done())).collect();
            let count = endings.len();
            assert_eq!(stand.settle(endings).await, count);
        }
        if !died {
            return deaths;
        }
        deaths += 1;
        stand.expire(lease).await;
        stand.engine.rescue().await.unwrap();
    }
}

#[tokio::test]
async fn a_poisonous_job_is_dead_after_its_attempts_and_the_rest_of_its_parcel_succeeds() {
    for max_attempts in [2, 3] {
        let stand = Stand::new().await;
        let jobs = (0..500).map(|n: u32| NewJob {
            payload: serde_json::value::to_raw_value(&n).unwrap(),
            max_attempts,
            ..job()
        });
        let ids = stand.enqueue_all(jobs.collect()).await;
        assert_eq!(stand.count("select count(*) from queue.parcels").await, 1);
        let deaths = work_and_die(&stand, 500).await;
        assert_eq!(deaths, u32::from(max_attempts));
        let dead = stand.job(ids[250]).await;
        assert_eq!((dead.state, dead.attempt), (JobState::Dead, max_attempts));
        assert_eq!(dead.last_error.unwrap().code, "worker_lost");
        let log = stand.attempts(ids[250]).await;
        assert_eq!(log.len(), usize::from(max_attempts));
        assert!(log.iter().all(|run| run.outcome == AttemptOutcome::Lost));
        let well = stand
            .count(
                "select count(*) from queue.parcels where state = 'd' and n = 1 and gone is null",
            )
            .await;
        assert_eq!(well, 499);
        assert_eq!(stand.is(ids[499]).await, (JobState::Succeeded, 2));
    }
}

#[tokio::test]
async fn what_is_enqueued_later_does_not_wait_for_lost_jobs() {
    let stand = Stand::new().await;
    stand.enqueue_all(vec![job(); 5]).await;
    let lease = stand.open_lease().await;
    assert_eq!(stand.claim(lease, 5).await.len(), 5);
    stand.expire(lease).await;
    stand.engine.rescue().await.unwrap();
    let later = stand.enqueue_all(vec![job(); 7]).await;
    let lease = stand.open_lease().await;
    let claimed = stand.claim(lease, 20).await;
    let lost = claimed.iter().filter(|job| job.parcel.lost).count();
    assert_eq!((claimed.len(), lost), (8, 1));
    assert!(
        later
            .iter()
            .all(|id| claimed.iter().any(|job| job.id == *id))
    );
}

#[tokio::test]
async fn a_lost_job_that_is_put_back_is_still_taken_up_alone() {
    let stand = Stand::new().await;
    stand.enqueue_all(vec![job(); 3]).await;
    let lease = stand.open_lease().await;
    assert_eq!(stand.claim(lease, 3).await.len(), 3);
    stand.expire(lease).await;
    stand.engine.rescue().await.unwrap();
    let lease = stand.open_lease().await;
    for ending in [Ending::PutBack, failed()] {
        let claimed = stand.claim(lease, 3).await;
        assert_eq!((claimed.len(), claimed[0].attempt), (1, 2));
        assert!(claimed[0].parcel.lost);
        assert_eq!(stand.settle(vec![(claimed[0].clone(), ending)]).await, 1);
    }
    // One has let its worker live.
    let lost = "select count(*) from queue.parcels where lost and state in ('s', 'a')";
    assert_eq!(stand.count(lost).await, 2);
}
