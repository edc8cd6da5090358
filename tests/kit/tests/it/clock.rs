//! Tests of the settable clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_kit::{Drained, Kit};
use harkara_queue::job::{Lane, Unique};
use harkara_queue::settings::{Breaker, Change, LaneChange, LimitChange, Rate, TenantChange};
use harkara_shared::database::{query, query_as, query_scalar};

use crate::odd::{Args, Odd, SECOND, kit, seen};

const MICROSECOND: Duration = Duration::from_micros(1);
const HOUR: Duration = Duration::from_secs(3600);

async fn database_now(kit: &Kit) -> [DateTime<Utc>; 2] {
    let both = query_as("select now(), clock_timestamp()");
    let (now, clock) = both.fetch_one(&kit.services.pool).await.unwrap();
    [now, clock]
}

#[tokio::test]
async fn database_handlers_and_test_share_one_stopped_clock() {
    let kit = kit().await;
    let start = kit.now();
    assert_eq!(database_now(&kit).await, [start; 2]);
    for moment in [start, start + HOUR * 24 * 365 * 20, start - HOUR * 24 * 365] {
        kit.set_clock(moment).await;
        assert_eq!(database_now(&kit).await, [moment; 2]);
        let done = kit.perform::<Odd>(Args::Look).await.done();
        assert_eq!(seen(done.result), moment);
        let id = kit.enqueue::<Odd>(Args::Look).await;
        assert_eq!(kit.drain("odd").await.succeeded, [id]);
        let job = kit.job(id).await;
        assert_eq!(
            [job.created_at, job.run_at, job.finished_at.unwrap()],
            [moment; 3]
        );
        assert_eq!(seen(job.result), moment);
    }
    let other = Kit::start().await;
    other.advance(HOUR * 1000).await;
    assert_eq!(kit.now(), start - HOUR * 24 * 365);
    assert_eq!(database_now(&kit).await, [kit.now(); 2]);
}

#[tokio::test]
async fn backoff_ends_exactly_by_the_clock() {
    let kit = kit().await;
    let id = kit.enqueue::<Odd>(Args::Fail).await;
    assert_eq!(kit.drain("odd").await.retried, [id]);
    assert_eq!(kit.job(id).await.run_at, kit.now() + SECOND * 5);
    kit.advance(SECOND * 5 - MICROSECOND).await;
    assert_eq!(kit.drain("odd").await, Drained::default());
    kit.advance(MICROSECOND).await;
    assert_eq!(kit.drain("odd").await.retried, [id]);
    assert_eq!(kit.job(id).await.run_at, kit.now() + SECOND * 10);
}

#[tokio::test]
async fn rate_limit_opens_as_the_clock_advances() {
    let kit = kit().await;
    let rate = Rate {
        count: 60,
        per: HOUR,
        burst: 2,
    };
    let change = TenantChange {
        limit: LimitChange::rate(rate),
        ..TenantChange::default()
    };
    let engine = &kit.services.engine;
    engine.set_tenant(kit.tenant, &change).await.unwrap();
    for _ in 0..9 {
        kit.enqueue::<Odd>(Args::Succeed).await;
    }
    let drained = async || kit.drain("odd").at_once(10).await.ran.len();
    assert_eq!(drained().await, 2, "the burst runs");
    assert_eq!(drained().await, 0);
    kit.advance(SECOND * 60 - MICROSECOND).await;
    assert_eq!(drained().await, 0);
    kit.advance(MICROSECOND).await;
    assert_eq!(drained().await, 1, "then one per minute");
    kit.advance(HOUR).await;
    assert_eq!(
        drained().await,
        2,
        "an idle period must not grant more than a burst"
    );
    let rest = kit.drain("odd").until(kit.now() + SECOND * 60 * 3).await;
    assert_eq!(rest.ran.len(), 3, "then one per minute again");
}

#[tokio::test]
async fn parked_lane_opens_by_the_clock() {
    let kit = kit().await;
    let to_one_side = |args| {
        kit.enqueue::<Odd>(args)
            .with(|job| job.lane = Lane::Named("side".to_owned()))
    };
    let limited = to_one_side(Args::Limited(30)).await;
    let behind = to_one_side(Args::Succeed).await;
    let elsewhere = kit.enqueue::<Odd>(Args::Succeed).await;
    let drained = kit.drain("odd").await;
    assert_eq!(drained.rate_limited, [limited]);
    assert_eq!(drained.succeeded, [elsewhere]);
    kit.advance(SECOND * 30 - MICROSECOND).await;
    assert_eq!(kit.drain("odd").await, Drained::default());
    kit.advance(MICROSECOND).await;
    let drained = kit.drain("odd").at_once(2).await;
    assert!(drained.ran.contains(&behind) || drained.ran.contains(&limited));
}

#[tokio::test]
async fn breaker_rests_by_the_clock() {
    let kit = kit().await;
    let lane = Lane::Named("broken".to_owned());
    let to_lane = |args| {
        let lane = lane.clone();
        kit.enqueue::<Odd>(args).with(|job| job.lane = lane)
    };
    let first = to_lane(Args::Succeed).await;
    assert_eq!(kit.drain("odd").await.succeeded, [first]);
    let breaker = Breaker::consecutive(1, HOUR);
    let change = LaneChange {
        breaker: Change::Set(breaker),
        ..LaneChange::default()
    };
    let engine = &kit.services.engine;
    engine
        .set_lane(kit.tenant, "odd", &lane, &change)
        .await
        .unwrap();
    let failing = to_lane(Args::Fail).await;
    let waiting = to_lane(Args::Succeed).await;
    assert_eq!(
        kit.drain("odd").await.ran,
        [failing],
        "the breaker must open"
    );
    kit.advance(HOUR - MICROSECOND).await;
    assert_eq!(kit.drain("odd").await, Drained::default());
    kit.advance(MICROSECOND).await;
    assert!(kit.drain("odd").await.ran.contains(&waiting));
}

#[tokio::test]
async fn unique_key_is_held_by_the_clock() {
    let kit = kit().await;
    let enqueue = async || {
        kit.enqueue::<Odd>(Args::Succeed)
            .with(|job| {
                job.unique = Some(Unique {
                    key: "one".to_owned(),
                    hold: Some(HOUR),
                });
            })
            .await
    };
    let first = enqueue().await;
    let _ = kit.drain("odd").await;
    kit.advance(HOUR - MICROSECOND).await;
    assert_eq!(enqueue().await, first);
    kit.advance(MICROSECOND).await;
    assert_ne!(enqueue().await, first);
}

/// Finds objects in the platform's schemas that would still read the real clock.
#[tokio::test]
async fn database_objects_use_no_other_clock() {
    let kit = kit().await;
    let astray = async || -> Vec<String> {
        query_scalar(include_str!("real_clock_uses.sql"))
            .fetch_all(&kit.services.pool)
            .await
            .unwrap()
    };
    let found = astray().await;
    assert!(
        found.is_empty(),
        "set_up_clock.sql does not reach {found:#?}"
    );
    for statement in [
        "alter table queue.lanes alter used_at set default pg_catalog.now()",
        "create function queue.late() returns int4 language sql set search_path = pg_catalog
         as 'select 1'",
        "create view queue.moment as select pg_catalog.now() as now",
    ] {
        query(statement).execute(&kit.services.pool).await.unwrap();
    }
    assert_eq!(
        astray().await,
        [
            "default of queue.lanes.used_at",
            "queue.late(): search path",
            "view queue.moment"
        ]
    );
}

#[test]
fn no_statement_uses_a_clock_that_cannot_be_set() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut read = 0;
    for room in [
        "migrations",
        "queue/src",
        "jobs/kind/src",
        "jobs/platform/src",
        "jobs/src",
        "jobs/webhooks/src",
        "api/src",
        "scheduler/src",
        "worker/src",
        "shared/src",
    ] {
        for path in files(&root.join(room)) {
            let text = fs::read_to_string(&path).unwrap().to_lowercase();
            for word in [
                "current_timestamp",
                "current_date",
                "current_time",
                "localtime",
                "timeofday",
                "pg_catalog.now",
                "pg_catalog.clock_timestamp",
                "'now'",
                "'today'",
            ] {
                assert!(
                    !text.contains(word),
                    "{} uses {word}; only now() and clock_timestamp() are set by the kit",
                    path.display()
                );
            }
            read += 1;
        }
    }
    assert!(read > 50, "{read} files were read");
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|ending| ending == "sql") {
            found.push(path);
        }
    }
    found
}
