//! One process: what waits, what is taken ahead, what is given back.

use std::time::{Duration, Instant};

use tokio::sync::oneshot::Receiver;

use super::super::local_bucket::{Answer, Call, Granted, LocalBucket, Step};
use super::super::{Charge, Standing};
use harkara_accounts::{Policies, Policy, Strategy};

const HOLD: Duration = Duration::from_millis(250);
const MILLI: Duration = Duration::from_millis(1);

fn policies(quota: u32) -> Policies {
    let minute = Duration::from_secs(60);
    let policy = Policy::new("minute", Strategy::SlidingWindow, quota, 0, minute);
    Policies::new(vec![policy]).unwrap()
}

fn waits(step: Step) -> (Receiver<Answer>, bool) {
    match step {
        Step::Wait(answer, calls) => (answer, calls),
        Step::Known(charge) => panic!("it knows: {charge:?}"),
    }
}

fn knows(step: Step) -> Charge {
    match step {
        Step::Known(charge) => charge,
        Step::Wait(..) => panic!("it waits"),
    }
}

fn granted(granted: u32, remaining: u64) -> Granted {
    let retry = if remaining == 0 { HOLD } else { Duration::ZERO };
    Granted {
        granted,
        standings: vec![Standing {
            remaining,
            reset: Duration::from_secs(60),
            retry,
        }],
        hold: HOLD,
        moment: 7,
    }
}

fn told(mut answer: Receiver<Answer>) -> (bool, u64) {
    let charge = answer.try_recv().unwrap().unwrap();
    (charge.allowed(), charge.standings()[0].remaining)
}

/// A bucket of which a call has taken so many ahead.
fn leased(policies: &Policies, ahead: u32, now: Instant) -> LocalBucket {
    let bucket = LocalBucket::new("key", policies);
    let (first, calls) = waits(bucket.ask(policies, now));
    assert!(calls);
    let call = bucket.begin(now).unwrap();
    bucket.end(call, granted(1 + ahead, 50), now, now);
    assert!(bucket.begin(now).is_none());
    assert_eq!(told(first), (true, 50 + u64::from(ahead)));
    bucket
}

fn call_of(bucket: &LocalBucket, now: Instant) -> Call {
    bucket.begin(now).unwrap()
}

#[test]
fn requests_that_come_during_a_call_share_the_next_one() {
    let (policies, now) = (policies(9), Instant::now());
    let bucket = LocalBucket::new("key", &policies);
    let (first, calls) = waits(bucket.ask(&policies, now));
    assert!(calls);
    let call = call_of(&bucket, now);
    let later: Vec<_> = (0..3).map(|_| waits(bucket.ask(&policies, now))).collect();
    assert!(later.iter().all(|(_, calls)| !calls), "one calls for all");
    bucket.end(call, granted(1, 8), now, now);
    assert_eq!(told(first), (true, 8));
    let call = call_of(&bucket, now);
    assert_eq!(call.need(), 3);
    bucket.end(call, granted(2, 0), now, now);
    assert!(bucket.begin(now).is_none());
    let later: Vec<_> = later.into_iter().map(|(answer, _)| told(answer)).collect();
    assert_eq!(later, [(true, 1), (true, 0), (false, 0)]);
    // For a moment nobody is asked again.
    let refused = knows(bucket.ask(&policies, now + MILLI));
    assert!(!refused.allowed());
    assert_eq!(refused.retry_after(), Some(HOLD - MILLI));
    assert!(waits(bucket.ask(&policies, now + MILLI * 50)).1);
}

#[test]
fn what_was_taken_ahead_is_spent_here_and_what_is_left_of_it_given_back() {
    let (policies, now) = (policies(99), Instant::now());
    let bucket = leased(&policies, 3, now);
    for left in [52, 51] {
        let charge = knows(bucket.ask(&policies, now + MILLI));
        assert!(charge.allowed());
        assert_eq!(charge.standings()[0].remaining, left);
    }
    assert!(!bucket.settle(false, now + HOLD - MILLI), "it is not over");
    assert!(waits(bucket.ask(&policies, now + HOLD)).1, "it is over");
    let call = call_of(&bucket, now + HOLD);
    assert_eq!((call.need(), call.owed.count, call.owed.moment), (1, 1, 7));
}

#[test]
fn what_nobody_comes_for_is_given_back_as_well() {
    let (policies, now) = (policies(99), Instant::now());
    let bucket = leased(&policies, 3, now);
    assert!(!bucket.is_idle(now + HOLD * 9), "it holds tokens");
    assert!(bucket.settle(false, now + HOLD));
    assert!(
        !bucket.settle(false, now + HOLD),
        "somebody does it already"
    );
    let call = call_of(&bucket, now + HOLD);
    assert_eq!((call.need(), call.owed.count, call.ahead), (0, 3, 0));
    bucket.end(call, granted(0, 53), now + HOLD, now + HOLD);
    assert!(bucket.begin(now + HOLD).is_none());
    assert!(bucket.is_idle(now + HOLD));
}

#[test]
fn who_comes_during_a_call_has_of_what_it_took_ahead() {
    let (policies, now) = (policies(99), Instant::now());
    let bucket = LocalBucket::new("key", &policies);
    let (first, _) = waits(bucket.ask(&policies, now));
    let call = call_of(&bucket, now);
    let (second, _) = waits(bucket.ask(&policies, now));
    bucket.end(call, granted(3, 50), now, now + MILLI);
    assert!(bucket.begin(now + MILLI).is_none(), "all are answered");
    assert_eq!((told(first), told(second)), ((true, 52), (true, 51)));
    assert!(knows(bucket.ask(&policies, now + MILLI)).allowed());
}

#[test]
fn the_token_of_a_request_that_was_given_up_is_not_lost() {
    let (policies, now) = (policies(99), Instant::now());
    let bucket = LocalBucket::new("key", &policies);
    let (gone, _) = waits(bucket.ask(&policies, now));
    let (stays, _) = waits(bucket.ask(&policies, now));
    let call = call_of(&bucket, now);
    drop(gone);
    // One is left: the one that stays has it.
    bucket.end(call, granted(1, 0), now, now);
    assert_eq!(told(stays), (true, 0));
    assert!(bucket.begin(now).is_none());
}

#[test]
fn when_the_policies_change_nothing_is_spent_by_the_old_ones() {
    let (old, new, now) = (policies(99), policies(5), Instant::now());
    let bucket = leased(&old, 3, now);
    assert!(waits(bucket.ask(&new, now)).1);
    let call = call_of(&bucket, now);
    assert_eq!((call.need(), call.owed.count), (1, 3));
    assert_eq!(call.policies, new);
}

#[test]
fn what_a_failed_call_gave_back_is_not_given_back_again() {
    let (policies, now) = (policies(99), Instant::now());
    let bucket = leased(&policies, 3, now);
    let (mut answer, _) = waits(bucket.ask(&policies, now + HOLD));
    let call = call_of(&bucket, now + HOLD);
    bucket.fail(call, sqlx::Error::PoolTimedOut);
    assert!(answer.try_recv().unwrap().is_err());
    assert!(bucket.begin(now + HOLD).is_none());
    assert!(bucket.is_idle(now + HOLD * 2));
}
