//! One run by hand.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use harkara_kit::{CancellationToken, Performed};
use harkara_queue::job::JobState;
use harkara_queue::read::{self, JobFilter};
use serde_json::json;

use crate::odd::{Args, Odd, SECOND, kit};

/// The words of a panic.
pub(crate) fn words(of: impl FnOnce()) -> String {
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
    let told = run(Args::FailAtOnce).await.retried("failed");
    assert_eq!(told.wait, Some(Duration::ZERO));
    assert_eq!(run(Args::Bury).await.dead("hopeless").message, "on purpose");
    let told = run(Args::Snooze(7)).await.snoozed("early");
    assert_eq!(told.wait, Some(SECOND * 7));
    let told = run(Args::Limited(9)).await.rate_limited("busy");
    assert_eq!(told.wait, Some(SECOND * 9));
    let done = run(Args::Follow(vec![Args::Fail, Args::Bury])).await.done();
    assert_eq!(done.follow_ups::<Odd>(), [Args::Fail, Args::Bury]);
}

#[tokio::test]
async fn performed_handler_runs_inside_the_worker_layer() {
    let kit = kit().await;
    let told = kit.perform::<Odd>(Args::Panic).attempt(3).of(4).await;
    assert_eq!(
        told.retried("panic").message,
        "the handler panicked: attempt 3"
    );
    let slow = kit
        .perform::<Odd>(Args::Wait)
        .timeout(Duration::from_millis(20));
    let told = slow.await.retried("timeout");
    assert_eq!(told.message, "the handler did not finish within 20 ms");
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
    let refused = words(|| drop(kit.perform::<Odd>(Args::Wrong).into_future()));
    assert!(
        refused.contains("test.odd: the API would refuse \"wrong\""),
        "{refused}"
    );
    assert!(refused.contains("must be another"), "{refused}");
    let refused = words(|| drop(kit.enqueue::<Odd>(json!("unheard_of"))));
    assert!(refused.contains("unknown variant"), "{refused}");
    let old = kit.perform::<Odd>(json!("unheard_of")).unchecked();
    old.await.dead("invalid_payload");
}

#[tokio::test]
async fn unexpected_verdict_is_shown() {
    let kit = kit().await;
    let wanted = async |args, ask: fn(Performed)| {
        let performed = kit.perform::<Odd>(args).await;
        words(|| ask(performed))
    };
    assert_eq!(
        wanted(Args::Bury, |run| drop(run.retried("failed"))).await,
        "test.odd: wanted a retry by `failed`, but it is dead by `hopeless` (on purpose)"
    );
    assert_eq!(
        wanted(Args::Fail, |run| drop(run.retried("timeout"))).await,
        "test.odd: wanted a retry by `timeout`, but it is retried by `failed` (on purpose)"
    );
    assert_eq!(
        wanted(Args::Limited(2), |run| drop(run.done())).await,
        "test.odd: wanted it to be done, but it is rate limited for 2s by `busy` (on purpose)"
    );
    assert_eq!(
        wanted(Args::Follow(vec![Args::Fail]), |run| run.cancelled()).await,
        "test.odd: wanted it to be cancelled, but it is done, with no result and 1 jobs to follow"
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
