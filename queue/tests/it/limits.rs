//! Limits on starts per period and on concurrent runs, exact across all workers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use harkara_queue::job::{JobState, Lane, LimitUse, NewJob, Unique};
use harkara_queue::settings::{Change, LaneChange, LimitChange, Rate, TenantChange};
use harkara_queue::{Handler, Quota, Run, Verdict};
use harkara_shared::database::{query, query_as, query_scalar};
use rand::RngExt;

use crate::lost_workers::{Fleet, assert_at_rest, limited, named};
use crate::support::{
    Fixture, Log, QUEUE, handler, job, number, numbered, options, succeeding_handler, until,
};

const HOUR: Duration = Duration::from_secs(3600);

fn rate(count: u32, per: Duration, burst: u32) -> LimitChange {
    LimitChange::rate(Rate { count, per, burst })
}

fn max_running(most: u32) -> LimitChange {
    LimitChange {
        max_running: Change::Set(most),
        ..LimitChange::default()
    }
}

fn of_tenant(limit: LimitChange) -> TenantChange {
    TenantChange {
        limit,
        ..TenantChange::default()
    }
}

fn of_key(key: &str, limit: LimitChange) -> TenantChange {
    TenantChange {
        limits: [(key.to_owned(), limit)].into(),
        ..TenantChange::default()
    }
}

fn of_lane(limit: LimitChange) -> LaneChange {
    LaneChange {
        limit,
        ..LaneChange::default()
    }
}

/// A fixture whose queue and tenant exist, so that they can be limited before jobs are enqueued.
async fn with_known_queue() -> Fixture {
    let fixture = Fixture::new().await;
    let first = fixture.enqueue(job()).await.id();
    let worker = fixture.start_worker(succeeding_handler());
    fixture.wait_for_state(first, JobState::Succeeded).await;
    worker.stop().await;
    fixture
}

/// Long enough for a worker to make a forbidden claim.
async fn allow_forbidden_claims() {
    tokio::time::sleep(Duration::from_millis(250)).await;
}

/// Logs when each run was claimed, by the database's clock.
fn logging_starts(log: &Log<DateTime<Utc>>) -> Arc<dyn Handler> {
    let log = log.clone();
    handler(move |run| {
        log.write(run.job.started_at);
        async { Verdict::done() }
    })
}

/// The maximum number of these starts within one window.
fn max_within(starts: &[DateTime<Utc>], window: TimeDelta) -> usize {
    let mut starts = starts.to_vec();
    starts.sort();
    let end = |from: usize| starts.partition_point(|one| *one < starts[from] + window);
    (0..starts.len())
        .map(|from| end(from) - from)
        .max()
        .unwrap_or(0)
}

/// Jobs are packed into one parcel when the limit is set after the enqueue, and into parcels of the burst size
/// when it was set before.
#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_is_exact_across_three_workers() {
    for packed_before in [true, false] {
        let fixture = with_known_queue().await;
        let jobs: Vec<NewJob> = (0..150).map(numbered).collect();
        if packed_before {
            fixture.enqueue_all(jobs.clone()).await;
        }
        let limit = of_tenant(rate(50, Duration::from_secs(1), 5));
        fixture
            .engine
            .set_tenant(fixture.tenant, &limit)
            .await
            .unwrap();
        if !packed_before {
            fixture.enqueue_all(jobs).await;
        }
        let starts = Log::new();
        let fleet = Fleet::start(&fixture, 3, 16, &logging_starts(&starts));
        fixture.wait_until_idle().await;
        fleet.stop().await;
        let starts = starts.read();
        assert_eq!(starts.len(), 150);
        for (window, most) in [(1000, 55), (500, 30), (100, 10)] {
            let found = max_within(&starts, TimeDelta::milliseconds(window));
            assert!(found <= most, "{found} starts in {window} ms");
        }
        let (first, last) = (starts.iter().min().unwrap(), starts.iter().max().unwrap());
        let took = (*last - *first).num_milliseconds();
        assert!((2880..12_000).contains(&took), "{took} ms for 2900");
        assert_at_rest(&fixture).await;
    }
}

const FREE_TIER_LIMIT: (u32, Duration, u32) = (30, Duration::from_secs(60), 3);

/// Calls the claim directly; time advances by moving the limiter's timestamps back.
#[tokio::test]
async fn free_tenant_starts_at_most_33_jobs_in_any_minute() {
    let fixture = with_known_queue().await;
    let limit = of_tenant(rate(
        FREE_TIER_LIMIT.0,
        FREE_TIER_LIMIT.1,
        FREE_TIER_LIMIT.2,
    ));
    fixture
        .engine
        .set_tenant(fixture.tenant, &limit)
        .await
        .unwrap();
    fixture.enqueue_all((0..500).map(numbered).collect()).await;
    fixture
        .execute(
            "insert into queue.leases (worker_id, expires_at)
             select w.id, now() + interval '1 hour' from queue.workers w, generate_series(1, 2)",
        )
        .await;
    let leases: Vec<i64> =
        query_scalar("select id from queue.leases where closed_at is null order by id")
            .fetch_all(&fixture.pool())
            .await
            .unwrap();
    let mut moved = TimeDelta::zero();
    let mut starts = Vec::new();
    let mut turns: usize = 0;
    while starts.len() < 500 {
        turns += 1;
        assert!(turns < 5000);
        let claimed: Vec<(Option<i16>, Option<DateTime<Utc>>)> = query_as(
            "select t.n, t.started_at
             from queue.lanes l, queue.claim(
                 1, $1, $2, array[l.id], '{8}', '{8}', '{}', '{}', 8, 0, 1000000, true) t",
        )
        .bind(leases[turns % leases.len()])
        .bind(i64::try_from(turns).unwrap())
        .fetch_all(&fixture.pool())
        .await
        .unwrap();
        for (jobs, at) in claimed {
            if let (Some(jobs), Some(at)) = (jobs, at) {
                starts.extend((0..jobs).map(|_| at + moved));
            }
        }
        let step = TimeDelta::milliseconds(match rand::rng().random_range(0..20) {
            0 => 30_000,
            _ => rand::rng().random_range(1..2500),
        });
        moved += step;
        query("update queue.limiters set rate_tat = rate_tat - $1 * interval '1 millisecond'")
            .bind(step.num_milliseconds())
            .execute(&fixture.pool())
            .await
            .unwrap();
    }
    assert!(max_within(&starts, TimeDelta::seconds(60)) <= 33);
    assert!(max_within(&starts, TimeDelta::seconds(2)) <= 4);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes: the rate is by the minute"]
async fn free_tenant_with_three_workers_starts_at_most_33_jobs_in_any_minute() {
    let fixture = with_known_queue().await;
    let limit = of_tenant(rate(
        FREE_TIER_LIMIT.0,
        FREE_TIER_LIMIT.1,
        FREE_TIER_LIMIT.2,
    ));
    fixture
        .engine
        .set_tenant(fixture.tenant, &limit)
        .await
        .unwrap();
    fixture.enqueue_all((0..500).map(numbered).collect()).await;
    let starts = Log::new();
    let fleet = Fleet::start(&fixture, 3, 16, &logging_starts(&starts));
    tokio::time::sleep(Duration::from_secs(120)).await;
    fleet.stop().await;
    let starts = starts.read();
    assert!(max_within(&starts, TimeDelta::seconds(60)) <= 33);
    assert!((55..=63).contains(&starts.len()), "{} starts", starts.len());
    assert_eq!(
        fixture.count("select count(*) from queue.attempts").await,
        0
    );
}

/// By how many starts, of six minutes each, the tenant and its limit were charged more than the queue.
async fn excess_charges(fixture: &Fixture) -> (i64, i64) {
    query_as(
        "select ((extract(epoch from t.rate_tat - q.rate_tat)) / 360)::int8,
            ((extract(epoch from k.rate_tat - q.rate_tat)) / 360)::int8
         from queue.limiters q, queue.limiters t, queue.limiters k
         where q.tenant is null and t.tenant is not null and t.key is null and k.key is not null
            and mod(extract(epoch from t.rate_tat - q.rate_tat), 360) = 0
            and mod(extract(epoch from k.rate_tat - q.rate_tat), 360) = 0",
    )
    .fetch_one(&fixture.pool())
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn stacked_limits_are_each_charged_and_the_tightest_governs() {
    let fixture = with_known_queue().await;
    let engine = &fixture.engine;
    let most = |change| LimitChange {
        max_running: Change::Set(1000),
        ..change
    };
    engine
        .set_queue(QUEUE, &most(rate(10, HOUR, 100)))
        .await
        .unwrap();
    let tenant = of_tenant(most(rate(10, HOUR, 50)));
    engine.set_tenant(fixture.tenant, &tenant).await.unwrap();
    let key = of_key("crm", most(rate(10, HOUR, 32)));
    engine.set_tenant(fixture.tenant, &key).await.unwrap();
    fixture
        .enqueue_all((0..80).map(|n| limited("crm", 3, n)).collect())
        .await;
    let runs = Log::new();
    let fleet = Fleet::start(&fixture, 3, 32, &logging_starts(&runs));
    // 32 / 3, although queue and tenant would allow more.
    runs.holds(10).await;
    allow_forbidden_claims().await;
    assert_eq!(runs.len(), 10);
    assert_eq!(excess_charges(&fixture).await, (0, 20));
    // The tenant's 50 slots are full with 40 more jobs that name no limit.
    fixture.enqueue_all((0..60).map(numbered).collect()).await;
    runs.holds(50).await;
    allow_forbidden_claims().await;
    assert_eq!(runs.len(), 50);
    assert_eq!(excess_charges(&fixture).await, (0, -20));
    engine
        .set_tenant(fixture.tenant, &of_tenant(LimitChange::removal()))
        .await
        .unwrap();
    // The 20 remaining jobs of those; none of the others, because their own limit is full.
    runs.holds(70).await;
    allow_forbidden_claims().await;
    assert_eq!(runs.len(), 70);
    engine
        .set_tenant(fixture.tenant, &of_key("crm", LimitChange::removal()))
        .await
        .unwrap();
    // The queue's cap of 100.
    runs.holds(100).await;
    allow_forbidden_claims().await;
    fleet.stop().await;
    assert_eq!(runs.len(), 100);
    assert_eq!(
        fixture
            .count("select count(*) from queue.parcels where state = 'a' and attempt > 0")
            .await,
        0
    );
    assert_at_rest(&fixture).await;
}

/// Current and maximum number of concurrent runs, by name.
#[derive(Clone, Default)]
struct Together(Arc<Mutex<HashMap<String, (u32, u32)>>>);

impl Together {
    fn begin(&self, names: &[&str]) {
        let mut all = self.0.lock().unwrap();
        for name in names {
            let (now, most) = all.entry((*name).to_owned()).or_default();
            *now += 1;
            *most = (*most).max(*now);
        }
    }

    fn end(&self, names: &[&str]) {
        for name in names {
            if let Some((now, _)) = self.0.lock().unwrap().get_mut(*name) {
                *now -= 1;
            }
        }
    }

    fn most(&self, name: &str) -> u32 {
        self.0
            .lock()
            .unwrap()
            .get(name)
            .map_or(0, |(_, most)| *most)
    }
}

/// The names under which a run counts, by its number.
fn names_of(run: &Run) -> [&'static str; 3] {
    match number(run) {
        1 => ["queue", "tenant", "narrow"],
        2 => ["queue", "tenant", "wide"],
        3 => ["queue", "tenant", "crm"],
        _ => ["queue", "other", "other lane"],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_caps_of_lane_limit_tenant_and_queue_are_reached_and_never_exceeded() {
    let fixture = with_known_queue().await;
    let engine = &fixture.engine;
    let other = harkara_shared::id::TenantId::new();
    engine.set_queue(QUEUE, &max_running(9)).await.unwrap();
    for change in [of_tenant(max_running(6)), of_key("crm", max_running(3))] {
        engine.set_tenant(fixture.tenant, &change).await.unwrap();
    }
    let narrow = Lane::Named("narrow".to_owned());
    engine
        .set_lane(fixture.tenant, QUEUE, &narrow, &of_lane(max_running(2)))
        .await
        .unwrap();
    for _ in 0..3 {
        let jobs =
            (0..40).flat_map(|_| [named("narrow", 1), named("wide", 2), limited("crm", 1, 3)]);
        fixture.enqueue_all(jobs.collect()).await;
        fixture.enqueue_for(other, vec![numbered(4); 40]).await;
    }
    let together = Together::default();
    let seen = together.clone();
    let handler = handler(move |run| {
        let together = seen.clone();
        async move {
            together.begin(&names_of(&run));
            tokio::time::sleep(Duration::from_millis(2)).await;
            together.end(&names_of(&run));
            match rand::rng().random_range(0..20) {
                0 => Verdict::retry(crate::support::error("chance"), Some(Duration::ZERO)),
                _ => Verdict::done(),
            }
        }
    });
    let fleet = Fleet::start(&fixture, 3, 16, &handler);
    fixture.wait_until_idle().await;
    fleet.stop().await;
    for (name, cap) in [("queue", 9), ("tenant", 6), ("narrow", 2), ("crm", 3)] {
        assert_eq!(together.most(name), cap, "{name}");
    }
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn limited_job_uses_no_attempt_and_writes_nothing_while_it_waits() {
    let fixture = with_known_queue().await;
    let limit = of_tenant(rate(1, HOUR, 1));
    fixture
        .engine
        .set_tenant(fixture.tenant, &limit)
        .await
        .unwrap();
    fixture.enqueue_all((0..50).map(numbered).collect()).await;
    fixture
        .enqueue_all((0..50).map(|n| named("a", n)).collect())
        .await;
    let starts = Log::new();
    let fleet = Fleet::start(&fixture, 3, 8, &logging_starts(&starts));
    starts.holds(1).await;
    until("the job is settled", async || {
        fixture
            .count("select count(*) from queue.parcels where state = 'r'")
            .await
            == 0
    })
    .await;
    let rows = "select hashtext(string_agg(x, ';' order by x))::int8 from (
            select 'p' || ctid::text || xmin::text as x from queue.parcels
            union all select 'g' || ctid::text || xmin::text from queue.limiters
            union all select 'l' || ctid::text || xmin::text from queue.lanes
            union all select 'a' || ctid::text || xmin::text from queue.attempts
        ) x";
    let before = fixture.count(rows).await;
    // Longer than one poll interval.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(fixture.count(rows).await, before);
    assert_eq!(starts.len(), 1);
    let used = "select count(*) from queue.parcels where state = 'a' and attempt + deferrals > 0";
    assert_eq!(fixture.count(used).await, 0);
    fleet.stop().await;
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn job_that_costs_more_than_the_burst_starts_when_the_limiter_is_full() {
    let fixture = with_known_queue().await;
    let key = of_key("crm", rate(100, Duration::from_secs(10), 2));
    fixture
        .engine
        .set_tenant(fixture.tenant, &key)
        .await
        .unwrap();
    let jobs: Vec<NewJob> = (0..4).map(|n| limited("crm", 5, n)).collect();
    fixture.enqueue_all(jobs).await;
    let starts = Log::new();
    let fleet = Fleet::start(&fixture, 3, 8, &logging_starts(&starts));
    fixture.wait_until_idle().await;
    fleet.stop().await;
    let mut starts = starts.read();
    starts.sort();
    for pair in starts.windows(2) {
        let apart = (pair[1] - pair[0]).num_milliseconds();
        assert!((490..5000).contains(&apart), "{apart} ms");
    }
}

#[tokio::test]
async fn three_limits_of_one_job_are_all_charged() {
    let fixture = with_known_queue().await;
    for (key, burst) in [("a", 7), ("b", 5), ("c", 12)] {
        let change = of_key(key, rate(1, HOUR, burst));
        fixture
            .engine
            .set_tenant(fixture.tenant, &change)
            .await
            .unwrap();
    }
    let jobs = (0..20).map(|n| NewJob {
        limits: [("a", 1), ("b", 1), ("c", 3)]
            .map(|(key, cost)| LimitUse {
                key: key.to_owned(),
                cost,
            })
            .into(),
        ..numbered(n)
    });
    fixture.enqueue_all(jobs.collect()).await;
    let starts = Log::new();
    let fleet = Fleet::start(&fixture, 2, 8, &logging_starts(&starts));
    starts.holds(4).await;
    // One start is left of b, three of a, none of c.
    let rest = (0..9).map(|n| limited(["a", "b", "c"][n % 3], 1, 0));
    fixture.enqueue_all(rest.collect()).await;
    starts.holds(8).await;
    allow_forbidden_claims().await;
    fleet.stop().await;
    assert_eq!(starts.len(), 8);
}

#[tokio::test]
async fn settlement_that_waits_for_a_key_holds_no_limiter() {
    let fixture = with_known_queue().await;
    fixture
        .engine
        .set_tenant(fixture.tenant, &of_tenant(max_running(4)))
        .await
        .unwrap();
    let keyed = NewJob {
        unique: Some(Unique {
            key: "a".to_owned(),
            hold: None,
        }),
        ..job()
    };
    let mut open = fixture.tx().await;
    let neighbours = fixture
        .engine
        .enqueue(&mut open, fixture.tenant, keyed.clone(), Quota::Skip);
    let neighbours = neighbours.await.unwrap().id();
    let follow = keyed.clone();
    let followed = fixture.start_worker(handler(move |run| {
        let then = match number(&run) {
            1 => vec![follow.clone()],
            _ => Vec::new(),
        };
        async {
            Verdict::Done {
                result: None,
                follow_ups: then,
            }
        }
    }));
    let waiting = fixture.enqueue(numbered(1)).await.id();
    until("the settlement waits", async || {
        let waits = "select count(*) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'";
        fixture.count(waits).await > 0
    })
    .await;
    // Uses the same limiter, in another worker.
    let other = NewJob {
        queue: "other".to_owned(),
        ..job()
    };
    let other = fixture.enqueue(other).await.id();
    let worker = fixture.start_worker_with(options(&[("other", 4)]), succeeding_handler());
    fixture.wait_for_state(other, JobState::Succeeded).await;
    drop(open);
    fixture.wait_for_state(waiting, JobState::Succeeded).await;
    fixture.wait_until_idle().await;
    followed.stop().await;
    worker.stop().await;
    let mut tx = fixture.tx().await;
    let gone = harkara_queue::read::job(&mut tx, neighbours).await.unwrap();
    assert!(gone.is_none());
    assert_at_rest(&fixture).await;
}
