//! Priorities: urgent jobs run first, and the lowest priority does not starve.

use std::sync::Arc;
use std::time::Duration;

use harkara_queue::job::{JobState, Lane, NewJob, Unique};
use harkara_queue::settings::{Change, LimitChange, TenantChange};
use harkara_queue::{Handler, Verdict};
use tokio::sync::Semaphore;

use crate::lost_workers::{assert_at_rest, named, ordered};
use crate::support::{Fixture, Log, QUEUE, error, handler, job, number, numbered, options};

/// Jobs of the highest priority.
const URGENT: u64 = 2000;

/// A job in a row of its own.
fn single(number: u64, priority: u8) -> NewJob {
    NewJob {
        priority,
        unique: Some(Unique {
            key: format!("{number}"),
            hold: None,
        }),
        ..numbered(number)
    }
}

/// The order of runs when the oldest job has the lowest priority.
async fn order(limit: LimitChange) -> Vec<u64> {
    let fixture = Fixture::new().await;
    let change = TenantChange {
        limit,
        ..TenantChange::default()
    };
    fixture
        .engine
        .set_tenant(fixture.tenant, &change)
        .await
        .unwrap();
    fixture.enqueue(single(URGENT, 9)).await;
    fixture
        .enqueue_all((0..URGENT).map(|number| single(number, 0)).collect())
        .await;
    let ran = Log::new();
    let log_copy = ran.clone();
    let worker = fixture.start_worker_with(
        options(&[(QUEUE, 1)]),
        handler(move |run| {
            log_copy.write(number(&run));
            async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Verdict::done()
            }
        }),
    );
    ran.holds(usize::try_from(URGENT).unwrap() + 1).await;
    worker.stop().await;
    ran.read()
}

fn position(order: &[u64]) -> usize {
    order.iter().position(|number| *number == URGENT).unwrap()
}

#[tokio::test]
async fn lowest_priority_job_runs_before_all_more_urgent_jobs_have_run() {
    let order = order(LimitChange::default()).await;
    let position = position(&order);
    assert!(position > 0, "urgent jobs must run first");
    assert!(
        position < 1900,
        "it ran after {position} of {URGENT} urgent jobs"
    );
}

#[tokio::test]
async fn lowest_priority_job_in_a_limited_lane_runs_before_all_more_urgent_jobs_have_run() {
    let one_at_a_time = LimitChange {
        max_running: Change::Set(1),
        ..LimitChange::default()
    };
    let position = position(&order(one_at_a_time).await);
    assert!(
        (1..1900).contains(&position),
        "it ran after {position} of {URGENT} urgent jobs"
    );
}

#[tokio::test]
async fn more_urgent_job_runs_first_without_a_backlog() {
    let fixture = Fixture::new().await;
    let jobs = [9, 5, 0, 7].map(|priority| NewJob { priority, ..job() });
    for job in jobs {
        fixture.enqueue(job).await;
    }
    let ran = Log::new();
    let log_copy = ran.clone();
    let worker = fixture.start_worker_with(
        options(&[(QUEUE, 1)]),
        handler(move |run| {
            log_copy.write(run.job.id);
            async { Verdict::done() }
        }),
    );
    ran.holds(4).await;
    let mut priorities = Vec::new();
    for id in ran.read() {
        priorities.push(fixture.job(id).await.priority);
    }
    assert_eq!(priorities, [0, 5, 7, 9]);
    worker.stop().await;
}

/// Logs the numbers of runs; the first run of job 0 fails once there is a permit, gets a lower priority and returns
/// after this wait.
fn failing_first(log: &Log<u64>, permits: &Arc<Semaphore>, after: Duration) -> Arc<dyn Handler> {
    let log = log.clone();
    let permits = Arc::clone(permits);
    handler(move |run| {
        let fails = number(&run) == 0 && !log.read().contains(&0);
        log.write(number(&run));
        let permits = Arc::clone(&permits);
        async move {
            if fails {
                permits.acquire().await.unwrap().forget();
                return Verdict::Retry {
                    error: error("down"),
                    after: Some(after),
                    lower_priority: true,
                };
            }
            Verdict::done()
        }
    })
}

/// The order of runs when two more jobs arrive after the first has failed and is due again.
async fn order_after_a_failure(lane: fn(u64) -> NewJob) -> Vec<u64> {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let permits = Arc::new(Semaphore::new(0));
    let handler = failing_first(&log, &permits, Duration::ZERO);
    let worker = fixture.start_worker_with(options(&[(QUEUE, 1)]), Arc::clone(&handler));
    let late = fixture.enqueue(lane(0)).await.id();
    log.holds(1).await;
    // The run fails when its queue is paused, so that the job is not claimed again at once.
    fixture
        .execute("update queue.queues set paused = true")
        .await;
    permits.add_permits(1);
    fixture.wait_for_state(late, JobState::Ready).await;
    worker.stop().await;
    fixture.enqueue_all(vec![lane(1), lane(2)]).await;
    fixture
        .execute("update queue.queues set paused = false")
        .await;
    let ran_before = log.len();
    let worker = fixture.start_worker_with(options(&[(QUEUE, 1)]), handler);
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_at_rest(&fixture).await;
    log.read()[ran_before..].to_vec()
}

#[tokio::test]
async fn late_retry_yields_to_fresh_jobs_of_its_lane_and_still_runs() {
    assert_eq!(order_after_a_failure(|n| named("a", n)).await, [1, 2, 0]);
}

#[tokio::test]
async fn head_of_an_ordered_lane_stays_first_at_lower_priority() {
    assert_eq!(order_after_a_failure(|n| ordered("a", n)).await, [0, 1, 2]);
}

#[tokio::test]
async fn lowered_retry_has_priority_seven_at_most_and_other_jobs_keep_theirs() {
    for (before, after) in [(5, 7), (8, 8)] {
        let fixture = Fixture::new().await;
        let jobs = (0..3).map(|n| NewJob {
            priority: before,
            lane: Lane::Default,
            ..numbered(n)
        });
        let jobs = fixture.enqueue_all(jobs.collect()).await;
        let hour = Duration::from_secs(3600);
        let worker = fixture.start_worker(failing_first(
            &Log::new(),
            &Arc::new(Semaphore::new(1)),
            hour,
        ));
        let late = fixture
            .wait_for_state(jobs[0].id(), JobState::Scheduled)
            .await;
        assert_eq!(late.priority, after);
        let other = fixture
            .wait_for_state(jobs[1].id(), JobState::Succeeded)
            .await;
        assert_eq!(other.priority, before);
        worker.stop().await;
    }
}
