//! Reasons outside the job: pauses, limits, its lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use harkara_queue::Verdict;
use harkara_queue::job::{JobState, Lane, LimitUse, NewJob};
use harkara_queue::read::ReasonCode;
use harkara_queue::settings::{Breaker, Change, LaneChange};
use tokio::sync::Semaphore;

use super::{HOUR, max_running, of_key, of_lane, of_tenant, rate, waiting_for_permit};
use crate::lost_workers::{limited, named, ordered};
use crate::support::{
    Fixture, QUEUE, error, failed, handler, job, number, numbered, options, succeeding_handler,
    until,
};

fn lane(key: &str) -> Lane {
    Lane::Named(key.to_owned())
}

fn pause(paused: bool) -> LaneChange {
    LaneChange {
        paused: Some(paused),
        ..LaneChange::default()
    }
}

#[tokio::test]
async fn paused_queue_is_reported_with_its_start_time() {
    for packed in [false, true] {
        let fixture = Fixture::new().await;
        let ids = fixture
            .enqueue_jobs(packed, (0..3).map(numbered).collect())
            .await;
        let later = fixture
            .enqueue(NewJob {
                delay: HOUR,
                ..job()
            })
            .await
            .id();
        let before = fixture.now().await;
        fixture.engine.pause_queue(QUEUE, true).await.unwrap();
        let worker = fixture.start_worker(succeeding_handler());
        until("a worker serves it", async || {
            fixture.codes(ids[1]).await == [ReasonCode::QueuePaused, ReasonCode::Behind]
        })
        .await;
        let first = fixture.codes(ids[0]).await;
        assert_eq!(first, [ReasonCode::QueuePaused]);
        let reason = fixture.reason(ids[2], ReasonCode::QueuePaused).await;
        let since = reason.since.unwrap();
        assert!(since >= before && since <= fixture.now().await);
        assert_eq!(reason.until, None);
        assert!(reason.detail.contains("the queue `default` is paused"));
        // Both reasons apply to a job that is not due yet.
        assert_eq!(
            fixture.codes(later).await,
            [ReasonCode::QueuePaused, ReasonCode::Scheduled]
        );
        // A second pause keeps the first start time.
        fixture.engine.pause_queue(QUEUE, true).await.unwrap();
        let again = fixture.reason(ids[0], ReasonCode::QueuePaused).await;
        assert_eq!(again.since, Some(since));
        fixture.engine.pause_queue(QUEUE, false).await.unwrap();
        for id in ids {
            fixture.wait_for_state(id, JobState::Succeeded).await;
        }
        let paused = "select count(*) from queue.queues where paused_at is not null";
        assert_eq!(fixture.count(paused).await, 0);
        worker.stop().await;
    }
}

#[tokio::test]
async fn paused_tenant_is_reported_with_its_start_time() {
    for packed in [false, true] {
        let fixture = Fixture::new().await;
        let ids = fixture
            .enqueue_jobs(packed, (0..3).map(numbered).collect())
            .await;
        fixture
            .engine
            .pause_tenant(fixture.tenant, true)
            .await
            .unwrap();
        let worker = fixture.start_worker(succeeding_handler());
        until("a worker serves it", async || {
            fixture.codes(ids[0]).await == [ReasonCode::TenantPaused]
        })
        .await;
        let reason = fixture.reason(ids[2], ReasonCode::TenantPaused).await;
        assert_eq!(
            reason.since,
            fixture.moment("select paused_at from queue.tenants").await
        );
        assert!(reason.since.is_some() && reason.detail.contains("the tenant is paused"));
        // Another setting keeps the start time.
        let weight = harkara_queue::settings::TenantChange {
            weight: Change::Set(2),
            ..Default::default()
        };
        fixture
            .engine
            .set_tenant(fixture.tenant, &weight)
            .await
            .unwrap();
        let again = fixture.reason(ids[2], ReasonCode::TenantPaused).await;
        assert_eq!(again.since, reason.since);
        fixture
            .engine
            .pause_tenant(fixture.tenant, false)
            .await
            .unwrap();
        fixture.wait_for_state(ids[2], JobState::Succeeded).await;
        assert_eq!(
            fixture.moment("select paused_at from queue.tenants").await,
            None
        );
        worker.stop().await;
    }
}

#[tokio::test]
async fn paused_lane_is_reported_for_its_existing_and_future_rows() {
    for packed in [false, true] {
        let fixture = Fixture::new().await;
        let jobs = (0..3).map(|n| named("a", n)).collect();
        let mut ids = fixture.enqueue_jobs(packed, jobs).await;
        let other = fixture.enqueue(named("b", 9)).await.id();
        let set = async |paused| {
            let change = pause(paused);
            let engine = &fixture.engine;
            engine
                .set_lane(fixture.tenant, QUEUE, &lane("a"), &change)
                .await
                .unwrap();
        };
        set(true).await;
        // It gets a lane row of its own, because it names a limit.
        let limits = vec![LimitUse {
            key: "crm".to_owned(),
            cost: 1,
        }];
        ids.push(
            fixture
                .enqueue(NewJob {
                    limits,
                    ..named("a", 3)
                })
                .await
                .id(),
        );
        let worker = fixture.start_worker(succeeding_handler());
        fixture.wait_for_state(other, JobState::Succeeded).await;
        for id in &ids {
            let reason = fixture.reason(*id, ReasonCode::LanePaused).await;
            assert_eq!(
                reason.since,
                fixture
                    .moment("select min(paused_at) from queue.lanes where key = 'a'")
                    .await
            );
            assert!(reason.since.is_some() && reason.detail.contains("the lane `a` is paused"));
        }
        set(false).await;
        for id in ids {
            fixture.wait_for_state(id, JobState::Succeeded).await;
        }
        worker.stop().await;
    }
}

/// Limits of four starts an hour with a burst of two, as seen by jobs that have not started.
#[tokio::test]
async fn rate_limit_is_reported_by_name_with_its_opening_time() {
    for packed in [false, true] {
        for whose in ["queue", "tenant", "key", "lane"] {
            let fixture = Fixture::new().await;
            let jobs: Vec<NewJob> = (0..6)
                .map(|n| NewJob {
                    lane: lane("a"),
                    ..limited("crm", 1, n)
                })
                .collect();
            let ids = fixture.enqueue_jobs(packed, jobs).await;
            let (engine, tenant) = (&fixture.engine, fixture.tenant);
            let words = match whose {
                "queue" => {
                    engine.set_queue(QUEUE, &rate(4, 2)).await.unwrap();
                    "the limit of the queue `default` is used up"
                }
                "tenant" => {
                    let change = of_tenant(rate(4, 2));
                    engine.set_tenant(tenant, &change).await.unwrap();
                    "the tenant's own limit is used up"
                }
                "key" => {
                    let change = of_key("crm", rate(4, 2));
                    engine.set_tenant(tenant, &change).await.unwrap();
                    "the tenant's limit `crm` is used up"
                }
                _ => {
                    let change = of_lane(rate(4, 2));
                    engine
                        .set_lane(tenant, QUEUE, &lane("a"), &change)
                        .await
                        .unwrap();
                    "the limit of the lane `a` is used up"
                }
            };
            let worker = fixture.start_worker(succeeding_handler());
            for id in &ids[..2] {
                fixture.wait_for_state(*id, JobState::Succeeded).await;
            }
            let explanation = fixture.explain(ids[3]).await;
            assert!(!explanation.runnable);
            let reason = fixture.reason(ids[3], ReasonCode::RateLimited).await;
            assert!(reason.detail.contains(words), "{reason:?}");
            assert!(
                reason.detail.contains("4 starts in 1h, 2 at once"),
                "{reason:?}"
            );
            let opens =
                "select rate_tat - rate_every from queue.limiters where rate_count is not null";
            let off = fixture.moment(opens).await.unwrap() - reason.until.unwrap();
            assert!(off.abs() < TimeDelta::milliseconds(1), "{off}");
            let behind = fixture.reason(ids[3], ReasonCode::Behind).await;
            assert_eq!(behind.ahead, Some(1));
            // The next job has no other reason to wait.
            assert_eq!(fixture.codes(ids[2]).await, [ReasonCode::RateLimited]);
            worker.stop().await;
        }
    }
}

#[tokio::test]
async fn tightest_limit_is_reported_first_and_costs_count() {
    let fixture = Fixture::new().await;
    let ids = fixture
        .enqueue_jobs(true, (0..3).map(|n| limited("crm", 3, n)).collect())
        .await;
    let change = of_tenant(rate(60, 1));
    fixture
        .engine
        .set_tenant(fixture.tenant, &change)
        .await
        .unwrap();
    let change = of_key("crm", rate(60, 3));
    fixture
        .engine
        .set_tenant(fixture.tenant, &change)
        .await
        .unwrap();
    let worker = fixture.start_worker(succeeding_handler());
    fixture.wait_for_state(ids[0], JobState::Succeeded).await;
    let explanation = fixture.explain(ids[1]).await;
    let limits: Vec<_> = explanation
        .reasons
        .iter()
        .filter(|reason| reason.code == ReasonCode::RateLimited)
        .collect();
    assert_eq!(limits.len(), 2);
    // Three minutes for the key's three starts, one for the tenant's one.
    let between = limits[0].until.unwrap() - limits[1].until.unwrap();
    assert!((between - TimeDelta::minutes(2)).abs() < TimeDelta::milliseconds(1));
    assert!(limits[0].detail.contains("`crm`"), "{limits:?}");
    assert!(limits[0].detail.ends_with("counts for 3"), "{limits:?}");
    worker.stop().await;
}

#[tokio::test]
async fn lane_parked_by_a_receiver_is_reported_with_its_opening_time() {
    for packed in [false, true] {
        let fixture = Fixture::new().await;
        let limited_once = Arc::new(AtomicBool::new(false));
        let rate_limiting = handler(move |run| {
            let is_limited = number(&run) == 0 && !limited_once.swap(true, Ordering::Relaxed);
            async move {
                match is_limited {
                    true => Verdict::RateLimited {
                        wait: HOUR,
                        reason: error("too_many"),
                    },
                    false => Verdict::done(),
                }
            }
        });
        let first = fixture.enqueue(named("a", 0)).await.id();
        let worker = fixture.start_worker(rate_limiting);
        fixture.wait_for_state(first, JobState::Scheduled).await;
        let ids = fixture
            .enqueue_jobs(packed, (1..4).map(|n| named("a", n)).collect())
            .await;
        let reason = fixture.reason(ids[1], ReasonCode::RateLimited).await;
        let parked = "select parked_until from queue.lanes where key = 'a'";
        assert_eq!(reason.until, fixture.moment(parked).await);
        assert!(
            reason
                .detail
                .contains("the receiver asked the lane `a` to pause")
        );
        let since = "select parked_at from queue.lanes where key = 'a'";
        assert_eq!(reason.since, fixture.moment(since).await);
        // The rate-limited job waits itself, and its lane no longer than the job.
        let own = fixture.reason(first, ReasonCode::Scheduled).await;
        assert!(
            own.detail.contains("asked it to wait (`too_many`)"),
            "{own:?}"
        );
        assert!(own.detail.contains("no attempt") && own.since.is_some());
        worker.stop().await;
    }
}

#[tokio::test]
async fn concurrency_limit_is_reported_with_its_numbers() {
    for packed in [false, true] {
        for whose in ["queue", "tenant", "key", "lane"] {
            let fixture = Fixture::new().await;
            let jobs: Vec<NewJob> = (0..5)
                .map(|n| NewJob {
                    lane: lane("a"),
                    ..limited("crm", 1, n)
                })
                .collect();
            let ids = fixture.enqueue_jobs(packed, jobs).await;
            let (engine, tenant) = (&fixture.engine, fixture.tenant);
            let words = match whose {
                "queue" => {
                    engine.set_queue(QUEUE, &max_running(2)).await.unwrap();
                    "the limit of the queue `default` on running jobs is used up: all 2 of all tenants"
                }
                "tenant" => {
                    let change = of_tenant(max_running(2));
                    engine.set_tenant(tenant, &change).await.unwrap();
                    "the tenant's own limit on running jobs is used up: 2 of 2 run now"
                }
                "key" => {
                    let change = of_key("crm", max_running(2));
                    engine.set_tenant(tenant, &change).await.unwrap();
                    "the tenant's limit `crm` on running jobs is used up: 2 of 2 run now"
                }
                _ => {
                    let change = of_lane(max_running(2));
                    engine
                        .set_lane(tenant, QUEUE, &lane("a"), &change)
                        .await
                        .unwrap();
                    "the limit of the lane `a` on running jobs is used up: 2 of 2 run now"
                }
            };
            let leave = Arc::new(Semaphore::new(0));
            let worker = fixture.start_worker(waiting_for_permit(&leave));
            for id in &ids[..2] {
                fixture.wait_for_state(*id, JobState::Running).await;
            }
            let reason = fixture.reason(ids[4], ReasonCode::ConcurrencyLimit).await;
            assert!(reason.detail.contains(words), "{reason:?}");
            assert_eq!(fixture.codes(ids[2]).await, [ReasonCode::ConcurrencyLimit]);
            leave.add_permits(5);
            fixture.wait_for_state(ids[4], JobState::Succeeded).await;
            worker.stop().await;
        }
    }
}

#[tokio::test]
async fn job_ahead_in_an_ordered_lane_is_named() {
    for packed in [false, true] {
        let fixture = Fixture::new().await;
        let ids = fixture
            .enqueue_jobs(packed, (0..4).map(|n| ordered("a", n)).collect())
            .await;
        let later = NewJob {
            delay: HOUR,
            ..ordered("a", 9)
        };
        let later = fixture.enqueue(later).await.id();
        let first = ids[0].to_string();
        // No job has started: the first is next.
        let reason = fixture.reason(ids[2], ReasonCode::OrderingHead).await;
        assert!(
            reason
                .detail
                .contains(&format!("{first} is ready, and first in line"))
        );
        assert_eq!(reason.ahead, Some(2));
        assert_eq!(fixture.codes(ids[0]).await, [ReasonCode::NoWorker]);
        assert_eq!(
            fixture.codes(later).await,
            [ReasonCode::Scheduled, ReasonCode::NoWorker]
        );

        let leave = Arc::new(Semaphore::new(0));
        let worker = fixture.start_worker(waiting_for_permit(&leave));
        fixture.wait_for_state(ids[0], JobState::Running).await;
        let reason = fixture.reason(ids[2], ReasonCode::OrderingHead).await;
        assert!(
            reason
                .detail
                .contains(&format!("`a` runs one job after another, and {first} runs"))
        );
        assert_eq!(reason.ahead, Some(2));
        assert_eq!(fixture.codes(ids[1]).await, [ReasonCode::OrderingHead]);
        assert_eq!(
            fixture.codes(later).await,
            [ReasonCode::Scheduled, ReasonCode::OrderingHead]
        );
        leave.add_permits(1);
        fixture.wait_for_state(ids[1], JobState::Running).await;
        let reason = fixture.reason(ids[2], ReasonCode::OrderingHead).await;
        assert!(reason.detail.contains(&ids[1].to_string()), "{reason:?}");
        assert_eq!(reason.ahead, Some(1));
        leave.add_permits(9);
        worker.stop().await;

        // A failed head stays first and waits for its backoff.
        let fixture = Fixture::new().await;
        let patient = |n| {
            let mut job = ordered("a", n);
            job.backoff.base = HOUR;
            job.backoff.max = HOUR;
            job
        };
        let ids = fixture
            .enqueue_jobs(packed, (0..3).map(patient).collect())
            .await;
        let worker = fixture.start_worker(handler(async |_| failed("down")));
        fixture.wait_for_state(ids[0], JobState::Scheduled).await;
        let reason = fixture.reason(ids[1], ReasonCode::OrderingHead).await;
        let words = format!("{} has started and waits for its next attempt", ids[0]);
        assert!(reason.detail.contains(&words), "{reason:?}");
        assert_eq!(reason.ahead, Some(1));
        assert_eq!(fixture.codes(ids[0]).await, [ReasonCode::Scheduled]);
        worker.stop().await;
    }
}

#[tokio::test]
async fn breaker_is_reported_while_open_and_during_its_trial() {
    for packed in [false, true] {
        let fixture = Fixture::new().await;
        let once = |n| NewJob {
            max_attempts: 1,
            ..named("a", n)
        };
        let ids = fixture
            .enqueue_jobs(packed, (0..30).map(once).collect())
            .await;
        let last = ids[29];
        let set = async |change: &LaneChange| {
            let engine = &fixture.engine;
            engine
                .set_lane(fixture.tenant, QUEUE, &lane("a"), change)
                .await
                .unwrap();
        };
        set(&LaneChange {
            breaker: Change::Set(Breaker::consecutive(3, HOUR)),
            ..LaneChange::default()
        })
        .await;
        let failing = handler(async |_| {
            tokio::time::sleep(Duration::from_millis(30)).await;
            failed("down")
        });
        let worker = fixture.start_worker_with(options(&[(QUEUE, 1)]), failing);
        until("the breaker opens", async || {
            fixture.codes(last).await.contains(&ReasonCode::BreakerOpen)
        })
        .await;
        let reason = fixture.reason(last, ReasonCode::BreakerOpen).await;
        let rest = "select parked_until from queue.lanes where key = 'a'";
        assert_eq!(reason.until, fixture.moment(rest).await);
        assert!(reason.until.unwrap() > fixture.now().await + TimeDelta::minutes(59));
        let since = "select parked_at from queue.lanes where key = 'a'";
        assert_eq!(reason.since, fixture.moment(since).await);
        assert!(
            reason
                .detail
                .contains("the breaker of the lane `a` is open after")
        );
        worker.stop().await;

        // No worker is available for the trial: the first job may start, the others not yet.
        set(&LaneChange {
            unpark: true,
            ..LaneChange::default()
        })
        .await;
        // Members of one row that were put back have no order among themselves.
        if !packed {
            let next = ids[usize::try_from(fixture.jobs("xd").await).unwrap()];
            assert_eq!(fixture.codes(next).await, [ReasonCode::NoWorker]);
        }
        let reason = fixture.reason(last, ReasonCode::BreakerOpen).await;
        assert!(reason.detail.contains("has rested") && reason.until.is_none());

        let leave = Arc::new(Semaphore::new(0));
        let worker = fixture.start_worker(waiting_for_permit(&leave));
        until("the trial runs", async || fixture.jobs("r").await == 1).await;
        let reason = fixture.reason(last, ReasonCode::BreakerOpen).await;
        assert!(reason.detail.contains("half open: one job is being tried"));
        assert_eq!(reason.until, None);
        leave.add_permits(30);
        fixture.wait_for_state(last, JobState::Succeeded).await;
        worker.stop().await;
    }
}
