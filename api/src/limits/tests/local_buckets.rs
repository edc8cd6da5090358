//! Requests of one process: waiting, tokens reserved ahead, tokens returned.

use std::time::{Duration, Instant};

use tokio::sync::oneshot::Receiver;

use super::super::local_bucket::{Call, CallResult, ChargeResult, LocalBucket, Step};
use super::super::{Charge, Standing};
use harkara_accounts::{Policies, Policy, Strategy};

const HOLD: Duration = Duration::from_millis(250);
const MILLI: Duration = Duration::from_millis(1);

fn policies(quota: u32) -> Policies {
    let minute = Duration::from_secs(60);
    let policy = Policy::new("minute", Strategy::SlidingWindow, quota, 0, minute);
    Policies::new(vec![policy]).unwrap()
}

fn expect_wait(step: Step) -> (Receiver<ChargeResult>, bool) {
    match step {
        Step::Wait(result, calls) => (result, calls),
        Step::Decided(charge) => panic!("decided without waiting: {charge:?}"),
    }
}

fn expect_decision(step: Step) -> Charge {
    match step {
        Step::Decided(charge) => charge,
        Step::Wait(..) => panic!("the request waits"),
    }
}

fn granted(granted: u32, remaining: u64) -> CallResult {
    let retry = if remaining == 0 { HOLD } else { Duration::ZERO };
    CallResult {
        granted,
        standings: vec![Standing {
            remaining,
            reset: Duration::from_secs(60),
            retry,
        }],
        hold: HOLD,
        charged_at: 7,
    }
}

fn outcome(mut result: Receiver<ChargeResult>) -> (bool, u64) {
    let charge = result.try_recv().unwrap().unwrap();
    (charge.allowed(), charge.standings()[0].remaining)
}

/// A bucket whose call has reserved `ahead` tokens.
fn leased(policies: &Policies, ahead: u32, now: Instant) -> LocalBucket {
    let bucket = LocalBucket::new("key", policies);
    let (first, calls) = expect_wait(bucket.charge(policies, now));
    assert!(calls);
    let call = bucket.begin_call(now).unwrap();
    bucket.end_call(call, granted(1 + ahead, 50), now, now);
    assert!(bucket.begin_call(now).is_none());
    assert_eq!(outcome(first), (true, 50 + u64::from(ahead)));
    bucket
}

fn call_of(bucket: &LocalBucket, now: Instant) -> Call {
    bucket.begin_call(now).unwrap()
}

#[test]
fn requests_that_arrive_during_a_call_share_the_next_one() {
    let (policies, now) = (policies(9), Instant::now());
    let bucket = LocalBucket::new("key", &policies);
    let (first, calls) = expect_wait(bucket.charge(&policies, now));
    assert!(calls);
    let call = call_of(&bucket, now);
    let later: Vec<_> = (0..3)
        .map(|_| expect_wait(bucket.charge(&policies, now)))
        .collect();
    assert!(
        later.iter().all(|(_, calls)| !calls),
        "one request starts the call for all"
    );
    bucket.end_call(call, granted(1, 8), now, now);
    assert_eq!(outcome(first), (true, 8));
    let call = call_of(&bucket, now);
    assert_eq!(call.waiting_requests(), 3);
    bucket.end_call(call, granted(2, 0), now, now);
    assert!(bucket.begin_call(now).is_none());
    let later: Vec<_> = later
        .into_iter()
        .map(|(result, _)| outcome(result))
        .collect();
    assert_eq!(later, [(true, 1), (true, 0), (false, 0)]);
    // The refusal is repeated for 50 ms without a call.
    let refused = expect_decision(bucket.charge(&policies, now + MILLI));
    assert!(!refused.allowed());
    assert_eq!(refused.retry_after(), Some(HOLD - MILLI));
    assert!(expect_wait(bucket.charge(&policies, now + MILLI * 50)).1);
}

#[test]
fn reserved_tokens_are_spent_locally_and_the_rest_is_returned() {
    let (policies, now) = (policies(99), Instant::now());
    let bucket = leased(&policies, 3, now);
    for left in [52, 51] {
        let charge = expect_decision(bucket.charge(&policies, now + MILLI));
        assert!(charge.allowed());
        assert_eq!(charge.standings()[0].remaining, left);
    }
    assert!(
        !bucket.settle(false, now + HOLD - MILLI),
        "the lease has not expired"
    );
    assert!(
        expect_wait(bucket.charge(&policies, now + HOLD)).1,
        "the lease has expired"
    );
    let call = call_of(&bucket, now + HOLD);
    assert_eq!(
        (
            call.waiting_requests(),
            call.unspent.count,
            call.unspent.charged_at
        ),
        (1, 1, 7)
    );
}

#[test]
fn unused_reserved_tokens_are_returned_by_settling() {
    let (policies, now) = (policies(99), Instant::now());
    let bucket = leased(&policies, 3, now);
    assert!(!bucket.is_idle(now + HOLD * 9), "the bucket holds tokens");
    assert!(bucket.settle(false, now + HOLD));
    assert!(
        !bucket.settle(false, now + HOLD),
        "another task already returns them"
    );
    let call = call_of(&bucket, now + HOLD);
    assert_eq!(
        (call.waiting_requests(), call.unspent.count, call.ahead),
        (0, 3, 0)
    );
    bucket.end_call(call, granted(0, 53), now + HOLD, now + HOLD);
    assert!(bucket.begin_call(now + HOLD).is_none());
    assert!(bucket.is_idle(now + HOLD));
}

#[test]
fn request_that_arrives_during_a_call_spends_its_reserved_tokens() {
    let (policies, now) = (policies(99), Instant::now());
    let bucket = LocalBucket::new("key", &policies);
    let (first, _) = expect_wait(bucket.charge(&policies, now));
    let call = call_of(&bucket, now);
    let (second, _) = expect_wait(bucket.charge(&policies, now));
    bucket.end_call(call, granted(3, 50), now, now + MILLI);
    assert!(
        bucket.begin_call(now + MILLI).is_none(),
        "every request has its result"
    );
    assert_eq!((outcome(first), outcome(second)), ((true, 52), (true, 51)));
    assert!(expect_decision(bucket.charge(&policies, now + MILLI)).allowed());
}

#[test]
fn token_of_a_dropped_request_passes_to_the_next() {
    let (policies, now) = (policies(99), Instant::now());
    let bucket = LocalBucket::new("key", &policies);
    let (gone, _) = expect_wait(bucket.charge(&policies, now));
    let (stays, _) = expect_wait(bucket.charge(&policies, now));
    let call = call_of(&bucket, now);
    drop(gone);
    // The only token goes to the request that still waits.
    bucket.end_call(call, granted(1, 0), now, now);
    assert_eq!(outcome(stays), (true, 0));
    assert!(bucket.begin_call(now).is_none());
}

#[test]
fn tokens_reserved_under_changed_policies_are_returned_unspent() {
    let (old, new, now) = (policies(99), policies(5), Instant::now());
    let bucket = leased(&old, 3, now);
    assert!(expect_wait(bucket.charge(&new, now)).1);
    let call = call_of(&bucket, now);
    assert_eq!((call.waiting_requests(), call.unspent.count), (1, 3));
    assert_eq!(call.policies, new);
}

#[test]
fn tokens_returned_by_a_failed_call_are_not_returned_again() {
    let (policies, now) = (policies(99), Instant::now());
    let bucket = leased(&policies, 3, now);
    let (mut result, _) = expect_wait(bucket.charge(&policies, now + HOLD));
    let call = call_of(&bucket, now + HOLD);
    bucket.fail_call(call, sqlx::Error::PoolTimedOut);
    assert!(result.try_recv().unwrap().is_err());
    assert!(bucket.begin_call(now + HOLD).is_none());
    assert!(bucket.is_idle(now + HOLD * 2));
}
