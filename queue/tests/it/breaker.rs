//! Breakers: a lane too many of whose jobs fail rests, then one job is tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::job::{AttemptOutcome, JobState, Lane, NewJob};
use harkara_queue::settings::{Breaker, BreakerState, Change, LaneChange, LaneSettings};
use harkara_queue::{Handler, Verdict};
use tokio::sync::{Barrier, Semaphore};

use crate::cancel::cancel;
use crate::lost_workers::{Fleet, die, impatient, is_at_rest, named};
use crate::support::{
    Fixture, Log, QUEUE, doing_nothing, error, failed, handler, job, number, until,
};

const HOUR: Duration = Duration::from_secs(3600);
const MOMENT: Duration = Duration::from_millis(100);

fn lane() -> Lane {
    Lane::Named("a".to_owned())
}

/// A stand with a lane `a` that opens after three failures.
async fn breaking(rest: Duration) -> Fixture {
    let fixture = Fixture::new().await;
    let first = fixture.enqueue(job()).await.id();
    let worker = fixture.work(doing_nothing());
    fixture.reaches(first, JobState::Succeeded).await;
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

async fn stands(fixture: &Fixture) -> LaneSettings {
    let mut lanes = fixture
        .engine
        .lane(fixture.tenant, QUEUE, &lane())
        .await
        .unwrap();
    lanes.pop().unwrap()
}

async fn becomes(fixture: &Fixture, state: BreakerState) {
    until(&format!("the breaker is {state:?}"), async || {
        stands(fixture).await.breaker_state == state
    })
    .await;
}

/// The breaker is open and its rest over.
async fn open(fixture: &Fixture) {
    fixture
        .execute("update queue.lanes set breaker = 'o', failures = 3 where key = 'a'")
        .await;
}

/// Jobs that die of their first failure.
fn once(numbers: std::ops::Range<u64>) -> Vec<NewJob> {
    let once = |number| NewJob {
        max_attempts: 1,
        ..named("a", number)
    };
    numbers.map(once).collect()
}

/// Fails or does well as `well` says, after a moment, so that nothing more is taken in hand, and notes when
/// trials were claimed.
fn as_told(trials: &Log<DateTime<Utc>>, well: &Arc<AtomicBool>) -> Arc<dyn Handler> {
    let (trials, well) = (trials.clone(), Arc::clone(well));
    handler(move |run| {
        if run.job.is_trial() {
            trials.write(run.job.started_at);
        }
        let well = Arc::clone(&well);
        async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            match well.load(Ordering::Relaxed) {
                true => Verdict::done(),
                false => failed("down"),
            }
        }
    })
}

#[tokio::test]
async fn breaker_opens_exactly_at_its_threshold_of_consecutive_failures() {
    let fixture = breaking(HOUR).await;
    let log = Log::new();
    let noted = log.clone();
    let handler = handler(move |run| {
        noted.write(number(&run));
        async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            // Two failures, a success, and then failures only.
            match number(&run) {
                2 => Verdict::done(),
                _ => failed("down"),
            }
        }
    });
    fixture.enqueue_all(once(0..20)).await;
    let fleet = Fleet::start(&fixture, 1, 1, &handler);
    becomes(&fixture, BreakerState::Open).await;
    let other = fixture.enqueue(NewJob { ..named("b", 2) }).await.id();
    fixture.reaches(other, JobState::Succeeded).await;
    tokio::time::sleep(MOMENT).await;
    fleet.stop().await;
    // What was claimed before the last failure was written is still run.
    let mut log = log.read();
    log.retain(|number| *number != 6);
    assert_eq!(log, [0, 1, 2, 3, 4, 5, 2]);
    let lane = stands(&fixture).await;
    assert!(lane.parked_until.unwrap() > fixture.now().await + chrono::Duration::minutes(59));
    is_at_rest(&fixture).await;
}

/// A stand with a lane `a` that opens when 70 percent of ten runs have failed within an hour.
async fn breaking_by_share() -> Fixture {
    let fixture = breaking(HOUR).await;
    let breaker = Breaker {
        failures: 10,
        share: 70,
        window: HOUR,
        rest: HOUR,
    };
    set_breaker(&fixture, breaker).await;
    fixture
}

/// Runs jobs one after another that fail where the script says `F`, until all have ended.
async fn play(fixture: &Fixture, script: &'static str) {
    let ends = handler(move |run| {
        let fails = script.as_bytes()[usize::try_from(number(&run)).unwrap()] == b'F';
        async move {
            match fails {
                true => failed("down"),
                false => Verdict::done(),
            }
        }
    });
    let jobs = once(0..u64::try_from(script.len()).unwrap());
    fixture.enqueue_all(jobs).await;
    let fleet = Fleet::start(fixture, 1, 1, &ends);
    fixture.is_quiet().await;
    fleet.stop().await;
}

#[tokio::test]
async fn breaker_opens_at_seven_failures_of_ten_runs_but_not_at_six() {
    for (script, state, failures) in [
        ("FSSSFFFFFF", BreakerState::Open, 7),
        ("FSSSSFFFFF", BreakerState::Closed, 6),
        // Too few to tell.
        ("FFFFFFFFF", BreakerState::Closed, 9),
        // What came before the first failure is not counted.
        ("SSSSSSSSSSSSSSFSSSSSSSSSFF", BreakerState::Closed, 3),
    ] {
        let fixture = breaking_by_share().await;
        play(&fixture, script).await;
        let lane = stands(&fixture).await;
        assert_eq!((lane.breaker_state, lane.failures), (state, failures));
        assert_eq!(lane.parked_until.is_some(), state == BreakerState::Open);
    }
}

#[tokio::test]
async fn failures_of_a_past_window_do_not_count() {
    let fixture = breaking_by_share().await;
    play(&fixture, "FFFFFFFFF").await;
    let later = "update queue.lanes set window_from = window_from - interval '1 hour'";
    fixture.execute(later).await;
    assert_eq!(stands(&fixture).await.failures, 0);
    play(&fixture, "FFFFFFFFF").await;
    let lane = stands(&fixture).await;
    assert_eq!(
        (lane.breaker_state, lane.failures),
        (BreakerState::Closed, 9)
    );
    play(&fixture, "F").await;
    assert_eq!(stands(&fixture).await.breaker_state, BreakerState::Open);
}

#[tokio::test]
async fn healthy_lane_row_is_not_written_while_others_fail() {
    let fixture = breaking_by_share().await;
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
    // One after another, and many at once.
    for places in [1, 32] {
        let jobs = (0..60).map(|n| NewJob {
            max_attempts: 1,
            ..named(if n % 2 == 0 { "a" } else { "b" }, n % 2)
        });
        fixture.enqueue_all(jobs.collect()).await;
        let fleet = Fleet::start(&fixture, 1, places, &ends);
        fixture.is_quiet().await;
        fleet.stop().await;
    }
    assert_eq!(row("a").await, before);
    assert_ne!(row("b").await, unwritten, "failures are counted");
}

#[tokio::test]
async fn runs_started_before_a_breaker_opened_do_not_change_it() {
    let fixture = breaking(HOUR).await;
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
    let jobs = fixture.enqueue_all(once(0..3)).await;
    let fleet = Fleet::start(&fixture, 1, 12, &handler);
    becomes(&fixture, BreakerState::Open).await;
    let opened = stands(&fixture).await;
    go.add_permits(2);
    fixture.reaches(jobs[1].id(), JobState::Succeeded).await;
    fixture.reaches(jobs[2].id(), JobState::Dead).await;
    assert_eq!(stands(&fixture).await, opened);
    fleet.stop().await;
    is_at_rest(&fixture).await;
}

#[tokio::test]
async fn trial_job_after_the_rest_decides_whether_the_lane_continues() {
    let rest = Duration::from_millis(300);
    let fixture = breaking(rest).await;
    let (trials, well) = (Log::new(), Arc::new(AtomicBool::new(false)));
    fixture.enqueue_all(once(0..30)).await;
    let fleet = Fleet::start(&fixture, 1, 1, &as_told(&trials, &well));
    // Tried and failed: it rests again each time, and one job is spent on it.
    trials.holds(2).await;
    becomes(&fixture, BreakerState::Open).await;
    well.store(true, Ordering::Relaxed);
    fixture.is_quiet().await;
    fleet.stop().await;
    assert_eq!(stands(&fixture).await.breaker_state, BreakerState::Closed);
    assert_eq!(stands(&fixture).await.failures, 0);
    let trials = trials.read();
    assert_eq!(trials.len(), 3, "the one that did well was the last");
    for two in trials.windows(2) {
        assert!(two[1] - two[0] >= chrono::Duration::from_std(rest).unwrap());
    }
    is_at_rest(&fixture).await;
}

#[tokio::test]
async fn trial_is_one_job_across_three_workers() {
    for well in [true, false] {
        let fixture = breaking(HOUR).await;
        fixture.enqueue_all(once(0..40)).await;
        open(&fixture).await;
        let (log, go) = (Log::new(), Arc::new(Semaphore::new(0)));
        let (noted, limiter) = (log.clone(), Arc::clone(&go));
        let handler = handler(move |run| {
            let (log, go) = (noted.clone(), Arc::clone(&limiter));
            async move {
                if number(&run) < 100 {
                    log.write(number(&run));
                    go.acquire().await.unwrap().forget();
                }
                match well {
                    true => Verdict::done(),
                    false => failed("down"),
                }
            }
        });
        let fleet = Fleet::start(&fixture, 3, 8, &handler);
        log.holds(1).await;
        becomes(&fixture, BreakerState::HalfOpen).await;
        let others = (100..130).map(|n| NewJob {
            max_attempts: 1,
            ..named("b", n)
        });
        for other in fixture.enqueue_all(others.collect()).await {
            until("other lanes go on", async || {
                fixture.state(other.id()).await.is_final()
            })
            .await;
        }
        tokio::time::sleep(MOMENT).await;
        assert_eq!(log.read(), [0]);
        go.add_permits(1);
        if well {
            // Each has a quarter of its places for the lane.
            log.holds(1 + 3 * 2).await;
            becomes(&fixture, BreakerState::Closed).await;
            go.add_permits(39);
            fixture.is_quiet().await;
        } else {
            becomes(&fixture, BreakerState::Open).await;
            tokio::time::sleep(MOMENT).await;
            assert_eq!(log.read(), [0]);
            assert!(stands(&fixture).await.parked_until.is_some());
        }
        fleet.stop().await;
        is_at_rest(&fixture).await;
    }
}

/// A failure that may pass, of a job that is next tried in an hour.
fn failed_for_long() -> Verdict {
    Verdict::retry(error("down"), Some(HOUR))
}

#[tokio::test]
async fn failed_trial_reopens_the_breaker_in_every_job_outcome() {
    let dead = || Verdict::Dead {
        error: error("refused"),
    };
    let again = failed_for_long;
    for (verdict, most) in [(dead as fn() -> Verdict, 3), (again, 1), (again, 3)] {
        // One job alone, and the last of two in one row.
        for shared in [false, true] {
            let fixture = breaking(HOUR).await;
            let trial = |number| NewJob {
                max_attempts: most,
                ..named("a", number)
            };
            let jobs = (0..if shared { 2 } else { 1 }).map(trial);
            let jobs = fixture.enqueue_all(jobs.collect()).await;
            if shared {
                cancel(&fixture, jobs[0].id()).await;
            }
            fixture.enqueue_all(once(10..20)).await;
            open(&fixture).await;
            let log = Log::new();
            let noted = log.clone();
            let handler = handler(move |run| {
                noted.write(number(&run));
                async move { verdict() }
            });
            let fleet = Fleet::start(&fixture, 1, 8, &handler);
            log.holds(1).await;
            until("the lane rests again", async || {
                stands(&fixture).await.parked_until.is_some()
            })
            .await;
            fleet.stop().await;
            let lane = stands(&fixture).await;
            assert_eq!(lane.breaker_state, BreakerState::Open);
            assert!(
                lane.parked_until.unwrap() > fixture.now().await + chrono::Duration::minutes(59)
            );
            assert_eq!(log.len(), 1, "one was tried");
            is_at_rest(&fixture).await;
        }
    }
}

#[tokio::test]
async fn failed_trial_uses_no_attempt_even_the_last() {
    let fixture = breaking(HOUR).await;
    let trial = fixture.enqueue_all(once(0..1)).await[0].id();
    open(&fixture).await;
    let told = Log::new();
    let noted = told.clone();
    let handler = handler(move |run| {
        noted.write((run.job.is_trial(), run.job.is_last_attempt()));
        async move { failed_for_long() }
    });
    let worker = fixture.work(Arc::clone(&handler));
    let job = fixture.reaches(trial, JobState::Scheduled).await;
    assert_eq!(told.read(), [(true, false)], "and its handler knows");
    assert_eq!((job.attempt, job.max_attempts), (0, 1));
    let runs = fixture.attempts(trial).await;
    assert_eq!(runs[0].outcome, AttemptOutcome::Retry);
    assert_eq!(runs[0].next_run_at, Some(job.run_at));
    let put_off = "select count(*) from queue.parcels where deferrals > 0";
    assert_eq!(fixture.count(put_off).await, 0);
    // Out of the way of the breaker its next run is its last.
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
    fixture.reaches(trial, JobState::Dead).await;
    assert_eq!(told.read()[1], (false, true));
    worker.stop().await;
    is_at_rest(&fixture).await;
}

/// Runs of the lane after one that never ends by itself.
fn first_is_stuck(log: &Log<u64>) -> Arc<dyn Handler> {
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
        // One job alone, and the last of two in one row.
        for shared in [false, true] {
            let fixture = breaking(HOUR).await;
            let jobs = fixture
                .enqueue_all(once(0..if shared { 2 } else { 1 }))
                .await;
            let trial = jobs.last().unwrap().id();
            if shared {
                cancel(&fixture, jobs[0].id()).await;
            }
            fixture
                .enqueue_all(
                    once(10..20)
                        .into_iter()
                        .map(|j| NewJob { priority: 9, ..j })
                        .collect(),
                )
                .await;
            open(&fixture).await;
            let log = Log::new();
            let handler = first_is_stuck(&log);
            let worker = fixture.work_as(impatient(8), Arc::clone(&handler));
            log.holds(1).await;
            match fate {
                "put back" => worker.stop().await,
                "worker died" => die(&fixture, worker).await,
                "cancelled" => {
                    cancel(&fixture, trial).await;
                    fixture.reaches(trial, JobState::Cancelled).await;
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
            fixture.is_quiet().await;
            fleet.stop().await;
            let lane = stands(&fixture).await;
            assert_eq!(lane.breaker_state, BreakerState::Closed, "{fate}, {shared}");
            is_at_rest(&fixture).await;
        }
    }
}
