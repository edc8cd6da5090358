//! Tests of single runs.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use harkara_kit::{CancellationToken, Performed};
use harkara_queue::job::JobState;
use harkara_queue::read::{self, JobFilter};
use serde_json::json;

use crate::odd::{Args, Odd, SECOND, kit};

/// The message of a panic.
pub(crate) fn describe(of: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(AssertUnwindSafe(of)).unwrap_err();
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap()
}

#[tokio::test]
async fn every_verdict_has_an_assertion() {
    let kit = kit().await;
    let run = async |args| kit.perform::<Odd>(args).await;
    assert_eq!(run(Args::Succeed).await.done().result, None);
    assert_eq!(run(Args::Fail).await.retried("failed").wait, None);
    let failure = run(Args::FailAtOnce).await.retried("failed");
    assert_eq!(failure.wait, Some(Duration::ZERO));
    assert_eq!(run(Args::Bury).await.dead("hopeless").message, "on purpose");
    let failure = run(Args::Snooze(7)).await.snoozed("early");
    assert_eq!(failure.wait, Some(SECOND * 7));
    let failure = run(Args::Limited(9)).await.rate_limited("busy");
    assert_eq!(failure.wait, Some(SECOND * 9));
    let done = run(Args::Follow(vec![Args::Fail, Args::Bury])).await.done();
    assert_eq!(done.follow_ups::<Odd>(), [Args::Fail, Args::Bury]);
}

#[tokio::test]
async fn performed_handler_runs_inside_the_worker_layer() {
    let kit = kit().await;
    let failure = kit.perform::<Odd>(Args::Panic).attempt(3).of(4).await;
    assert_eq!(
        failure.retried("panic").message,
        "the handler panicked: attempt 3"
    );
    let slow = kit
        .perform::<Odd>(Args::Wait)
        .timeout(Duration::from_millis(20));
    let failure = slow.await.retried("timeout");
    assert_eq!(failure.message, "the handler did not finish within 20 ms");
    let cancel = CancellationToken::new();
    let run = kit.perform::<Odd>(Args::Wait).cancelled_by(&cancel);
    let run = run.timeout(SECOND).into_future();
    let (performed, ()) = tokio::join!(run, async { cancel.cancel() });
    performed.cancelled();
}

#[tokio::test]
async fn performing_a_kind_writes_no_job() {
    let kit = kit().await;
    let _ = kit.perform::<Odd>(Args::Follow(vec![Args::Succeed])).await;
    let filter = JobFilter::default();
    let mut tx = kit.tx().await;
    let jobs = read::list(&mut tx, kit.tenant, &filter, None, 10).await;
    assert!(jobs.unwrap().jobs.is_empty());
}

#[tokio::test]
async fn payload_is_decoded_and_validated_as_by_the_platform() {
    let kit = kit().await;
    let refused = describe(|| drop(kit.perform::<Odd>(Args::Wrong).into_future()));
    assert!(
        refused.contains("test.odd: the API would refuse \"wrong\""),
        "{refused}"
    );
    assert!(refused.contains("must be another"), "{refused}");
    let refused = describe(|| drop(kit.enqueue::<Odd>(json!("unheard_of"))));
    assert!(refused.contains("got `unheard_of`"), "{refused}");
    let old = kit.perform::<Odd>(json!("unheard_of")).unchecked();
    old.await.dead("invalid_payload");
}

#[tokio::test]
async fn unexpected_verdict_is_shown() {
    let kit = kit().await;
    let expected = async |args, assertion: fn(Performed)| {
        let performed = kit.perform::<Odd>(args).await;
        describe(|| assertion(performed))
    };
    assert_eq!(
        expected(Args::Bury, |run| drop(run.retried("failed"))).await,
        "test.odd: expected a retry with `failed`, got dead with `hopeless` (on purpose)"
    );
    assert_eq!(
        expected(Args::Fail, |run| drop(run.retried("timeout"))).await,
        "test.odd: expected a retry with `timeout`, got a retry with `failed` (on purpose)"
    );
    assert_eq!(
        expected(Args::Limited(2), |run| drop(run.done())).await,
        "test.odd: expected done, got a rate limit of 2s with `busy` (on purpose)"
    );
    assert_eq!(
        expected(Args::Follow(vec![Args::Fail]), |run| run.cancelled()).await,
        "test.odd: expected cancelled, got done with no result and 1 follow-up jobs"
    );
}

#[tokio::test]
async fn job_changes_reach_the_handler_and_the_table() {
    let kit = kit().await;
    let id = kit
        .enqueue::<Odd>(Args::Succeed)
        .delay(SECOND)
        .with(|job| job.priority = 2)
        .await;
    let job = kit.job(id).await;
    assert_eq!(
        (job.state, job.priority, job.run_at),
        (JobState::Scheduled, 2, kit.now() + SECOND)
    );
}
