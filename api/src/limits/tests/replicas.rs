//! Several replicas on one database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use harkara_accounts::KeyTier;
use harkara_shared::database::{query, query_scalar};
use harkara_test_database::TestDatabase;
use sqlx::PgPool;
use tokio::task::JoinSet;

use harkara_accounts::{Policies, Policy, Strategy};

use super::super::RequestLimits;

const HOUR: Duration = Duration::from_secs(3600);

fn hourly(strategy: Strategy, quota: u32, burst: u32) -> Policies {
    Policies::new(vec![Policy::new("hour", strategy, quota, burst, HOUR)]).unwrap()
}

/// Two replicas, each with connections of its own.
async fn replicas(database: &TestDatabase) -> [RequestLimits; 2] {
    let pool = || async {
        sqlx::postgres::PgPoolOptions::new()
            .max_connections(4)
            .connect(&database.url())
            .await
            .unwrap()
    };
    [
        RequestLimits::new(pool().await),
        RequestLimits::new(pool().await),
    ]
}

/// How many requests pass when `clients` concurrent clients make `each` requests, spread over the replicas. A
/// refused client waits for a millisecond, as a real one would wait.
async fn storm(
    replicas: &[RequestLimits; 2],
    policies: &Policies,
    clients: usize,
    each: usize,
) -> u32 {
    let passed = Arc::new(AtomicU32::new(0));
    let mut storm = JoinSet::new();
    for client in 0..clients {
        let (limits, policies) = (replicas[client % 2].clone(), policies.clone());
        let passed = Arc::clone(&passed);
        storm.spawn(async move {
            for _ in 0..each {
                let charge = limits.charge("key", &policies).await.unwrap();
                if charge.allowed() {
                    passed.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_eq!(charge.violated(), ["hour"]);
                    assert!(charge.retry_after().unwrap() > Duration::ZERO);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
    }
    storm.join_all().await;
    passed.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_300_requests_over_two_replicas_exactly_100_pass() {
    for strategy in [
        Strategy::FixedWindow,
        Strategy::SlidingWindow,
        Strategy::CalendarMonth,
    ] {
        let database = TestDatabase::create().await;
        let policies = match strategy {
            Strategy::CalendarMonth => Policies::new(vec![Policy::monthly("hour", 100)]).unwrap(),
            _ => hourly(strategy, 100, 0),
        };
        let replicas = replicas(&database).await;
        assert_eq!(
            storm(&replicas, &policies, 30, 10).await,
            100,
            "{strategy:?}"
        );
    }
    for strategy in [Strategy::TokenBucket, Strategy::LeakyBucket] {
        let database = TestDatabase::create().await;
        let policies = hourly(strategy, 1, 100);
        let replicas = replicas(&database).await;
        assert_eq!(
            storm(&replicas, &policies, 30, 10).await,
            100,
            "{strategy:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn free_tier_allows_its_quota_and_its_burst() {
    let database = TestDatabase::create().await;
    let replicas = replicas(&database).await;
    let policies = KeyTier::Free.policies();
    assert_eq!(storm(&replicas, &policies, 30, 10).await, 110);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hot_key_gets_exactly_its_quota_from_replicas_that_reserve_ahead() {
    let database = TestDatabase::create().await;
    let replicas = replicas(&database).await;
    let policies = hourly(Strategy::SlidingWindow, 5000, 0);
    assert_eq!(storm(&replicas, &policies, 8, 1500).await, 5000);
}

#[tokio::test]
async fn reserved_tokens_that_are_not_spent_are_returned() {
    let database = TestDatabase::create().await;
    let replicas = replicas(&database).await;
    let policies = hourly(Strategy::SlidingWindow, 5000, 0);
    let counted = async || -> i64 {
        query_scalar("select used from app.request_counters")
            .fetch_one(&database.pool())
            .await
            .unwrap()
    };
    // Makes requests until the key is hot, however slow the machine is; returns how many passed.
    let heat = async |before: i64| {
        let mut passed = 0;
        while passed == 0 || counted().await == before + passed {
            passed += i64::from(storm(&replicas, &policies, 1, 20).await);
        }
        passed
    };
    let passed = heat(0).await;
    replicas[0].return_all().await;
    assert_eq!(counted().await, passed);

    // The same after the reservation expires.
    let passed = passed + heat(passed).await;
    while counted().await > passed {
        replicas[0].settle();
        tokio::task::yield_now().await;
    }
    assert_eq!(counted().await, passed);
}

#[tokio::test]
async fn all_policies_grant_or_none_is_charged() {
    let database = TestDatabase::create().await;
    let [limits, _] = replicas(&database).await;
    let minute = Duration::from_secs(60);
    let policies = Policies::new(vec![
        Policy::new("hour", Strategy::SlidingWindow, 10, 0, HOUR),
        Policy::new("bucket", Strategy::LeakyBucket, 1, 2, minute),
    ])
    .unwrap();
    for left in [[9, 1], [8, 0]] {
        let charge = limits.charge("key", &policies).await.unwrap();
        let remaining = charge.standings().iter().map(|standing| standing.remaining);
        assert_eq!(remaining.collect::<Vec<_>>(), left);
        assert_eq!(charge.violated(), Vec::<&str>::new());
    }
    let refused = limits.charge("key", &policies).await.unwrap();
    assert_eq!(refused.violated(), ["bucket"]);
    let wait = refused.retry_after().unwrap();
    assert!(wait > Duration::from_secs(50) && wait <= minute, "{wait:?}");
    assert_eq!(refused.standings()[0].remaining, 8);
    let other = limits.charge("another", &policies).await.unwrap();
    assert!(other.allowed(), "subjects are independent");
}

#[tokio::test]
async fn lost_counters_restart_and_the_month_continues_from_recorded_usage() {
    let database = TestDatabase::create().await;
    let [limits, _] = replicas(&database).await;
    let pool = database.pool();
    let key = key_with_usage(&pool, 9997).await;
    let subject = format!("key:{key}");
    let policies = KeyTier::Free.policies();
    let month = async || {
        let charge = limits.charge(&subject, &policies).await.unwrap();
        (
            charge.allowed(),
            charge.standings()[0].remaining,
            charge.standings()[2].remaining,
        )
    };
    assert_eq!(month().await, (true, 109, 2));
    // A crash empties an unlogged table.
    let kind: String = query_scalar(
        "select relpersistence::text from pg_class where oid = 'app.request_counters'::regclass",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(kind, "u");
    query("truncate app.request_counters")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(month().await, (true, 109, 2));
    assert_eq!(month().await, (true, 108, 1));
    assert_eq!(month().await, (true, 107, 0));
    let refused = limits.charge(&subject, &policies).await.unwrap();
    assert_eq!(refused.violated(), ["month"]);
    assert_eq!(refused.standings()[0].remaining, 107, "nothing is charged");
}

async fn key_with_usage(pool: &PgPool, requests: i64) -> sqlx::types::Uuid {
    query_scalar(
        "with k as (insert into app.api_keys
           (tenant_id, id, public_id, hash, last4, name, tier, scopes) select id,
           gen_random_uuid(), 'p', sha256('h'), 'last', 'n', 'free', '{}' from app.tenants
           returning tenant_id, id)
         insert into app.usage (tenant_id, key_id, month, requests)
         select tenant_id, id, date_trunc('month', now() at time zone 'utc'), $1 from k
         returning key_id",
    )
    .bind(requests)
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn charge_without_a_database_fails_instead_of_waiting_forever() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let limits = RequestLimits::new(pool.clone());
    pool.close().await;
    let policies = KeyTier::Free.policies();
    let error = limits.charge("key", &policies).await.unwrap_err();
    assert!(harkara_shared::database::is_unavailable(&error));
    let again = limits.charge("key", &policies).await;
    assert!(again.is_err(), "the next charge calls the database again");
}

#[tokio::test]
async fn open_snapshot_does_not_slow_charges_down() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut holder = pool.begin().await.unwrap();
    for statement in [
        "set transaction isolation level repeatable read",
        "select 1",
    ] {
        query(statement).execute(&mut *holder).await.unwrap();
    }
    query(
        "do $$ begin for i in 1..3000 loop
         perform app.charge_requests('hot', array['hour'], array['sliding_window'],
             array[1000000::int8], array[0::int8], array[3600000000], 1, 0, 0, 0, 0);
         end loop; end $$",
    )
    .execute(&pool)
    .await
    .unwrap();
    let mut session = pool.acquire().await.unwrap();
    let charge = "explain (analyze, buffers, format json) select * from app.charge_requests('hot',
         array['hour'], array['sliding_window'], array[1000000::int8], array[0::int8],
         array[3600000000], 1, 0, 0, 0, 0)";
    let mut blocks = 0;
    // The first charges of a session also read the system catalogue.
    for _ in 0..3 {
        let plan: sqlx::types::Json<serde_json::Value> =
            query_scalar(charge).fetch_one(&mut *session).await.unwrap();
        blocks = plan.0[0]["Plan"]["Shared Hit Blocks"].as_u64().unwrap();
    }
    assert!(blocks < 100, "{blocks} blocks were read");
    let used: i64 = query_scalar("select used from app.request_counters")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(used, 3003);
}
