//! Properties of explanations for arbitrary facts, and single cases.

use chrono::{DateTime, TimeDelta, Utc};
use harkara_shared::id::{JobId, WorkerId};
use proptest::option::of;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::facts::{Breaker, Facts, Head, LaneFacts, LastRun, Lease, LimitScope, Limiter, Pause};
use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(seconds)
}

fn times() -> impl Strategy<Value = DateTime<Utc>> {
    (-5_000..5_000i64).prop_map(at)
}

fn past_times() -> impl Strategy<Value = DateTime<Utc>> {
    (-5_000..=0i64).prop_map(at)
}

fn states() -> impl Strategy<Value = JobState> {
    (0..JobState::ALL.len()).prop_map(|index| JobState::ALL[index])
}

fn limiters() -> impl Strategy<Value = Limiter> {
    let scope = prop_oneof![
        Just(LimitScope::Queue),
        Just(LimitScope::Tenant),
        Just(LimitScope::Lane),
        Just(LimitScope::Key)
    ];
    (
        scope,
        1..5u32,
        proptest::option::of((1..10u32, any::<bool>())),
        proptest::option::of((1..1000u32, 1..100u32)),
        0..10_000_000_000i64,
    )
        .prop_map(|(scope, cost, max_running, rate, ahead_us)| Limiter {
            scope,
            key: (scope == LimitScope::Key).then(|| "crm".to_owned()),
            cost,
            max_running: max_running.map(|(most, _)| most),
            full: max_running.is_some_and(|(_, full)| full),
            running: max_running
                .map(|(most, _)| most)
                .filter(|_| scope != LimitScope::Queue),
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
    (
        "[a-z]{0,3}",
        breakers,
        0..9u32,
        of(past_times()),
        of(1..5_000i64),
    )
        .prop_map(|(key, breaker, failures, parked_at, parked)| LaneFacts {
            key,
            breaker,
            failures,
            parked_at,
            parked_until: parked.map(at),
        })
}

fn facts() -> impl Strategy<Value = Facts> {
    let job = (states(), 0..5u32, times(), past_times(), any::<[bool; 4]>());
    let pauses = (
        of(of(past_times())),
        of(of(past_times())),
        of(of(past_times())),
    );
    let line = (
        0..12_000u32,
        0..5u32,
        of((1..4i64, states(), any::<bool>())),
    );
    let more = (
        of(past_times()),
        of((0..4usize, past_times(), any::<bool>())),
        of(times()),
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
            let (ahead, other_lanes, head) = line;
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
                worker_lost: lost,
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
                has_live_worker: served,
                slots_all_taken: (served && all).then_some(8),
                last_served_at: more.0,
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
                ahead_is_minimum: ahead >= 10_000,
                other_ready_lanes: other_lanes,
                other_ready_lanes_is_minimum: all,
            }
        })
}

proptest! {
    #[test]
    fn reasons_agree_with_the_state_and_are_in_order(facts in facts()) {
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
                prop_assert_eq!(codes.contains(&ReasonCode::NoWorker), !facts.has_live_worker);
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

    /// As claims compute it: after the stated time, and not a microsecond before, the limiter admits the
    /// job.
    #[test]
    fn rate_limit_opens_at_the_stated_time(limiter in limiters()) {
        let admits = |limiter: &Limiter| limiter.every_us.is_none_or(|every| {
            let cost = every * i64::from(limiter.cost);
            let burst = every * i64::from(limiter.burst.unwrap_or(1));
            (burst.max(cost) - limiter.ahead_us) / cost >= 1 && burst.max(cost) >= limiter.ahead_us
        });
        let after = |wait: i64| Limiter { ahead_us: (limiter.ahead_us - wait).max(0), ..limiter.clone() };
        match limiter.wait() {
            None => prop_assert!(admits(&limiter)),
            Some(wait) => {
                let wait = wait.num_microseconds().unwrap();
                prop_assert!(!admits(&after(wait - 1)));
                prop_assert!(admits(&after(wait)));
            }
        }
    }
}

/// The facts that the database returns for a job in an open queue.
fn facts_json() -> Value {
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
fn scheduled_job_that_came_due_is_about_to_be_ready() {
    let mut facts = facts_json();
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

/// A limit that opens before the job is due does not hold it back.
#[test]
fn scheduled_job_reports_only_reasons_that_hold_when_it_is_due() {
    let mut answer = facts_json();
    answer["state"] = json!("s");
    answer["limiters"] = json!([{
        "of": "tenant", "key": null, "cost": 1, "max_running": 1, "full": true, "running": 1,
        "rate_count": 60, "period_us": 3_600_000_000i64, "burst": 1, "every_us": 60_000_000,
        "ahead_us": 60_000_000,
    }]);
    for (due, expected) in [
        (
            "2026-11-21T02:12:20Z",
            &[ReasonCode::Scheduled, ReasonCode::RateLimited][..],
        ),
        ("2026-11-21T02:14:00Z", &[ReasonCode::Scheduled]),
    ] {
        answer["run_at"] = json!(due);
        let facts: Facts = serde_json::from_value(answer.clone()).unwrap();
        let codes: Vec<ReasonCode> = facts.explain().reasons.iter().map(|one| one.code).collect();
        assert_eq!(codes, expected, "{due}");
    }
}

#[test]
fn unhindered_job_is_next() {
    let facts: Facts = serde_json::from_value(facts_json()).unwrap();
    let explanation = facts.explain();
    assert!(explanation.runnable);
    assert_eq!(explanation.reasons[0].ahead, Some(0));
}
