//! What explanations must hold to, whatever the facts.

use chrono::{DateTime, TimeDelta, Utc};
use harkara_shared::id::{JobId, WorkerId};
use proptest::option::of;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::facts::{Breaker, Facts, Head, LaneFacts, LastRun, Lease, Limiter, LimiterOf, Pause};
use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(seconds)
}

fn moments() -> impl Strategy<Value = DateTime<Utc>> {
    (-5_000..5_000i64).prop_map(at)
}

fn past() -> impl Strategy<Value = DateTime<Utc>> {
    (-5_000..=0i64).prop_map(at)
}

fn states() -> impl Strategy<Value = JobState> {
    (0..JobState::ALL.len()).prop_map(|index| JobState::ALL[index])
}

fn limiters() -> impl Strategy<Value = Limiter> {
    let of = prop_oneof![
        Just(LimiterOf::Queue),
        Just(LimiterOf::Tenant),
        Just(LimiterOf::Lane),
        Just(LimiterOf::Key)
    ];
    (
        of,
        1..5u32,
        proptest::option::of((1..10u32, any::<bool>())),
        proptest::option::of((1..1000u32, 1..100u32)),
        0..10_000_000_000i64,
    )
        .prop_map(|(of, cost, places, rate, ahead_us)| Limiter {
            of,
            key: (of == LimiterOf::Key).then(|| "crm".to_owned()),
            cost,
            max_running: places.map(|(most, _)| most),
            full: places.is_some_and(|(_, full)| full),
            running: places
                .map(|(most, _)| most)
                .filter(|_| of != LimiterOf::Queue),
            rate_count: rate.map(|(count, _)| count),
            period_us: rate.map(|_| 60_000_000),
            burst: rate.map(|(_, burst)| burst),
            every_us: rate.map(|(count, _)| 60_000_000 / i64::from(count)),
            ahead_us,
        })
}

fn lanes() -> impl Strategy<Value = LaneFacts> {
    let breakers = prop_oneof![
        Just(Breaker::Closed),
        Just(Breaker::Open),
        Just(Breaker::HalfOpen)
    ];
    ("[a-z]{0,3}", breakers, 0..9u32, of(past()), of(1..5_000i64)).prop_map(
        |(key, breaker, failures, parked_at, parked)| LaneFacts {
            key,
            breaker,
            failures,
            parked_at,
            parked_until: parked.map(at),
        },
    )
}

fn facts() -> impl Strategy<Value = Facts> {
    let job = (states(), 0..5u32, moments(), past(), any::<[bool; 4]>());
    let pauses = (of(of(past())), of(of(past())), of(of(past())));
    let line = (
        0..12_000u32,
        0..5u32,
        of((1..4i64, states(), any::<bool>())),
    );
    let more = (
        of(past()),
        of((0..4usize, past(), any::<bool>())),
        of(moments()),
    );
    (
        job,
        pauses,
        lanes(),
        proptest::collection::vec(limiters(), 0..4),
        line,
        more,
    )
        .prop_map(|(job, pauses, lane, limiters, line, more)| {
            let (state, attempt, run_at, created_at, [lost, cancelling, served, all]) = job;
            let (ahead, rivals, head) = line;
            let pause = |since: Option<Option<DateTime<Utc>>>| since.map(|since| Pause { since });
            let outcomes = ["retry", "snoozed", "rate_limited", "lost"];
            Facts {
                now: at(0),
                job: JobId::from_i64(1),
                state,
                attempt,
                max_attempts: 5,
                run_at,
                created_at,
                started_at: (attempt > 0).then(|| at(-1)),
                finished_at: state.is_final().then(|| at(0)),
                error_code: (attempt > 1).then(|| "down".to_owned()),
                lost,
                cancelling,
                queue: "http".to_owned(),
                lease: more.2.map(|expires_at| Lease {
                    worker: WorkerId::new(),
                    expires_at,
                }),
                queue_pause: pause(pauses.0),
                tenant_pause: pause(pauses.1),
                lane_pause: pause(pauses.2),
                lane,
                limiters: Some(limiters),
                served,
                full: (served && all).then_some(8),
                served_last: more.0,
                last_run: more.1.map(|(index, finished_at, same)| LastRun {
                    outcome: outcomes[index].to_owned(),
                    finished_at: finished_at.min(run_at),
                    next_run_at: same.then_some(run_at),
                    error_code: None,
                }),
                head: head.map(|(job, state, begun)| Head {
                    job: JobId::from_i64(job),
                    state,
                    begun,
                }),
                ahead: ahead.min(10_000),
                more: ahead >= 10_000,
                rivals,
                more_rivals: all,
            }
        })
}

proptest! {
    #[test]
    fn reasons_agree_with_the_state_and_stand_in_order(facts in facts()) {
        let explanation = facts.explain();
        let codes: Vec<ReasonCode> = explanation.reasons.iter().map(|one| one.code).collect();
        prop_assert!(!codes.is_empty());
        let rank = |code: &ReasonCode| ReasonCode::ALL.iter().position(|other| other == code);
        prop_assert!(codes.is_sorted_by_key(rank), "{codes:?}");
        prop_assert_eq!(explanation.state, facts.state);
        match facts.state {
            JobState::Running => prop_assert_eq!(&codes, &[ReasonCode::Running]),
            state if state.is_final() => prop_assert_eq!(&codes, &[ReasonCode::Finished]),
            state => {
                let scheduled = state == JobState::Scheduled;
                prop_assert_eq!(codes.contains(&ReasonCode::Scheduled), scheduled);
                prop_assert_eq!(codes.contains(&ReasonCode::NoWorker), !facts.served);
                prop_assert_eq!(
                    codes.contains(&ReasonCode::QueuePaused),
                    facts.queue_pause.is_some()
                );
            }
        }
        let next = facts.state == JobState::Ready && codes == [ReasonCode::Behind];
        prop_assert_eq!(explanation.runnable, next);
        for reason in &explanation.reasons {
            prop_assert!(!reason.detail.is_empty() && !reason.detail.contains('\n'));
        }
    }

    /// What claims do: after the time that is told, and not a microsecond before, the limiter lets it through.
    #[test]
    fn a_limit_on_starts_opens_when_it_is_told_to(limiter in limiters()) {
        let through = |limiter: &Limiter| limiter.every_us.is_none_or(|every| {
            let cost = every * i64::from(limiter.cost);
            let burst = every * i64::from(limiter.burst.unwrap_or(1));
            (burst.max(cost) - limiter.ahead_us) / cost >= 1 && burst.max(cost) >= limiter.ahead_us
        });
        let after = |wait: i64| Limiter { ahead_us: (limiter.ahead_us - wait).max(0), ..limiter.clone() };
        match limiter.wait() {
            None => prop_assert!(through(&limiter)),
            Some(wait) => {
                let wait = wait.num_microseconds().unwrap();
                prop_assert!(!through(&after(wait - 1)));
                prop_assert!(through(&after(wait)));
            }
        }
    }
}

/// What the database answers for a job in an open queue.
fn answered() -> Value {
    json!({
        "at": "2026-11-21T02:12:13.898376+00:00", "job": 2048, "state": "a", "attempt": 0,
        "max_attempts": 3, "run_at": "2026-11-21T02:11:09.298181+00:00",
        "created_at": "2026-11-21T02:11:09.300181+00:00", "started_at": null, "finished_at": null,
        "error_code": null, "lost": false, "cancelling": false, "queue": "http", "queue_pause": null,
        "tenant_pause": null, "lane_pause": null, "limiters": null, "served": true, "ahead": 0,
        "more": false, "rivals": 0, "more_rivals": false,
        "lane": {"key": "", "breaker": "c", "failures": 0, "parked_at": null, "parked_until": null},
    })
}

#[test]
fn a_job_that_came_due_and_is_still_scheduled_says_that_it_is_about_to_be_ready() {
    let mut facts = answered();
    facts["state"] = json!("s");
    let facts: Facts = serde_json::from_value(facts).unwrap();
    let explanation = facts.explain();
    assert!(
        explanation.reasons[0]
            .detail
            .starts_with("it has just come due")
    );
    assert!(!explanation.runnable);
}

/// A limit that opens before the job is due keeps nobody.
#[test]
fn of_a_scheduled_job_only_what_holds_when_it_is_due_is_told() {
    let mut answer = answered();
    answer["state"] = json!("s");
    answer["limiters"] = json!([{
        "of": "tenant", "key": null, "cost": 1, "max_running": 1, "full": true, "running": 1,
        "rate_count": 60, "period_us": 3_600_000_000i64, "burst": 1, "every_us": 60_000_000,
        "ahead_us": 60_000_000,
    }]);
    for (due, wanted) in [
        (
            "2026-11-21T02:12:20Z",
            &[ReasonCode::Scheduled, ReasonCode::RateLimited][..],
        ),
        ("2026-11-21T02:14:00Z", &[ReasonCode::Scheduled]),
    ] {
        answer["run_at"] = json!(due);
        let facts: Facts = serde_json::from_value(answer.clone()).unwrap();
        let codes: Vec<ReasonCode> = facts.explain().reasons.iter().map(|one| one.code).collect();
        assert_eq!(codes, wanted, "{due}");
    }
}

#[test]
fn a_job_that_nothing_keeps_is_told_to_be_next() {
    let facts: Facts = serde_json::from_value(answered()).unwrap();
    let explanation = facts.explain();
    assert!(explanation.runnable);
    assert_eq!(explanation.reasons[0].ahead, Some(0));
}
