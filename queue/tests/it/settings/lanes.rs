//! Lane settings: scope, ownership and notifications.

use std::collections::BTreeMap;
use std::time::Duration;

use harkara_queue::job::{Lane, NewJob};
use harkara_queue::settings::{Breaker, BreakerState, Change, LaneChange, QueueView, TenantChange};
use harkara_shared::id::TenantId;
use sqlx::postgres::PgListener;

use super::{SECOND, max_running, rate, tenant, with_lanes};
use crate::lost_workers::limited;
use crate::support::with_timeout;

#[tokio::test]
async fn lane_settings_apply_to_all_its_rows_and_create_a_missing_lane() {
    let fixture = with_lanes().await;
    let engine = &fixture.engine;
    let set = async |lane: &Lane, change: LaneChange| {
        engine
            .set_lane(fixture.tenant, "first", lane, &change)
            .await
            .unwrap();
        engine.lane(fixture.tenant, "first", lane).await.unwrap()
    };
    let breaker = Breaker {
        failures: 5,
        share: 70,
        window: Duration::from_secs(600),
        rest: Duration::from_secs(30),
    };
    let change = LaneChange {
        weight: Change::Set(3),
        paused: Some(true),
        breaker: Change::Set(breaker),
        limit: rate(20, SECOND),
        ..LaneChange::default()
    };
    let both = set(&Lane::Default, change).await;
    assert_eq!(both.len(), 2, "with and without limits");
    for lane in &both {
        assert_eq!((lane.weight, lane.paused, lane.ordered), (3, true, false));
        assert_eq!(lane.breaker, Some(breaker));
        assert_eq!(lane.breaker_state, BreakerState::Closed);
        assert_eq!(lane.limit.rate.map(|rate| rate.burst), Some(2));
    }
    assert_eq!(both[0].named_limits, []);
    assert_eq!(
        (
            both[1].named_limits[0].key.as_str(),
            both[1].named_limits[0].cost
        ),
        ("crm", 2)
    );
    let other = NewJob {
        queue: "first".to_owned(),
        ..limited("erp", 1, 0)
    };
    fixture.enqueue(other).await;
    let all = engine
        .lane(fixture.tenant, "first", &Lane::Default)
        .await
        .unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!(
        all[2].breaker,
        Some(breaker),
        "future lane rows must have the breaker too"
    );
    let shared = "select count(distinct limiter) from queue.lanes where key = ''";
    assert_eq!(
        fixture.count(shared).await,
        1,
        "all rows must share one limiter"
    );

    fixture
        .execute(
            "update queue.lanes set breaker = 'o', failures = 5,
                parked_until = now() + interval '1 hour' where key = ''",
        )
        .await;
    let parked = engine
        .lane(fixture.tenant, "first", &Lane::Default)
        .await
        .unwrap();
    assert_eq!(
        (parked[0].breaker_state, parked[0].failures),
        (BreakerState::Open, 5)
    );
    assert!(parked[0].parked_until.is_some());
    let unpark = LaneChange {
        unpark: true,
        ..LaneChange::default()
    };
    let freed = set(&Lane::Default, unpark).await;
    assert_eq!((freed[0].parked_until, freed[0].paused), (None, true));
    assert_eq!(freed[0].breaker_state, BreakerState::Open, "one trial runs");
    let no_breaker = LaneChange {
        breaker: Change::Remove,
        weight: Change::Remove,
        ..LaneChange::default()
    };
    let freed = set(&Lane::Default, no_breaker).await;
    assert_eq!(
        (freed[0].breaker, freed[0].breaker_state),
        (None, BreakerState::Closed)
    );
    assert_eq!((freed[0].failures, freed[0].weight), (0, 1));

    let made = set(&Lane::Named("a".to_owned()), LaneChange::default()).await;
    assert_eq!(
        (made.len(), made[0].ordered, made[0].paused),
        (1, false, false)
    );
    let ordered = Lane::Ordered("a".to_owned());
    let ordered = engine
        .lane(fixture.tenant, "first", &ordered)
        .await
        .unwrap();
    assert_ne!(ordered[0].id, made[0].id);

    let all = engine.lanes(fixture.tenant, "first", 0, 100).await.unwrap();
    let first = engine.lanes(fixture.tenant, "first", 0, 3).await.unwrap();
    let rest = engine
        .lanes(fixture.tenant, "first", first[2].id, 3)
        .await
        .unwrap();
    assert_eq!(all.len(), 5);
    assert_eq!([first, rest].concat(), all);
}

#[tokio::test]
async fn tenants_read_and_change_only_their_own_lanes() {
    let fixture = with_lanes().await;
    let engine = &fixture.engine;
    let other = TenantId::new();
    let change = TenantChange {
        paused: Some(true),
        limits: BTreeMap::from([("crm".to_owned(), max_running(1))]),
        ..TenantChange::default()
    };
    engine.set_tenant(other, &change).await.unwrap();
    let paused = LaneChange {
        paused: Some(true),
        ..LaneChange::default()
    };
    engine
        .set_lane(other, "second", &Lane::Default, &paused)
        .await
        .unwrap();
    let own = tenant(&fixture).await;
    assert!(!own.paused && own.limits.is_empty());
    for queue in ["second", "none"] {
        let lanes = engine.lanes(fixture.tenant, queue, 0, 10).await.unwrap();
        assert_eq!(lanes, []);
    }
    let names = async |view: QueueView<'_>| -> Vec<String> {
        let queues = engine.queues(view, 0, 10).await.unwrap();
        queues.into_iter().map(|queue| queue.name).collect()
    };
    assert_eq!(names(QueueView::All).await, ["first", "second"]);
    assert_eq!(
        names(QueueView::VisibleTo(fixture.tenant, &[])).await,
        ["first"]
    );
    assert_eq!(names(QueueView::VisibleTo(other, &[])).await, ["second"]);
    assert_eq!(
        names(QueueView::VisibleTo(other, &["first"])).await.len(),
        2
    );
    assert!(
        names(QueueView::VisibleTo(TenantId::new(), &[]))
            .await
            .is_empty()
    );
    let after = engine.queues(QueueView::All, 1, 10).await.unwrap();
    assert_eq!(after.len(), 1);
    let hidden = engine
        .queue(QueueView::VisibleTo(other, &[]), "first")
        .await
        .unwrap();
    assert!(hidden.is_none());
}

#[tokio::test]
async fn change_wakes_workers_unless_notifications_are_off() {
    let fixture = with_lanes().await;
    let mut listener = PgListener::connect_with(&fixture.pool()).await.unwrap();
    listener.listen("harkara").await.unwrap();
    let mute = harkara_queue::Engine::new(fixture.pool(), false);
    let lane = LaneChange::default();
    for engine in [&mute, &fixture.engine] {
        engine.pause_queue("second", false).await.unwrap();
        engine.set_queue("first", &max_running(1)).await.unwrap();
        engine.pause_tenant(fixture.tenant, false).await.unwrap();
        engine
            .set_lane(fixture.tenant, "second", &Lane::Default, &lane)
            .await
            .unwrap();
    }
    let mut received = Vec::new();
    for _ in 0..4 {
        let notification = with_timeout("a notification arrives", listener.recv())
            .await
            .unwrap();
        received.push(notification.payload().to_owned());
    }
    // The changes without notification created the lane in the second queue.
    assert_eq!(received, ["o:2", "o:1", "o:1,2", "o:2"]);
}
