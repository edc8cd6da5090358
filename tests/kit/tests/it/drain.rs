//! Tests of draining a queue.

use harkara_queue::Quota;
use std::time::Duration;

use harkara_kit::Drained;
use harkara_queue::job::{AttemptOutcome, JobState, Lane};

use crate::odd::{Args, Odd, SECOND, kit};

#[tokio::test]
async fn drain_runs_ready_jobs_in_order_and_leaves_waiting_jobs() {
    let kit = kit().await;
    let mut ids = Vec::new();
    for args in [
        Args::Succeed,
        Args::Fail,
        Args::Bury,
        Args::Panic,
        Args::Snooze(60),
    ] {
        ids.push(kit.enqueue::<Odd>(args).await);
    }
    let later = kit.enqueue::<Odd>(Args::Succeed).delay(SECOND).await;
    let slow = kit
        .enqueue::<Odd>(Args::Wait)
        .with(|job| job.timeout = Duration::from_millis(20))
        .await;
    let drained = kit.drain("odd").await;
    assert_eq!(
        drained,
        Drained {
            ran: [ids.as_slice(), &[slow]].concat(),
            succeeded: vec![ids[0]],
            retried: vec![ids[1], ids[3], slow],
            dead: vec![ids[2]],
            snoozed: vec![ids[4]],
            ..Drained::default()
        }
    );
    assert_eq!(kit.job(later).await.state, JobState::Scheduled);
    let panicked = kit.job(ids[3]).await;
    assert_eq!(panicked.last_error.unwrap().code, "panic");
    assert_eq!(kit.job(slow).await.last_error.unwrap().code, "timeout");
    let snoozed = kit.job(ids[4]).await;
    assert_eq!(
        (snoozed.attempt, snoozed.run_at),
        (0, kit.now() + SECOND * 60)
    );
    assert_eq!(kit.drain("odd").await, Drained::default());
}

#[tokio::test]
async fn drain_includes_follow_ups_and_immediate_retries() {
    let kit = kit().await;
    let first = kit
        .enqueue::<Odd>(Args::Follow(vec![Args::Follow(vec![Args::FailAtOnce])]))
        .await;
    let drained = kit.drain("odd").await;
    assert_eq!(drained.succeeded.len(), 2);
    assert_eq!(drained.succeeded[0], first);
    let last = drained.dead[0];
    assert_eq!((drained.retried, drained.dead), (vec![last; 2], vec![last]));
    kit.refute_enqueued::<Odd>().await;
}

#[tokio::test]
async fn drain_runs_packed_jobs_and_lanes_sequentially_and_concurrently() {
    for slots in [1, 8] {
        let kit = kit().await;
        let mut jobs = Vec::new();
        for nth in 0..60 {
            let args = if nth % 3 == 0 {
                Args::Fail
            } else {
                Args::Succeed
            };
            let payload = serde_json::value::to_raw_value(&args).unwrap();
            let mut job = harkara_jobs::catalogue::Kind::of::<Odd>().job(payload);
            if nth % 5 == 0 {
                job.lane = Lane::Named(format!("lane {}", nth % 4));
            }
            jobs.push(job);
        }
        let mut tx = kit.tx().await;
        let engine = &kit.services.engine;
        engine
            .enqueue_all(&mut tx, kit.tenant, jobs, Quota::Skip)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let drained = kit.drain("odd").at_once(slots).await;
        assert_eq!((drained.succeeded.len(), drained.retried.len()), (40, 20));
    }
}

#[tokio::test]
async fn one_call_runs_a_job_through_all_its_backoffs() {
    let kit = kit().await;
    let start = kit.now();
    let id = kit.enqueue::<Odd>(Args::Fail).await;
    let snoozed = kit.enqueue::<Odd>(Args::Snooze(4)).delay(SECOND).await;
    let drained = kit.drain("odd").until(start + SECOND * 20).await;
    assert_eq!((drained.retried, drained.dead), (vec![id; 2], vec![id]));
    // At 1, 5, 9, 13 and 17 seconds.
    assert_eq!(drained.snoozed, vec![snoozed; 5]);
    assert_eq!(kit.now(), start + SECOND * 20);
    let starts: Vec<_> = kit
        .attempts(id)
        .await
        .iter()
        .map(|attempt| attempt.started_at - start)
        .map(|since| since.num_seconds())
        .collect();
    assert_eq!(starts, [0, 5, 15], "backoffs of 5 s and then 10 s");
}

#[tokio::test]
async fn jobs_of_a_dead_worker_return_when_its_lease_expires() {
    let kit = kit().await;
    let id = kit.enqueue::<Odd>(Args::Succeed).await;
    assert_eq!(kit.crash("odd").await, [id]);
    kit.advance(Duration::from_secs(29)).await;
    assert_eq!(kit.drain("odd").await, Drained::default());
    assert_eq!(kit.job(id).await.state, JobState::Running);
    kit.advance(SECOND).await;
    assert_eq!(kit.drain("odd").await.succeeded, [id]);
    let outcomes: Vec<_> = kit
        .attempts(id)
        .await
        .iter()
        .map(|attempt| attempt.outcome)
        .collect();
    assert_eq!(outcomes, [AttemptOutcome::Lost, AttemptOutcome::Succeeded]);
}

#[tokio::test]
async fn cancel_reaches_waiting_and_running_jobs() {
    let kit = kit().await;
    let waits = kit.enqueue::<Odd>(Args::Succeed).delay(SECOND).await;
    kit.cancel(waits).await;
    assert_eq!(kit.job(waits).await.state, JobState::Cancelled);
    let runs = kit.enqueue::<Odd>(Args::Wait).await;
    let cancelling = async {
        while kit.job(runs).await.state != JobState::Running {
            tokio::task::yield_now().await;
        }
        kit.cancel(runs).await;
    };
    let (drained, ()) = tokio::join!(kit.drain("odd").into_future(), cancelling);
    assert_eq!(drained.cancelled, [runs]);
    assert_eq!(kit.job(runs).await.state, JobState::Cancelled);
}
