//! Circuit breakers: a lane with too many failures rests, then one job is run as a trial.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::job::{AttemptOutcome, JobState, Lane, NewJob};
use harkara_queue::settings::{Breaker, BreakerState, Change, LaneChange, LaneSettings};
use harkara_queue::{Handler, Verdict};
use tokio::sync::{Barrier, Semaphore};

use crate::cancel::cancel;
use crate::lost_workers::{Fleet, assert_at_rest, kill_and_expire, named, options_without_drain};
use crate::support::{
    Fixture, Log, QUEUE, error, failed, handler, job, number, succeeding_handler, until,
};

const HOUR: Duration = Duration::from_secs(3600);
const OBSERVATION_TIME: Duration = Duration::from_millis(100);

fn lane() -> Lane {
    Lane::Named("a".to_owned())
}

/// A fixture with a lane `a` whose breaker opens after three consecutive failures.
async fn with_breaker(rest: Duration) -> Fixture {
    let fixture = Fixture::new().await;
    let first = fixture.enqueue(job()).await.id();
    let worker = fixture.start_worker(succeeding_handler());
    fixture.wait_for_state(first, JobState::Succeeded).await;
    worker.stop().await;
    set_breaker(&fixture, Breaker::consecutive(3, rest)).await;
    fixture
}

async fn set_breaker(fixture: &Fixture, breaker: Breaker) {
    let change = LaneChange {
        breaker: Change::Set(breaker),
        ..LaneChange::default()
    };
    fixture
        .engine
        .set_lane(fixture.tenant, QUEUE, &lane(), &change)
        .await
        .unwrap();
}

async fn lane_settings(fixture: &Fixture) -> LaneSettings {
    let mut lanes = fixture
        .engine
        .lane(fixture.tenant, QUEUE, &lane())
        .await
        .unwrap();
    lanes.pop().unwrap()
}

async fn wait_for_breaker(fixture: &Fixture, state: BreakerState) {
    until(&format!("the breaker is {state:?}"), async || {
        lane_settings(fixture).await.breaker_state == state
    })
    .await;
}

/// Opens the breaker with its rest already over.
async fn open_breaker(fixture: &Fixture) {
    fixture
        .execute("update queue.lanes set breaker = 'o', failures = 3 where key = 'a'")
        .await;
}

/// Jobs with a single attempt.
fn single_attempt(numbers: std::ops::Range<u64>) -> Vec<NewJob> {
    let single_attempt = |number| NewJob {
        max_attempts: 1,
        ..named("a", number)
    };
    numbers.map(single_attempt).collect()
}

/// Succeeds while `healthy` is set and fails otherwise, after a short run so that no job is prefetched; logs
/// when trials were claimed.
fn succeed_while(trials: &Log<DateTime<Utc>>, healthy: &Arc<AtomicBool>) -> Arc<dyn Handler> {
    let (trials, healthy) = (trials.clone(), Arc::clone(healthy));
    handler(move |run| {
        if run.job.is_trial() {
            trials.write(run.job.started_at);
        }
        let healthy = Arc::clone(&healthy);
        async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            match healthy.load(Ordering::Relaxed) {
                true => Verdict::done(),
                false => failed("down"),
            }
        }
    })
}

#[tokio::test]
async fn breaker_opens_exactly_at_its_threshold_of_consecutive_failures() {
    let fixture = with_breaker(HOUR).await;
    let log = Log::new();
    let log_copy = log.clone();
    let handler = handler(move |run| {
        log_copy.write(number(&run));
        async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            // Two failures, a success, then only failures.
            match number(&run) {
                2 => Verdict::done(),
                _ => failed("down"),
            }
        }
    });
    fixture.enqueue_all(single_attempt(0..20)).await;
    let fleet = Fleet::start(&fixture, 1, 1, &handler);
    wait_for_breaker(&fixture, BreakerState::Open).await;
    let other = fixture.enqueue(NewJob { ..named("b", 2) }).await.id();
    fixture.wait_for_state(other, JobState::Succeeded).await;
    tokio::time::sleep(OBSERVATION_TIME).await;
    fleet.stop().await;
    // A job claimed before the last failure was written still runs.
    let mut log = log.read();
    log.retain(|number| *number != 6);
    assert_eq!(log, [0, 1, 2, 3, 4, 5, 2]);
    let lane = lane_settings(&fixture).await;
    assert!(lane.parked_until.unwrap() > fixture.now().await + chrono::Duration::minutes(59));
    assert_at_rest(&fixture).await;
}

/// A fixture with a lane `a` whose breaker opens when 70 percent of ten runs within an hour have failed.
async fn with_share_breaker() -> Fixture {
    let fixture = with_breaker(HOUR).await;
    let breaker = Breaker {
        failures: 10,
        share: 70,
        window: HOUR,
        rest: HOUR,
    };
    set_breaker(&fixture, breaker).await;
    fixture
}

/// Runs jobs one after another, which fail where the script has an `F`, until all have finished.
async fn run_script(fixture: &Fixture, script: &'static str) {
    let ends = handler(move |run| {
        let fails = script.as_bytes()[usize::try_from(number(&run)).unwrap()] == b'F';
        async move {
            match fails {
                true => failed("down"),
                false => Verdict::done(),
            }
        }
    });
    let jobs = single_attempt(0..u64::try_from(script.len()).unwrap());
    fixture.enqueue_all(jobs).await;
    let fleet = Fleet::start(fixture, 1, 1, &ends);
    fixture.wait_until_idle().await;
    fleet.stop().await;
}

#[tokio::test]
async fn breaker_opens_at_seven_failures_of_ten_runs_but_not_at_six() {
    for (script, state, failures) in [
        ("FSSSFFFFFF", BreakerState::Open, 7),
        ("FSSSSFFFFF", BreakerState::Closed, 6),
        // Too few runs to decide.
        ("FFFFFFFFF", BreakerState::Closed, 9),
        // Runs before the first failure are not counted.
        ("SSSSSSSSSSSSSSFSSSSSSSSSFF", BreakerState::Closed, 3),
    ] {
        let fixture = with_share_breaker().await;
        run_script(&fixture, script).await;
        let lane = lane_settings(&fixture).await;
        assert_eq!((lane.breaker_state, lane.failures), (state, failures));
        assert_eq!(lane.parked_until.is_some(), state == BreakerState::Open);
    }
}

#[tokio::test]
async fn failures_of_a_past_window_do_not_count() {
    let fixture = with_share_breaker().await;
    run_script(&fixture, "FFFFFFFFF").await;
    let later = "update queue.lanes set window_from = window_from - interval '1 hour'";
    fixture.execute(later).await;
    assert_eq!(lane_settings(&fixture).await.failures, 0);
    run_script(&fixture, "FFFFFFFFF").await;
    let lane = lane_settings(&fixture).await;
    assert_eq!(
        (lane.breaker_state, lane.failures),
        (BreakerState::Closed, 9)
    );
    run_script(&fixture, "F").await;
    assert_eq!(
        lane_settings(&fixture).await.breaker_state,
        BreakerState::Open
    );
}

#[tokio::test]
async fn healthy_lane_row_is_not_written_while_others_fail() {
    let fixture = with_share_breaker().await;
    let row = async |key: &'static str| -> (String, String) {
        harkara_shared::database::query_as(
            "select ctid::text, xmin::text from queue.lanes where key = $1",
        )
        .bind(key)
        .fetch_one(&fixture.pool())
        .await
        .unwrap()
    };
    let before = row("a").await;
    let ends = handler(async |run| match number(&run) {
        0 => Verdict::done(),
        _ => failed("down"),
    });
    let other = LaneChange {
        breaker: Change::Set(Breaker::consecutive(1000, HOUR)),
        ..LaneChange::default()
    };
    let b = Lane::Named("b".to_owned());
    let set = fixture.engine.set_lane(fixture.tenant, QUEUE, &b, &other);
    set.await.unwrap();
    let unwritten = row("b").await;
    // Sequential and concurrent.
    for positions in [1, 32] {
        let jobs = (0..60).map(|n| NewJob {
            max_attempts: 1,
            ..named(if n % 2 == 0 { "a" } else { "b" }, n % 2)
        });
        fixture.enqueue_all(jobs.collect()).await;
        let fleet = Fleet::start(&fixture, 1, positions, &ends);
        fixture.wait_until_idle().await;
        fleet.stop().await;
    }
    assert_eq!(row("a").await, before);
    assert_ne!(row("b").await, unwritten, "failures must be counted");
}

#[tokio::test]
async fn runs_started_before_a_breaker_opened_do_not_change_it() {
    let fixture = with_breaker(HOUR).await;
    set_breaker(&fixture, Breaker::consecutive(1, HOUR)).await;
    let (met, go) = (Arc::new(Barrier::new(3)), Arc::new(Semaphore::new(0)));
    let handler = {
        let go = Arc::clone(&go);
        handler(move |run| {
            let (met, go) = (Arc::clone(&met), Arc::clone(&go));
            async move {
                met.wait().await;
                if number(&run) > 0 {
                    go.acquire().await.unwrap().forget();
                }
                match number(&run) {
                    1 => Verdict::done(),
                    _ => failed("down"),
                }
            }
        })
    };
    let jobs = fixture.enqueue_all(single_attempt(0..3)).await;
    let fleet = Fleet::start(&fixture, 1, 12, &handler);
    wait_for_breaker(&fixture, BreakerState::Open).await;
    let opened = lane_settings(&fixture).await;
    go.add_permits(2);
    fixture
        .wait_for_state(jobs[1].id(), JobState::Succeeded)
        .await;
    fixture.wait_for_state(jobs[2].id(), JobState::Dead).await;
    assert_eq!(lane_settings(&fixture).await, opened);
    fleet.stop().await;
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn trial_job_after_the_rest_decides_whether_the_lane_continues() {
    let rest = Duration::from_millis(300);
    let fixture = with_breaker(rest).await;
    let (trials, healthy) = (Log::new(), Arc::new(AtomicBool::new(false)));
    fixture.enqueue_all(single_attempt(0..30)).await;
    let fleet = Fleet::start(&fixture, 1, 1, &succeed_while(&trials, &healthy));
    // Each failed trial reopens the breaker and uses one job.
    trials.holds(2).await;
    wait_for_breaker(&fixture, BreakerState::Open).await;
    healthy.store(true, Ordering::Relaxed);
    fixture.wait_until_idle().await;
    fleet.stop().await;
    assert_eq!(
        lane_settings(&fixture).await.breaker_state,
        BreakerState::Closed
    );
    assert_eq!(lane_settings(&fixture).await.failures, 0);
    let trials = trials.read();
    assert_eq!(trials.len(), 3, "the successful trial must be the last");
    for two in trials.windows(2) {
        assert!(two[1] - two[0] >= chrono::Duration::from_std(rest).unwrap());
    }
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn trial_is_one_job_across_three_workers() {
    for healthy in [true, false] {
        let fixture = with_breaker(HOUR).await;
        fixture.enqueue_all(single_attempt(0..40)).await;
        open_breaker(&fixture).await;
        let (log, go) = (Log::new(), Arc::new(Semaphore::new(0)));
        let (log_copy, permits) = (log.clone(), Arc::clone(&go));
        let handler = handler(move |run| {
            let (log, go) = (log_copy.clone(), Arc::clone(&permits));
            async move {
                if number(&run) < 100 {
                    log.write(number(&run));
                    go.acquire().await.unwrap().forget();
                }
                match healthy {
                    true => Verdict::done(),
                    false => failed("down"),
                }
            }
        });
        let fleet = Fleet::start(&fixture, 3, 8, &handler);
        log.holds(1).await;
        wait_for_breaker(&fixture, BreakerState::HalfOpen).await;
        let others = (100..130).map(|n| NewJob {
            max_attempts: 1,
            ..named("b", n)
        });
        for other in fixture.enqueue_all(others.collect()).await {
            until("other lanes continue", async || {
                fixture.state(other.id()).await.is_final()
            })
            .await;
        }
        tokio::time::sleep(OBSERVATION_TIME).await;
        assert_eq!(log.read(), [0]);
        go.add_permits(1);
        if healthy {
            // Each worker has a quarter of its slots for the lane.
            log.holds(1 + 3 * 2).await;
            wait_for_breaker(&fixture, BreakerState::Closed).await;
            go.add_permits(39);
            fixture.wait_until_idle().await;
        } else {
            wait_for_breaker(&fixture, BreakerState::Open).await;
            tokio::time::sleep(OBSERVATION_TIME).await;
            assert_eq!(log.read(), [0]);
            assert!(lane_settings(&fixture).await.parked_until.is_some());
        }
        fleet.stop().await;
        assert_at_rest(&fixture).await;
    }
}

/// A retryable failure of a job whose next attempt is an hour away.
fn retry_in_an_hour() -> Verdict {
    Verdict::retry(error("down"), Some(HOUR))
}

#[tokio::test]
async fn failed_trial_reopens_the_breaker_in_every_job_outcome() {
    let dead = || Verdict::Dead {
        error: error("refused"),
    };
    let again = retry_in_an_hour;
    for (verdict, most) in [(dead as fn() -> Verdict, 3), (again, 1), (again, 3)] {
        // A single job, and the last of two in one row.
        for shared in [false, true] {
            let fixture = with_breaker(HOUR).await;
            let trial = |number| NewJob {
                max_attempts: most,
                ..named("a", number)
            };
            let jobs = (0..if shared { 2 } else { 1 }).map(trial);
            let jobs = fixture.enqueue_all(jobs.collect()).await;
            if shared {
                cancel(&fixture, jobs[0].id()).await;
            }
            fixture.enqueue_all(single_attempt(10..20)).await;
            open_breaker(&fixture).await;
            let log = Log::new();
            let log_copy = log.clone();
            let handler = handler(move |run| {
                log_copy.write(number(&run));
                async move { verdict() }
            });
            let fleet = Fleet::start(&fixture, 1, 8, &handler);
            log.holds(1).await;
            until("the breaker opens again", async || {
                lane_settings(&fixture).await.parked_until.is_some()
            })
            .await;
            fleet.stop().await;
            let lane = lane_settings(&fixture).await;
            assert_eq!(lane.breaker_state, BreakerState::Open);
            assert!(
                lane.parked_until.unwrap() > fixture.now().await + chrono::Duration::minutes(59)
            );
            assert_eq!(log.len(), 1, "exactly one trial must run");
            assert_at_rest(&fixture).await;
        }
    }
}

#[tokio::test]
async fn failed_trial_uses_no_attempt_even_the_last() {
    let fixture = with_breaker(HOUR).await;
    let trial = fixture.enqueue_all(single_attempt(0..1)).await[0].id();
    open_breaker(&fixture).await;
    let observed = Log::new();
    let log_copy = observed.clone();
    let handler = handler(move |run| {
        log_copy.write((run.job.is_trial(), run.job.is_last_attempt()));
        async move { retry_in_an_hour() }
    });
    let worker = fixture.start_worker(Arc::clone(&handler));
    let job = fixture.wait_for_state(trial, JobState::Scheduled).await;
    assert_eq!(
        observed.read(),
        [(true, false)],
        "the handler must see that it is a trial"
    );
    assert_eq!((job.attempt, job.max_attempts), (0, 1));
    let runs = fixture.attempts(trial).await;
    assert_eq!(runs[0].outcome, AttemptOutcome::Retry);
    assert_eq!(runs[0].next_run_at, Some(job.run_at));
    let put_off = "select count(*) from queue.parcels where deferrals > 0";
    assert_eq!(fixture.count(put_off).await, 0);
    // With the breaker closed, its next attempt is its last.
    fixture
        .execute("update queue.lanes set breaker = 'c', parked_until = null, failures = 0")
        .await;
    let mut tx = fixture.tx().await;
    fixture
        .engine
        .reschedule(&mut tx, trial, None)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    fixture.wait_for_state(trial, JobState::Dead).await;
    assert_eq!(observed.read()[1], (false, true));
    worker.stop().await;
    assert_at_rest(&fixture).await;
}

/// The first run never ends by itself; later runs succeed.
fn first_run_hangs(log: &Log<u64>) -> Arc<dyn Handler> {
    let log = log.clone();
    let runs = AtomicU32::new(0);
    handler(move |run| {
        log.write(number(&run));
        let stuck = runs.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if stuck {
                std::future::pending::<()>().await;
            }
            Verdict::done()
        }
    })
}

#[tokio::test]
async fn inconclusive_trial_allows_another() {
    for fate in [
        "put back",
        "worker died",
        "cancelled",
        "cancelled and its worker died",
    ] {
        // A single job, and the last of two in one row.
        for shared in [false, true] {
            let fixture = with_breaker(HOUR).await;
            let jobs = fixture
                .enqueue_all(single_attempt(0..if shared { 2 } else { 1 }))
                .await;
            let trial = jobs.last().unwrap().id();
            if shared {
                cancel(&fixture, jobs[0].id()).await;
            }
            fixture
                .enqueue_all(
                    single_attempt(10..20)
                        .into_iter()
                        .map(|j| NewJob { priority: 9, ..j })
                        .collect(),
                )
                .await;
            open_breaker(&fixture).await;
            let log = Log::new();
            let handler = first_run_hangs(&log);
            let worker = fixture.start_worker_with(options_without_drain(8), Arc::clone(&handler));
            log.holds(1).await;
            match fate {
                "put back" => worker.stop().await,
                "worker died" => kill_and_expire(&fixture, worker).await,
                "cancelled" => {
                    cancel(&fixture, trial).await;
                    fixture.wait_for_state(trial, JobState::Cancelled).await;
                    worker.stop().await;
                }
                _ => {
                    worker.task.abort();
                    worker.task.await.unwrap_err();
                    let mut tx = fixture.tx().await;
                    fixture.engine.cancel(&mut tx, trial).await.unwrap();
                    tx.commit().await.unwrap();
                    fixture
                        .execute(
                            "update queue.leases set expires_at = now() where closed_at is null",
                        )
                        .await;
                }
            }
            let fleet = Fleet::start(&fixture, 3, 8, &handler);
            fixture.wait_until_idle().await;
            fleet.stop().await;
            let lane = lane_settings(&fixture).await;
            assert_eq!(lane.breaker_state, BreakerState::Closed, "{fate}, {shared}");
            assert_at_rest(&fixture).await;
        }
    }
}
