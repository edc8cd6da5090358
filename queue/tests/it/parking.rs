//! Lanes parked by their receiver: no job is claimed before the lane opens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::job::{AttemptOutcome, JobState};
use harkara_queue::{Handler, Verdict};
use harkara_shared::database::query_scalar;

use crate::lost_workers::{Fleet, assert_at_rest, named};
use crate::support::{Fixture, Log, error, handler, number, numbered, until};

const PARK_TIME: Duration = Duration::from_secs(2);

/// Returns `RateLimited` in the first run of job 0; logs the numbers and claim times of the others.
fn rate_limited_first(log: &Log<(u64, DateTime<Utc>)>) -> Arc<dyn Handler> {
    let log = log.clone();
    let limited_once = AtomicBool::new(false);
    handler(move |run| {
        let is_limited = number(&run) == 0 && !limited_once.swap(true, Ordering::Relaxed);
        if !is_limited {
            log.write((number(&run), run.job.started_at));
        }
        async move {
            if is_limited {
                Verdict::RateLimited {
                    wait: PARK_TIME,
                    reason: error("too_many"),
                }
            } else {
                Verdict::done()
            }
        }
    })
}

#[tokio::test]
async fn rate_limited_lane_is_parked_for_all_workers_and_other_lanes_continue() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let jobs = fixture.enqueue_all((0..60).map(|n| named("a", n)).collect());
    let first = jobs.await[0].id();
    let handler = rate_limited_first(&log);
    // The first worker claims several at once and puts back those it has not started.
    let one = Fleet::start(&fixture, 1, 8, &handler);
    let until_when = "select parked_until from queue.lanes where key = 'a'";
    let mut rest: Option<DateTime<Utc>> = None;
    until("the lane is parked", async || {
        rest = query_scalar(until_when)
            .fetch_one(&fixture.pool())
            .await
            .unwrap();
        rest.is_some()
    })
    .await;
    let rest = rest.unwrap();
    let more = Fleet::start(&fixture, 2, 8, &handler);
    fixture
        .enqueue_all((60..80).map(|n| named("a", n)).collect())
        .await;
    let others = (100..130)
        .map(|n| named("b", n))
        .chain((200..230).map(numbered));
    let others = fixture.enqueue_all(others.collect()).await;
    for other in others {
        fixture
            .wait_for_state(other.id(), JobState::Succeeded)
            .await;
    }
    fixture.wait_until_idle().await;
    one.stop().await;
    more.stop().await;
    let log = log.read();
    assert_eq!(log.len(), 140);
    for (number, claimed) in log {
        if number < 100 {
            assert!(
                claimed >= rest,
                "job {number} was claimed {} early",
                rest - claimed
            );
        } else {
            assert!(claimed < rest, "job {number} waited for another lane");
        }
    }
    let used =
        "select count(*) from queue.parcels where attempt <> 1 and n > 0 and cardinality(body) > 0";
    assert_eq!(fixture.count(used).await, 0);
    let runs = fixture.attempts(first).await;
    assert_eq!(runs[0].outcome, AttemptOutcome::RateLimited);
    assert!(runs[1].started_at >= runs[0].next_run_at.unwrap());
    assert_eq!(
        fixture.count("select count(*) from queue.attempts").await,
        1
    );
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn rate_limited_job_in_the_default_lane_waits_alone() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    fixture.enqueue_all((0..60).map(numbered).collect()).await;
    let fleet = Fleet::start(&fixture, 3, 4, &rate_limited_first(&log));
    fixture.wait_until_idle().await;
    fleet.stop().await;
    let log = log.read();
    assert_eq!(log.len(), 60);
    let (last, at) = log[59];
    assert_eq!(last, 0);
    assert!(log[..59].iter().all(|(_, claimed)| *claimed < at));
    let parked = "select count(*) from queue.lanes where parked_until is not null";
    assert_eq!(fixture.count(parked).await, 0);
}
