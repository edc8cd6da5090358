//! Changes of settings apply to a running worker from its next claim.

use std::sync::Arc;
use std::time::{Duration, Instant};

use harkara_queue::Verdict;
use harkara_queue::job::{JobState, Lane, LimitUse, NewJob};
use harkara_queue::settings::{LaneChange, LimitChange};
use harkara_shared::id::JobId;
use tokio::sync::Semaphore;

use super::{max_running, rate};
use crate::support::{Fixture, QUEUE, handler, job, until};

const HOUR: Duration = Duration::from_secs(3600);

/// Longer than a worker needs to find a job, shorter than any backstop poll.
const NOTIFIED_DELAY: Duration = Duration::from_millis(300);

/// The maximum delay of a change when workers are notified.
const MAX_CHANGE_DELAY: Duration = Duration::from_secs(2);

async fn assert_stays_ready(fixture: &Fixture, id: JobId) {
    tokio::time::sleep(NOTIFIED_DELAY).await;
    assert_eq!(fixture.state(id).await, JobState::Ready);
}

async fn assert_continues(fixture: &Fixture, id: JobId, what: &str) {
    let opened = Instant::now();
    fixture.wait_for_state(id, JobState::Succeeded).await;
    assert!(
        opened.elapsed() < MAX_CHANGE_DELAY,
        "{what}: {:?}",
        opened.elapsed()
    );
}

#[tokio::test]
async fn paused_jobs_wait_and_resume_at_once() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |_| Verdict::done()));
    let engine = &fixture.engine;
    let first = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(first, JobState::Succeeded).await;

    engine.pause_queue(QUEUE, true).await.unwrap();
    let waiting = fixture.enqueue(job()).await.id();
    assert_stays_ready(&fixture, waiting).await;
    engine.pause_queue(QUEUE, false).await.unwrap();
    assert_continues(&fixture, waiting, "queue").await;

    engine.pause_tenant(fixture.tenant, true).await.unwrap();
    let waiting = fixture.enqueue(job()).await.id();
    assert_stays_ready(&fixture, waiting).await;
    engine.pause_tenant(fixture.tenant, false).await.unwrap();
    assert_continues(&fixture, waiting, "tenant").await;

    let lane = Lane::Named("a".to_owned());
    let set = async |change: LaneChange| {
        let tenant = fixture.tenant;
        engine
            .set_lane(tenant, QUEUE, &lane, &change)
            .await
            .unwrap();
    };
    let paused = |paused| LaneChange {
        paused: Some(paused),
        ..LaneChange::default()
    };
    set(paused(true)).await;
    let in_lane = NewJob {
        lane: lane.clone(),
        ..job()
    };
    let waiting = fixture.enqueue(in_lane.clone()).await.id();
    assert_stays_ready(&fixture, waiting).await;
    set(paused(false)).await;
    assert_continues(&fixture, waiting, "lane").await;

    fixture
        .execute("update queue.lanes set parked_until = now() + interval '1 hour' where key = 'a'")
        .await;
    let waiting = fixture.enqueue(in_lane).await.id();
    assert_stays_ready(&fixture, waiting).await;
    set(LaneChange {
        unpark: true,
        ..LaneChange::default()
    })
    .await;
    assert_continues(&fixture, waiting, "parked lane").await;
    worker.stop().await;
}

#[tokio::test]
async fn raised_or_removed_limit_releases_waiting_jobs_at_once() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |_| Verdict::done()));
    let first = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(first, JobState::Succeeded).await;
    let set = async |change: LimitChange| fixture.engine.set_queue(QUEUE, &change).await.unwrap();

    for (what, opening) in [
        ("raised", rate(1000, Duration::from_secs(1))),
        ("removed", LimitChange::removal()),
    ] {
        set(rate(1, HOUR)).await;
        let granted = fixture.enqueue(job()).await.id();
        assert_continues(&fixture, granted, what).await;
        let waiting = fixture.enqueue(job()).await.id();
        assert_stays_ready(&fixture, waiting).await;
        set(opening).await;
        assert_continues(&fixture, waiting, what).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn lane_settings_apply_to_jobs_that_name_other_limits() {
    let fixture = Fixture::new().await;
    let first = fixture.enqueue(job()).await.id();
    let change = LaneChange {
        paused: Some(true),
        limit: max_running(3),
        ..LaneChange::default()
    };
    fixture
        .engine
        .set_lane(fixture.tenant, QUEUE, &Lane::Default, &change)
        .await
        .unwrap();
    let limits = vec![LimitUse {
        key: "crm".to_owned(),
        cost: 1,
    }];
    let limited = fixture.enqueue(NewJob { limits, ..job() }).await.id();
    let worker = fixture.start_worker(handler(async |_| Verdict::done()));
    assert_stays_ready(&fixture, first).await;
    assert_stays_ready(&fixture, limited).await;
    let lanes = fixture
        .engine
        .lane(fixture.tenant, QUEUE, &Lane::Default)
        .await;
    let lanes = lanes.unwrap();
    assert_eq!(lanes.len(), 2);
    assert!(lanes.iter().all(|lane| lane.limit.max_running == Some(3)));
    worker.stop().await;
}

#[tokio::test]
async fn running_jobs_count_against_a_new_limit() {
    let fixture = Fixture::new().await;
    let permits = Arc::new(Semaphore::new(0));
    let open = Arc::clone(&permits);
    let worker = fixture.start_worker(handler(move |_| {
        let open = Arc::clone(&open);
        async move {
            open.acquire().await.unwrap().forget();
            Verdict::done()
        }
    }));
    let running = async || {
        let sql = "select coalesce(sum(n - coalesce(cardinality(gone), 0)
            - coalesce(cardinality(acked), 0)), 0)::int8 from queue.parcels where state = 'r'";
        fixture.count(sql).await
    };
    fixture.enqueue_all(vec![job(); 4]).await;
    until("four jobs run", async || running().await == 4).await;
    fixture
        .engine
        .set_queue(QUEUE, &max_running(2))
        .await
        .unwrap();
    fixture.enqueue_all(vec![job(); 4]).await;
    tokio::time::sleep(NOTIFIED_DELAY).await;
    assert_eq!(running().await, 4);
    for left in [3, 2, 2, 2, 2, 2, 1, 0] {
        permits.add_permits(1);
        until("one job ends", async || running().await <= left).await;
        tokio::time::sleep(NOTIFIED_DELAY).await;
        assert_eq!(running().await, left);
    }
    assert_eq!(
        fixture
            .count("select sum(running) from queue.limiters")
            .await,
        0
    );
    worker.stop().await;
}
