//! The tests of `invoice.remind`.

use std::time::Duration;

use harkara_jobs::catalogue::Kind;
use harkara_kit::{Kit, Receiver, Reply};
use harkara_queue::job::JobState;

use super::invoice_remind::{Args, InvoiceRemind};

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A platform, a receiver with this reply, and a reminder for it that is due now.
async fn scene(status: u16) -> (Kit, Receiver, Args) {
    let kit = Kit::start_with(&[Kind::of::<InvoiceRemind>()]).await;
    let receiver = Receiver::start(move |_| Reply::status(status)).await;
    let args = Args {
        invoice: "2026-117".to_owned(),
        url: receiver.url.clone(),
        from: kit.now(),
        round: 1,
    };
    (kit, receiver, args)
}

#[tokio::test]
async fn reminder_is_posted_and_followed_by_the_next() {
    let (kit, receiver, args) = scene(202).await;
    let done = kit.perform::<InvoiceRemind>(&args).await.done();
    assert_eq!(receiver.hits()[0].body, "2026-117, reminder 1");
    let next = Args {
        from: kit.now() + WEEK,
        round: 2,
        ..args
    };
    assert_eq!(done.follow_ups::<InvoiceRemind>(), [next]);
}

#[tokio::test]
async fn reminder_waits_for_its_time() {
    let (kit, receiver, mut args) = scene(202).await;
    args.from = kit.now() + WEEK;
    let failure = kit
        .perform::<InvoiceRemind>(&args)
        .await
        .snoozed("too_early");
    assert_eq!(failure.wait, Some(WEEK));
    assert!(receiver.hits().is_empty());
}

#[tokio::test]
async fn paid_invoice_gets_no_reminder() {
    let (kit, _receiver, args) = scene(410).await;
    let done = kit.perform::<InvoiceRemind>(&args).await.done();
    assert!(done.follow_ups.is_empty());
}

#[tokio::test]
async fn failing_receiver_is_retried_and_an_internal_one_is_not() {
    let (kit, _receiver, mut args) = scene(500).await;
    kit.perform::<InvoiceRemind>(&args).await.retried("refused");
    args.url = "http://169.254.169.254/".to_owned();
    kit.perform::<InvoiceRemind>(&args)
        .await
        .dead("egress_refused");
}

#[tokio::test]
async fn three_reminders_are_sent_a_week_apart() {
    let (kit, receiver, args) = scene(202).await;
    let start = kit.now();
    let first = kit.enqueue::<InvoiceRemind>(&args).await;
    assert_eq!(kit.drain("invoice").await.succeeded, [first]);
    let second = kit
        .assert_enqueued::<InvoiceRemind>(|args| args.round == 2)
        .await;
    assert_eq!(second.due, start + WEEK);

    kit.advance(WEEK).await;
    assert_eq!(kit.drain("invoice").await.succeeded, [second.id]);
    // A year in one call: every job that becomes due is run at its time.
    let drained = kit.drain("invoice").until(start + WEEK * 52).await;
    assert_eq!(drained.ran.len(), 1);
    kit.refute_enqueued::<InvoiceRemind>().await;
    assert_eq!(receiver.hits().len(), 3);
    assert_eq!(kit.job(second.id).await.state, JobState::Succeeded);
}
