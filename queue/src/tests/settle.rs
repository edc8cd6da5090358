//! Tests of rows whose members end at different times.

use std::collections::BTreeSet;

use crate::job::{AttemptOutcome, JobState, NewJob, Unique};
use crate::testing::{Fixture, done, failed, job};
use crate::verdict::{RunOutcome, Verdict};

fn keyed(key: &str) -> NewJob {
    NewJob {
        unique: Some(Unique {
            key: key.to_owned(),
            hold: None,
        }),
        ..job()
    }
}

#[tokio::test]
async fn retried_member_keeps_its_unique_key_when_the_others_succeed() {
    let fixture = Fixture::new().await;
    let ids = fixture
        .enqueue_all((0..4).map(|n| keyed(&n.to_string())).collect())
        .await;
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 10).await;
    assert_eq!(
        fixture.count("select count(*) from queue.parcels").await,
        1,
        "they were merged"
    );
    let again = claimed.iter().find(|job| job.id == ids[1]).unwrap();
    assert_eq!(fixture.settle(vec![(again.clone(), failed())]).await, 1);
    let rest: Vec<_> = claimed
        .iter()
        .filter(|job| job.id != ids[1])
        .cloned()
        .collect();
    assert_eq!(
        fixture
            .settle(rest.into_iter().map(|job| (job, done())).collect())
            .await,
        3
    );
    assert_eq!(
        fixture.state_and_attempt(ids[1]).await,
        (JobState::Scheduled, 1)
    );
    let held = fixture
        .count("select count(*) from queue.unique_keys where key = '1' and expires_at = 'infinity'")
        .await;
    let all = fixture
        .count("select count(*) from queue.unique_keys")
        .await;
    assert_eq!((held, all), (1, 1));
}

#[tokio::test]
async fn outcomes_whose_answer_was_lost_are_written_once() {
    let fixture = Fixture::new().await;
    fixture
        .execute("insert into queue.queues (name) values ('default')")
        .await;
    let ids = fixture.enqueue_all(vec![job(); 5]).await;
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 10).await;
    // A limiter counts its running jobs.
    fixture
        .execute("insert into queue.limiters (max_running, running) values (9, 5)")
        .await;
    fixture
        .execute("update queue.parcels set limiters = array[(select id from queue.limiters)]")
        .await;
    let well = RunOutcome::Verdict(Verdict::Done {
        result: Some(serde_json::json!(1)),
        follow_ups: vec![NewJob {
            priority: 9,
            ..job()
        }],
    });
    let batch = vec![
        (claimed[0].clone(), well),
        (claimed[1].clone(), failed()),
        (claimed[2].clone(), RunOutcome::PutBack),
    ];
    assert_eq!(fixture.settle(batch.clone()).await, 3);
    let left = claimed[0].parcel.unwritten();
    assert_eq!(left, 2);
    // As if the answer had not reached the caller.
    claimed[0].parcel.mark_written(u32::MAX - 2);
    assert_eq!(claimed[0].parcel.unwritten(), 5);
    assert_eq!(
        fixture.settle(batch).await,
        3,
        "they are reported as written"
    );
    assert_eq!(claimed[0].parcel.unwritten(), 2);
    assert_eq!(
        fixture
            .count("select running::int8 from queue.limiters")
            .await,
        2
    );
    let follows = "select count(*) from queue.parcels where priority = 9";
    assert_eq!(
        fixture.count(follows).await,
        1,
        "follow-up jobs were created once"
    );
    let rest = vec![(claimed[3].clone(), done()), (claimed[4].clone(), done())];
    assert_eq!(fixture.settle(rest).await, 2);
    assert_eq!(
        fixture
            .count("select running::int8 from queue.limiters")
            .await,
        0
    );
    assert_eq!(
        fixture.state_and_attempt(ids[0]).await,
        (JobState::Succeeded, 1)
    );
    assert_eq!(fixture.job(ids[0]).await.result, Some(serde_json::json!(1)));
    assert_eq!(
        fixture.state_and_attempt(ids[1]).await,
        (JobState::Scheduled, 1)
    );
    assert_eq!(fixture.attempts(ids[1]).await.len(), 1);
    assert_eq!(
        fixture.state_and_attempt(ids[2]).await,
        (JobState::Ready, 0)
    );
    for id in &ids[3..] {
        assert_eq!(
            fixture.state_and_attempt(*id).await,
            (JobState::Succeeded, 1)
        );
    }
}

#[tokio::test]
async fn job_held_by_two_claims_of_one_worker_is_settled_once() {
    let fixture = Fixture::new().await;
    let ids = fixture.enqueue_all(vec![job(); 3]).await;
    let lease = fixture.open_lease().await;
    let old = fixture.claim(lease, 10).await;
    // As after a crash of the database that lost an asynchronously committed claim.
    fixture
        .execute("update queue.parcels set state = 'a', token = null, lease = null, attempt = 0")
        .await;
    let new = fixture.claim(lease, 10).await;
    assert_eq!((old.len(), new.len()), (3, 3));
    let batch = vec![
        (old[0].clone(), failed()),
        (new[0].clone(), failed()),
        (old[1].clone(), failed()),
        (new[1].clone(), done()),
    ];
    assert_eq!(fixture.settle(batch).await, 2);
    assert_eq!(
        fixture.state_and_attempt(ids[0]).await,
        (JobState::Scheduled, 1)
    );
    assert_eq!(fixture.attempts(ids[0]).await.len(), 1);
    assert_eq!(
        fixture.state_and_attempt(ids[1]).await,
        (JobState::Succeeded, 1)
    );
    assert_eq!(
        fixture.state_and_attempt(ids[2]).await,
        (JobState::Running, 1)
    );
    assert_eq!(fixture.settle(vec![(new[2].clone(), done())]).await, 1);
    assert_eq!(
        fixture.count("select count(*) from queue.attempts").await,
        1
    );
}

#[tokio::test]
async fn settled_members_stay_succeeded_when_their_worker_dies() {
    let fixture = Fixture::new().await;
    let ids = fixture.enqueue_all(vec![job(); 500]).await;
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 500).await;
    assert_eq!(claimed.len(), 500);
    let result = |n: usize| {
        RunOutcome::Verdict(Verdict::Done {
            result: Some(serde_json::json!(n)),
            follow_ups: Vec::new(),
        })
    };
    let acked: BTreeSet<usize> = (0..500).filter(|n| n % 3 == 0).collect();
    for batch in acked.iter().copied().collect::<Vec<_>>().chunks(60) {
        let outcomes = batch
            .iter()
            .map(|n| (claimed[*n].clone(), result(*n)))
            .collect();
        assert_eq!(fixture.settle(outcomes).await, batch.len());
    }
    assert_eq!(
        fixture.state_and_attempt(ids[0]).await,
        (JobState::Succeeded, 1)
    );
    assert_eq!(
        fixture.state_and_attempt(ids[1]).await,
        (JobState::Running, 1)
    );
    fixture.expire(lease).await;
    let rescued = fixture.engine.rescue().await.unwrap();
    assert_eq!(rescued.jobs, 500 - i64::try_from(acked.len()).unwrap());
    let mut seen = BTreeSet::new();
    loop {
        let lease = fixture.open_lease().await;
        let more = fixture.claim(lease, 500).await;
        let Some(one) = more.first() else { break };
        assert_eq!(more.len(), 1, "one at a time");
        assert!(seen.insert(one.id), "each once");
        fixture.settle(vec![(one.clone(), done())]).await;
    }
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(acked.contains(&n), !seen.contains(id));
    }
    for n in [0, 1, 3, 4, 498, 499] {
        let job = fixture.job(ids[n]).await;
        let attempts = fixture.attempts(ids[n]).await;
        let outcomes: Vec<_> = attempts.iter().map(|run| run.outcome).collect();
        assert_eq!(job.state, JobState::Succeeded);
        if acked.contains(&n) {
            assert_eq!((job.attempt, job.result), (1, Some(serde_json::json!(n))));
            assert_eq!(outcomes, [AttemptOutcome::Succeeded]);
        } else {
            assert_eq!((job.attempt, job.result), (2, None));
            assert_eq!(outcomes, [AttemptOutcome::Lost, AttemptOutcome::Succeeded]);
        }
    }
}
