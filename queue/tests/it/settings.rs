//! Settings of limits, lanes and queues while jobs run. Running jobs are rows written by the test.

mod lanes;
mod live;

use std::collections::BTreeMap;
use std::time::Duration;

use harkara_queue::job::Lane;
use harkara_queue::settings::{
    Change, InvalidLimit, LaneChange, Limit, LimitChange, MAX_TENANT_LIMITS, QueueSettings,
    QueueView, Rate, SettingsError, TenantChange, TenantSettings, set_tier_limits,
};
use harkara_shared::database::{query, query_scalar};
use harkara_shared::id::TenantId;

use crate::support::{Fixture, with_timeout};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A fixture with the queues `first` and `second`, and lanes of its tenant in the first: the default lane, an
/// ordered one, and the default lane of jobs that name the limit `crm`.
async fn with_lanes() -> Fixture {
    let fixture = Fixture::new().await;
    query("insert into queue.tenants (id) values ($1)")
        .bind(fixture.tenant)
        .execute(&fixture.pool())
        .await
        .unwrap();
    for sql in [
        "insert into queue.kinds (name) values ('test.job')",
        "insert into queue.queues (name) values ('first'), ('second')",
        "insert into queue.limiters (tenant, key) select number, 'crm' from queue.tenants",
        "insert into queue.lanes (queue, tenant) select 1, number from queue.tenants",
        "insert into queue.lanes (queue, tenant, key, strict)
         select 1, number, 'a', true from queue.tenants",
        "insert into queue.lanes (queue, tenant, limits, named, costs)
         select 1, tenant, 'crm' || chr(31) || '2', array[id], array[2] from queue.limiters",
        "insert into queue.workers (id, host, pid, version, queues)
         values (gen_random_uuid(), 'h', 1, '0', '{}')",
        "insert into queue.leases (worker_id, expires_at)
         select id, now() + interval '1 hour' from queue.workers",
    ] {
        fixture.execute(sql).await;
    }
    fixture
}

/// Seven jobs run in the lane: ten were claimed, of which two have left and one has finished.
const INSERT_RUNNING_JOBS: &str =
    "insert into queue.parcels (lane, run_at, queue, tenant, kind, priority,
        max_attempts, state, token, lease, n, gone, acked, acked_at, body)
     select id, now(), queue, tenant, 1, 5, 3, 'r', 1, 1, 10, '{1,2}', '{3}', array[now()],
        array_fill(''::bytea, array[10])
     from queue.lanes where id = $1";

async fn run_in(fixture: &Fixture, lane: i64) {
    let pool = fixture.pool();
    query(INSERT_RUNNING_JOBS)
        .bind(lane)
        .execute(&pool)
        .await
        .unwrap();
}

fn rate(count: u32, per: Duration) -> LimitChange {
    LimitChange {
        rate: Change::Set(count),
        per: Some(per),
        ..LimitChange::default()
    }
}

fn max_running(most: u32) -> LimitChange {
    LimitChange {
        max_running: Change::Set(most),
        ..LimitChange::default()
    }
}

async fn queue(fixture: &Fixture, name: &str) -> QueueSettings {
    let found = fixture.engine.queue(QueueView::All, name).await.unwrap();
    found.unwrap()
}

async fn tenant(fixture: &Fixture) -> TenantSettings {
    fixture.engine.tenant(fixture.tenant).await.unwrap()
}

#[tokio::test]
async fn queue_is_paused_limited_and_unlimited() {
    let fixture = with_lanes().await;
    let engine = &fixture.engine;
    assert_eq!(queue(&fixture, "first").await.limit, Limit::default());
    engine.pause_queue("first", true).await.unwrap();
    assert!(queue(&fixture, "first").await.paused);
    assert!(!queue(&fixture, "second").await.paused);
    engine.pause_queue("first", false).await.unwrap();

    let change = LimitChange {
        max_running: Change::Set(4),
        ..rate(100, SECOND)
    };
    engine.set_queue("first", &change).await.unwrap();
    let limited = queue(&fixture, "first").await;
    let expected = Rate {
        count: 100,
        per: SECOND,
        burst: 10,
    };
    assert_eq!(limited.limit.rate, Some(expected));
    assert_eq!(limited.limit.max_running, Some(4));
    assert!(!limited.paused);

    engine
        .set_queue("first", &LimitChange::removal())
        .await
        .unwrap();
    assert_eq!(queue(&fixture, "first").await.limit, Limit::default());
    // A setting without a limit creates no limiter.
    engine
        .set_queue("second", &LimitChange::removal())
        .await
        .unwrap();
    let limiters = "select count(*) from queue.queues where limiter is not null";
    assert_eq!(fixture.count(limiters).await, 1);

    for answer in [
        engine.pause_queue("none", true).await,
        engine.set_queue("none", &max_running(1)).await,
        engine
            .set_lane(
                fixture.tenant,
                "none",
                &Lane::Default,
                &LaneChange::default(),
            )
            .await,
    ] {
        assert!(matches!(answer, Err(SettingsError::QueueNotFound)));
    }
    assert!(
        engine
            .queue(QueueView::All, "none")
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn burst_defaults_to_a_tenth_of_the_rate() {
    let fixture = with_lanes().await;
    let set = async |change: LimitChange| {
        fixture.engine.set_queue("first", &change).await.unwrap();
        queue(&fixture, "first")
            .await
            .limit
            .rate
            .map(|rate| (rate.count, rate.burst))
    };
    let burst = |burst| LimitChange {
        burst,
        ..LimitChange::default()
    };
    let count = |count| LimitChange {
        rate: Change::Set(count),
        ..LimitChange::default()
    };
    assert_eq!(set(rate(5, SECOND)).await, Some((5, 1)));
    assert_eq!(
        set(count(3000)).await,
        Some((3000, 300)),
        "the default burst follows the rate"
    );
    assert_eq!(set(burst(Change::Set(7))).await, Some((3000, 7)));
    assert_eq!(
        set(count(200)).await,
        Some((200, 7)),
        "an explicit burst stays"
    );
    assert_eq!(set(burst(Change::Remove)).await, Some((200, 20)));
    let none = LimitChange {
        rate: Change::Remove,
        ..LimitChange::default()
    };
    assert_eq!(set(none).await, None);

    for (change, expected) in [
        (burst(Change::Set(1)), InvalidLimit::BurstWithoutRate),
        (count(1), InvalidLimit::PerMissing),
        (
            LimitChange {
                per: Some(SECOND),
                ..LimitChange::default()
            },
            InvalidLimit::PerWithoutRate,
        ),
    ] {
        let error = fixture
            .engine
            .set_queue("first", &change)
            .await
            .unwrap_err();
        let SettingsError::InvalidLimit { key: None, problem } = error else {
            panic!("{error}")
        };
        assert_eq!(problem, expected);
    }
    assert_eq!(Rate::default_burst(30), 3);
    assert_eq!(Rate::default_burst(9), 1);
}

/// How far ahead of the current time the queue's limiter has granted starts.
const RATE_DEBT: &str =
    "select extract(epoch from rate_tat - now())::float8 from queue.limiters where tenant is null";

#[tokio::test]
async fn saving_an_unchanged_rate_keeps_its_debt_and_a_new_rate_clamps_it() {
    let fixture = with_lanes().await;
    let set = async |change: LimitChange| fixture.engine.set_queue("first", &change).await.unwrap();
    let ahead = async || -> f64 {
        query_scalar(RATE_DEBT)
            .fetch_one(&fixture.pool())
            .await
            .unwrap()
    };
    set(rate(60, MINUTE)).await;
    fixture
        .execute(
            "update queue.limiters set rate_tat = now() + interval '100 s' where tenant is null",
        )
        .await;
    set(rate(60, MINUTE)).await;
    set(max_running(9)).await;
    let kept = ahead().await;
    assert!((90.0..=100.0).contains(&kept), "{kept}");
    // Ten a second with a burst of two: a full burst is 0.2 s.
    let faster = LimitChange {
        burst: Change::Set(2),
        ..rate(10, SECOND)
    };
    set(faster).await;
    let clamped = ahead().await;
    assert!(clamped <= 0.21, "{clamped}");
    set(rate(1, MINUTE)).await;
    assert!(ahead().await <= 0.21, "a slower rate must add no debt");
}

#[tokio::test]
async fn running_jobs_are_counted_for_every_new_limit() {
    let fixture = with_lanes().await;
    for lane in [1, 2, 3] {
        run_in(&fixture, lane).await;
    }
    let engine = &fixture.engine;
    engine.set_queue("first", &max_running(5)).await.unwrap();
    engine.set_queue("second", &max_running(5)).await.unwrap();
    let change = TenantChange {
        limit: max_running(5),
        limits: BTreeMap::from([
            ("crm".to_owned(), max_running(5)),
            ("erp".to_owned(), max_running(5)),
        ]),
        ..TenantChange::default()
    };
    engine.set_tenant(fixture.tenant, &change).await.unwrap();
    let lane = Lane::Ordered("a".to_owned());
    let change = LaneChange {
        limit: max_running(1),
        ..LaneChange::default()
    };
    engine
        .set_lane(fixture.tenant, "first", &lane, &change)
        .await
        .unwrap();

    assert_eq!(queue(&fixture, "first").await.limit.running, 21);
    assert_eq!(queue(&fixture, "second").await.limit.running, 0);
    let settings = tenant(&fixture).await;
    assert_eq!(settings.limit.running, 21);
    assert_eq!(settings.limits["crm"].running, 7);
    assert_eq!(settings.limits["erp"].running, 0);
    let lanes = engine.lane(fixture.tenant, "first", &lane).await.unwrap();
    assert_eq!(lanes[0].limit.running, 7);

    // Counted once however often the limit is set, and released once.
    engine.set_queue("first", &max_running(6)).await.unwrap();
    let nothing = LimitChange::removal();
    engine.set_queue("first", &nothing).await.unwrap();
    engine.set_queue("first", &max_running(7)).await.unwrap();
    assert_eq!(queue(&fixture, "first").await.limit.running, 21);
    fixture
        .execute(
            "select queue.release_holds(p.limiters, array_fill(7, array[cardinality(p.limiters)]), null, null,
                null) from queue.parcels p",
        )
        .await;
    assert_eq!(
        fixture
            .count("select sum(running) from queue.limiters")
            .await,
        0
    );
}

#[tokio::test]
async fn jobs_locked_by_a_settlement_are_counted_after_its_commit() {
    let fixture = with_lanes().await;
    run_in(&fixture, 1).await;
    run_in(&fixture, 2).await;
    fixture
        .engine
        .set_queue("first", &rate(9, SECOND))
        .await
        .unwrap();
    // A settlement holds a parcel and will need the limiter: no deadlock may occur.
    let mut settling = fixture.pool().begin().await.unwrap();
    query("update queue.parcels set acked = '{3,4}' where lane = 1")
        .execute(&mut *settling)
        .await
        .unwrap();
    let engine = fixture.engine.clone();
    let setting =
        tokio::spawn(async move { engine.set_queue("first", &max_running(5)).await.unwrap() });
    let half = "select count(*) from queue.limiters where running = 7";
    crate::support::until("the unlocked jobs are counted", async || {
        fixture.count(half).await == 1
    })
    .await;
    query("select from queue.limiters for update")
        .execute(&mut *settling)
        .await
        .unwrap();
    settling.commit().await.unwrap();
    with_timeout("the limit is set", setting).await.unwrap();
    assert_eq!(queue(&fixture, "first").await.limit.running, 13);
}

#[tokio::test]
async fn claim_that_predates_a_new_limiter_is_counted() {
    let fixture = with_lanes().await;
    let mut claiming = fixture.pool().begin().await.unwrap();
    query("select limiter from queue.queues")
        .execute(&mut *claiming)
        .await
        .unwrap();
    let engine = fixture.engine.clone();
    let setting =
        tokio::spawn(async move { engine.set_queue("first", &max_running(5)).await.unwrap() });
    let there = "select count(*) from queue.limiters where max_running = 5";
    crate::support::until("the limit is visible", async || {
        fixture.count(there).await == 1
    })
    .await;
    assert!(!setting.is_finished());
    query(INSERT_RUNNING_JOBS)
        .bind(1_i64)
        .execute(&mut *claiming)
        .await
        .unwrap();
    claiming.commit().await.unwrap();
    with_timeout("the limit is set", setting).await.unwrap();
    assert_eq!(queue(&fixture, "first").await.limit.running, 7);
}

#[tokio::test]
async fn tenant_settings_change_together_or_not_at_all() {
    let fixture = with_lanes().await;
    let engine = &fixture.engine;
    let unknown = engine.tenant(TenantId::new()).await.unwrap();
    assert_eq!((unknown.weight, unknown.paused), (1, false));
    engine.pause_tenant(fixture.tenant, true).await.unwrap();
    assert!(tenant(&fixture).await.paused);
    let change = TenantChange {
        weight: Change::Set(7),
        paused: Some(false),
        max_waiting: Change::Keep,
        limit: rate(600, MINUTE),
        limits: BTreeMap::from([("crm".to_owned(), rate(10, SECOND))]),
    };
    engine.set_tenant(fixture.tenant, &change).await.unwrap();
    let set = tenant(&fixture).await;
    assert_eq!((set.weight, set.paused), (7, false));
    assert_eq!(set.limit.rate.map(|rate| rate.burst), Some(60));
    assert_eq!(set.limits["crm"].rate.map(|rate| rate.count), Some(10));

    let burst_only = LimitChange {
        burst: Change::Set(3),
        ..LimitChange::default()
    };
    let change = TenantChange {
        weight: Change::Remove,
        limit: LimitChange::removal(),
        limits: BTreeMap::from([
            ("crm".to_owned(), LimitChange::removal()),
            ("erp".to_owned(), burst_only),
        ]),
        ..TenantChange::default()
    };
    let error = engine
        .set_tenant(fixture.tenant, &change)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SettingsError::InvalidLimit { key: Some(key), .. } if key == "erp"),
        "{error}"
    );
    assert_eq!(tenant(&fixture).await, set);
    let limits = (0..=MAX_TENANT_LIMITS).map(|nth| (format!("k{nth}"), max_running(1)));
    let change = TenantChange {
        limits: limits.collect(),
        ..TenantChange::default()
    };
    let error = engine
        .set_tenant(fixture.tenant, &change)
        .await
        .unwrap_err();
    assert!(matches!(error, SettingsError::TooManyLimits), "{error}");
    assert_eq!(tenant(&fixture).await, set);

    let change = TenantChange {
        limits: BTreeMap::from([("crm".to_owned(), LimitChange::removal())]),
        ..TenantChange::default()
    };
    engine.set_tenant(fixture.tenant, &change).await.unwrap();
    assert!(tenant(&fixture).await.limits.is_empty());
    let rows = "select count(*) from queue.limiters where key is not null";
    assert_eq!(
        fixture.count(rows).await,
        1,
        "a limiter that lanes name must be kept"
    );
}

#[tokio::test]
async fn tenant_contract_is_created_with_the_tenant_or_not_at_all() {
    let fixture = Fixture::new().await;
    let contract = Rate {
        count: 30,
        per: MINUTE,
        burst: 3,
    };
    for commit in [false, true] {
        let mut tx = fixture.pool().begin().await.unwrap();
        set_tier_limits(&mut tx, fixture.tenant, contract, 1000)
            .await
            .unwrap();
        if commit {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        let found = tenant(&fixture).await.limit.rate;
        assert_eq!(found, commit.then_some(contract));
    }
}
