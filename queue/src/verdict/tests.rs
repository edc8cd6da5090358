//! Property tests of `decide`, for any sequence of outcomes.

use std::time::Duration;

use chrono::DateTime;
use harkara_shared::id::{JobId, TenantId};
use proptest::prelude::*;

use super::*;
use crate::envelope::Envelope;
use crate::testing;

/// A run of a job with this number of attempts and deferrals.
fn claimed(attempt: u16, max_attempts: u16, deferrals: u16, readable: bool) -> ClaimedJob {
    let body = Envelope::of(&testing::job());
    ClaimedJob {
        id: JobId::from_i64(1024),
        tenant: TenantId::new(),
        kind: "test.job".into(),
        attempt,
        max_attempts,
        run_at: DateTime::UNIX_EPOCH,
        started_at: DateTime::UNIX_EPOCH,
        deferrals,
        parcel: testing::parcel(),
        member: 1,
        body: if readable {
            Ok(body.into())
        } else {
            Err("torn".into())
        },
    }
}

fn any_wait() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        any::<u32>().prop_map(|ms| Duration::from_millis(ms.into())),
        Just(Duration::MAX),
    ]
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    let error = || JobError::new("code", "words");
    prop_oneof![
        Just(Verdict::done()),
        (proptest::option::of(any_wait()), any::<bool>()).prop_map(
            move |(after, lower_priority)| {
                Verdict::Retry {
                    error: error(),
                    after,
                    lower_priority,
                }
            }
        ),
        Just(Verdict::Dead { error: error() }),
        any_wait().prop_map(move |wait| Verdict::Snooze {
            wait,
            reason: error()
        }),
        any_wait().prop_map(move |wait| Verdict::RateLimited {
            wait,
            reason: error()
        }),
        any_wait().prop_map(|wait| Verdict::Yield { wait }),
        Just(Verdict::Cancelled),
    ]
}

fn any_outcome() -> impl Strategy<Value = RunOutcome> {
    prop_oneof![
        1 => Just(RunOutcome::PutBack),
        9 => any_verdict().prop_map(RunOutcome::Verdict),
    ]
}

/// The counters of a job: a claim adds an attempt, a settlement can give it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    attempt: u16,
    deferrals: u16,
    charged: u16,
}

proptest! {
    #[test]
    fn only_failures_use_attempts_and_every_job_ends(
        outcomes in proptest::collection::vec(any_outcome(), 1..60),
        max_attempts in 1..20_u16,
        deferrals in prop_oneof![Just(0), (MAX_DEFERRALS - 5)..=MAX_DEFERRALS],
    ) {
        let mut counts = Counts { attempt: 0, deferrals, charged: 0 };
        for outcome in outcomes {
            counts.attempt += 1;
            let job = claimed(counts.attempt, max_attempts, counts.deferrals, true);
            let fails = match &outcome {
                RunOutcome::Verdict(Verdict::Retry { .. }) => true,
                RunOutcome::Verdict(Verdict::Snooze { .. } | Verdict::RateLimited { .. }) => {
                    counts.deferrals >= MAX_DEFERRALS
                }
                _ => false,
            };
            let settlement = decide(outcome, &job, &mut rand::rng());
            counts.attempt -= u16::from(settlement.refund);
            counts.deferrals += u16::from(settlement.deferral);
            counts.charged += u16::from(fails);

            prop_assert!(counts.attempt <= max_attempts);
            prop_assert!(counts.deferrals <= MAX_DEFERRALS);
            prop_assert!(!settlement.deferral || settlement.refund, "a deferral uses no attempt");
            if settlement.state.is_final() {
                prop_assert!(!settlement.refund);
                prop_assert!(settlement.wait.is_none());
                if fails {
                    prop_assert_eq!(settlement.state, JobState::Dead);
                    prop_assert_eq!(counts.attempt, max_attempts, "dead if and only if no attempt is left");
                }
                break;
            }
            prop_assert_eq!(counts.attempt, counts.charged, "every failure uses one attempt, and nothing else does");
            prop_assert!(!fails || counts.attempt < max_attempts);
        }
    }

    #[test]
    fn log_and_error_are_written_for_unsuccessful_runs_only(
        outcome in any_outcome(),
        max_attempts in 1..20_u16,
        deferrals in 0..=MAX_DEFERRALS,
        readable: bool,
    ) {
        let job = claimed(1, max_attempts, deferrals, readable);
        let writes_no_log =
            matches!(outcome, RunOutcome::PutBack | RunOutcome::Verdict(Verdict::Yield { .. }));
        let settlement = decide(outcome, &job, &mut rand::rng());
        prop_assert_eq!(settlement.outcome.is_none(), writes_no_log);
        let unsuccessful = settlement.state != JobState::Succeeded && !writes_no_log;
        prop_assert_eq!(settlement.error.is_some(), unsuccessful);
        prop_assert!(unsuccessful || settlement.state.is_final() || writes_no_log);
        prop_assert_eq!(settlement.state == JobState::Scheduled, settlement.wait.is_some());
        let written = settlement.written_state();
        prop_assert_eq!(written.is_final(), settlement.state.is_final());
        prop_assert!(written != JobState::Running);
        if settlement.wait.is_some_and(|wait| wait.is_zero()) {
            prop_assert_eq!(written, JobState::Ready);
        }
    }

    #[test]
    fn requested_wait_is_kept_exactly(
        wait in any_wait(),
        deferrals in 0..=MAX_DEFERRALS,
    ) {
        let job = claimed(1, 2, deferrals, true);
        let reason = JobError::new("code", "words");
        for verdict in [
            Verdict::retry(reason.clone(), Some(wait)),
            Verdict::Snooze { wait, reason: reason.clone() },
            Verdict::Yield { wait },
            Verdict::RateLimited { wait, reason },
        ] {
            let settlement = decide(RunOutcome::Verdict(verdict), &job, &mut rand::rng());
            prop_assert_eq!(settlement.wait, Some(wait));
        }
    }
}

#[test]
fn backoff_grows_with_the_attempts() {
    let waits: Vec<u64> = (1..5)
        .map(|attempt| {
            let outcome = RunOutcome::Verdict(Verdict::retry(JobError::new("code", "words"), None));
            let settlement = decide(outcome, &claimed(attempt, 9, 0, true), &mut rand::rng());
            settlement.wait.unwrap().as_secs()
        })
        .collect();
    assert_eq!(waits, [5, 10, 20, 40]);
}
