//! Compares the database with the model on random histories of calls.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use chrono::DateTime;
use harkara_shared::database::query_as;
use harkara_test_database::TestDatabase;
use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use proptest::test_runner::{Config, TestRunner};
use sqlx::{PgConnection, PgPool};

use super::model::{Model, ModelStanding};
use harkara_accounts::{Policies, Policy, Strategy};

/// A time within a month before a leap day, in microseconds.
const START: i64 = 1_835_000_000_000_000;

/// One call: the time since the previous one, the tokens it requests, and whether it returns those that the previous
/// one reserved ahead.
#[derive(Debug, Clone)]
struct TestCall {
    after: i64,
    need: i64,
    ahead: i64,
    hold: i64,
    returns_tokens: bool,
}

#[derive(Debug, Clone)]
struct History {
    policies: Policies,
    calls: Vec<TestCall>,
}

fn policy(name: &'static str) -> impl proptest::strategy::Strategy<Value = Policy> {
    let window = prop_oneof![
        Just(1_000_000_u64),
        Just(1_000_001),
        Just(60_000_000),
        Just(3_600_000_000),
        1_000_000_u64..200_000_000
    ];
    let strategy = prop::sample::select(Strategy::ALL.to_vec());
    (strategy, 1_u32..40, 0_u32..12, window).prop_map(move |(strategy, quota, burst, window)| {
        if strategy == Strategy::CalendarMonth {
            return Policy {
                burst,
                ..Policy::monthly(name, quota)
            };
        }
        Policy::new(name, strategy, quota, burst, Duration::from_micros(window))
    })
}

fn history() -> impl proptest::strategy::Strategy<Value = History> {
    let after = prop_oneof![
        4 => 0_i64..100_000,
        4 => 100_000_i64..5_000_000,
        2 => 5_000_000_i64..200_000_000,
        1 => 200_000_000_i64..5_000_000_000,
        1 => 0_i64..3_000_000_000_000,
    ];
    let call = (
        after,
        0_i64..9,
        0_i64..12,
        prop_oneof![Just(0), Just(250_000)],
        any::<bool>(),
    );
    let call = call.prop_map(|(after, need, ahead, hold, returns_tokens)| TestCall {
        after,
        need,
        ahead,
        hold,
        returns_tokens,
    });
    // The order of the names is not the order of the policies.
    let policies = (policy("c"), policy("a"), policy("b"), 1_usize..4);
    let policies = policies.prop_map(|(c, a, b, count)| {
        let mut all = vec![c, a, b];
        all.truncate(count);
        Policies::new(all).unwrap()
    });
    (policies, prop::collection::vec(call, 1..40))
        .prop_map(|(policies, calls)| History { policies, calls })
}

type Row = (i32, i64, i64, i64, i64, i64);

async fn charge(
    connection: &mut PgConnection,
    policies: &Policies,
    moment: i64,
    (need, ahead, hold): (i64, i64, i64),
    (back, charged): (i64, i64),
) -> (i64, Vec<ModelStanding>) {
    let columns = policies.columns();
    let rows: Vec<Row> = query_as(
        "select granted, remaining, reset, retry, hold, moment from app.charge_requests(
         'test', $1, $2, $3, $4, $5, $6::int4, $7::int4, $8, $9::int4, $10, $11)",
    )
    .bind(&columns.names)
    .bind(&columns.strategies)
    .bind(&columns.quotas)
    .bind(&columns.bursts)
    .bind(&columns.widths)
    .bind(need)
    .bind(ahead)
    .bind(hold)
    .bind(back)
    .bind(charged)
    .bind(DateTime::from_timestamp_micros(moment))
    .fetch_all(connection)
    .await
    .unwrap();
    for row in &rows {
        assert_eq!((row.0, row.4, row.5), (rows[0].0, rows[0].4, moment));
    }
    let standings = rows.iter().map(|row| ModelStanding {
        remaining: row.1,
        reset: row.2,
        retry: row.3,
    });
    (rows[0].0.into(), standings.collect())
}

/// The strategy of each refusal.
type Refusals = RefCell<Vec<Strategy>>;

async fn replay(
    pool: &PgPool,
    history: &History,
    refusals: &Refusals,
) -> Result<(), TestCaseError> {
    let mut tx = pool.begin().await.unwrap();
    let policies = history.policies.all();
    let mut moment = START;
    let mut model = Model::new(policies, moment);
    let (mut ahead, mut charged) = (0, 0);
    let mut passed: Vec<(i64, i64)> = Vec::new();
    for (number, call) in history.calls.iter().enumerate() {
        moment += call.after;
        let back = if call.returns_tokens { ahead } else { 0 };
        if back > 0
            && let Some(last) = passed.last_mut()
        {
            last.1 -= back;
        }
        let requested = (call.need, call.ahead, call.hold);
        let by_model = model.charge(moment, requested, (back, charged));
        let by_database = charge(
            &mut tx,
            &history.policies,
            moment,
            requested,
            (back, charged),
        )
        .await;
        prop_assert_eq!(&by_database, &by_model, "call {}", number);
        let (granted, standings) = by_model;
        passed.push((moment, granted));
        ahead = (granted - call.need).max(0);
        charged = moment;
        if granted < call.need {
            let full = policies
                .iter()
                .zip(&standings)
                .filter(|(_, standings)| standings.remaining == 0);
            refusals
                .borrow_mut()
                .extend(full.map(|(policy, _)| policy.strategy));
        }
    }
    tx.rollback().await.unwrap();
    for policy in policies.iter().filter(|policy| {
        !matches!(
            policy.strategy,
            Strategy::FixedWindow | Strategy::CalendarMonth
        )
    }) {
        for (start, _) in &passed {
            let within = |(at, _): &&(i64, i64)| (*start..start + policy.width()).contains(at);
            let sum: i64 = passed.iter().filter(within).map(|(_, count)| count).sum();
            prop_assert!(sum <= policy.most() as i64, "{:?} let {} pass", policy, sum);
        }
    }
    Ok(())
}

#[test]
fn database_charges_as_the_model_and_no_window_exceeds_its_limit() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let database = runtime.block_on(TestDatabase::create());
    let pool = database.pool();
    let (refusals, replayed) = (Refusals::default(), Cell::new(0));
    let config = Config {
        cases: 256,
        failure_persistence: None,
        max_shrink_iters: 500,
        ..Config::default()
    };
    let tested = TestRunner::new(config).run(&history(), |history| {
        replayed.set(replayed.get() + 1);
        runtime.block_on(replay(&pool, &history, &refusals))
    });
    tested.unwrap_or_else(|error| panic!("{error}"));
    for strategy in Strategy::ALL {
        let refused = refusals
            .borrow()
            .iter()
            .filter(|one| **one == strategy)
            .count();
        assert!(refused > 20, "{strategy:?} refused {refused} times");
    }
}
