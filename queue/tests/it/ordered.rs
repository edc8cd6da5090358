//! Ordered lanes: jobs run one after another, for every outcome of the head.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use harkara_queue::job::{AttemptOutcome, JobState, NewJob, Unique};
use harkara_queue::{Handler, Run, Verdict, WorkerOptions};
use harkara_shared::backoff::{Backoff, Jitter};
use harkara_shared::id::JobId;
use rand::RngExt;
use tokio::sync::Barrier;

use crate::cancel::cancel;
use crate::lost_workers::{Fleet, assert_at_rest, kill_and_expire, ordered, run_forever};
use crate::support::{
    Fixture, Log, QUEUE, error, failed, handler, number, options, until, with_timeout,
};

/// A job whose second attempt is an hour away.
fn retry_in_an_hour(key: &str, number: u64) -> NewJob {
    NewJob {
        backoff: Backoff {
            base: Duration::from_secs(3600),
            factor: 1.0,
            max: Duration::from_secs(3600),
            jitter: Jitter::None,
        },
        ..ordered(key, number)
    }
}

/// Logs each run; job 0 returns the verdict `first`, all others succeed.
fn ending_first_with<F, Fut>(log: &Log<u64>, first: F) -> Arc<dyn Handler>
where
    F: Fn(Run) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Verdict> + Send + 'static,
{
    let (log, first) = (log.clone(), Arc::new(first));
    handler(move |run| {
        let (log, first) = (log.clone(), Arc::clone(&first));
        async move {
            log.write(number(&run));
            match number(&run) {
                0 => first(run).await,
                _ => Verdict::done(),
            }
        }
    })
}

/// Three jobs of one lane; the second attempt of the first is an hour away.
async fn enqueue_three(fixture: &Fixture) -> Vec<JobId> {
    let jobs = (0..3).map(|number| retry_in_an_hour("a", number)).collect();
    let answers = fixture.enqueue_all(jobs).await;
    answers.iter().map(|answer| answer.id()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_jobs_run_one_at_a_time_in_order_across_workers() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let log_copy = log.clone();
    let handler = handler(move |run| {
        let log = log_copy.clone();
        async move {
            log.write((number(&run), "begin"));
            for _ in 0..number(&run) % 5 {
                tokio::task::yield_now().await;
            }
            log.write((number(&run), "end"));
            Verdict::done()
        }
    });
    let fleet = Fleet::start(&fixture, 3, 16, &handler);
    // In separate calls, in one call, and concurrently; the number encodes the lane and the position.
    for batch in 0..6 {
        let jobs = (0..4).flat_map(|lane| {
            let key = format!("lane {lane}");
            (batch * 8..batch * 8 + 8).map(move |position| ordered(&key, lane * 1000 + position))
        });
        fixture.enqueue_all(jobs.collect()).await;
    }
    fixture.wait_until_idle().await;
    fleet.stop().await;
    for lane in 0..4 {
        let lines = log.read().into_iter();
        let of_lane: Vec<_> = lines.filter(|(number, _)| number / 1000 == lane).collect();
        let expected: Vec<_> = (lane * 1000..lane * 1000 + 48)
            .flat_map(|number| [(number, "begin"), (number, "end")])
            .collect();
        assert_eq!(of_lane, expected);
    }
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn priority_and_due_time_precede_enqueue_order() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let urgent = NewJob {
        priority: 0,
        ..ordered("a", 2)
    };
    let early = NewJob {
        run_at: Some(fixture.now().await - chrono::Duration::minutes(1)),
        ..ordered("a", 1)
    };
    fixture
        .enqueue_all(vec![ordered("a", 3), early, urgent])
        .await;
    let worker = fixture.start_worker(ending_first_with(&log, async |_| Verdict::done()));
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_eq!(log.read(), [2, 1, 3]);
}

#[tokio::test]
async fn jobs_with_and_without_unique_keys_keep_their_enqueue_order() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let keyed = |number: u64| NewJob {
        unique: Some(Unique {
            key: format!("{number}"),
            hold: None,
        }),
        ..ordered("a", number)
    };
    let jobs = (1..21).map(|number| match number % 3 {
        0 => keyed(number),
        _ => ordered("a", number),
    });
    fixture.enqueue_all(jobs.collect()).await;
    let worker = fixture.start_worker(ending_first_with(&log, async |_| Verdict::done()));
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_eq!(log.read(), (1..21).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn head_in_backoff_is_not_overtaken() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let turns = AtomicU32::new(0);
    let wait = Duration::from_millis(60);
    let handler = ending_first_with(&log, move |_| {
        let turn = turns.fetch_add(1, Ordering::Relaxed);
        async move {
            match turn {
                0 => failed("again"),
                1 => Verdict::Snooze {
                    wait,
                    reason: error("later"),
                },
                2 => Verdict::RateLimited {
                    wait,
                    reason: error("slowly"),
                },
                3 => Verdict::retry(error("again"), Some(wait)),
                _ => Verdict::done(),
            }
        }
    });
    let fleet = Fleet::start(&fixture, 3, 8, &handler);
    let jobs = fixture.enqueue_all((0..5).map(|n| ordered("a", n)).collect());
    let jobs: Vec<_> = jobs.await.iter().map(|answer| answer.id()).collect();
    fixture.wait_until_idle().await;
    fleet.stop().await;
    assert_eq!(log.read(), [0, 0, 0, 0, 0, 1, 2, 3, 4]);
    let runs = fixture.attempts(jobs[0]).await;
    for pair in runs.windows(2) {
        assert!(pair[1].started_at >= pair[0].next_run_at.unwrap());
    }
    for pair in jobs.windows(2) {
        let (before, after) = (fixture.job(pair[0]).await, fixture.job(pair[1]).await);
        assert!(after.started_at > before.finished_at);
        assert_eq!(after.attempt, 1);
    }
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn dead_head_releases_the_others_in_order() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let worker = fixture.start_worker(ending_first_with(&log, async |_| Verdict::Dead {
        error: error("never"),
    }));
    let jobs = enqueue_three(&fixture).await;
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_eq!(log.read(), [0, 1, 2]);
    assert_eq!(fixture.state(jobs[0]).await, JobState::Dead);
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn head_cancelled_in_backoff_releases_the_others_in_order() {
    for notify in [true, false] {
        let fixture = Fixture::with_notify(notify).await;
        let log = Log::new();
        let worker = fixture.start_worker(ending_first_with(&log, async |_| failed("again")));
        let jobs = enqueue_three(&fixture).await;
        fixture.wait_for_state(jobs[0], JobState::Scheduled).await;
        // By now the worker knows that the lane is parked for an hour.
        let other = fixture.enqueue(ordered("b", 9)).await.id();
        fixture.wait_for_state(other, JobState::Succeeded).await;
        cancel(&fixture, jobs[0]).await;
        fixture.wait_until_idle().await;
        worker.stop().await;
        assert_eq!(log.read(), [0, 9, 1, 2]);
        assert_at_rest(&fixture).await;
    }
}

#[tokio::test]
async fn head_that_is_run_now_runs_at_once_and_before_the_others() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let turns = AtomicU32::new(0);
    let worker = fixture.start_worker(ending_first_with(&log, move |_| {
        let again = turns.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if again {
                failed("again")
            } else {
                Verdict::done()
            }
        }
    }));
    let jobs = enqueue_three(&fixture).await;
    fixture.wait_for_state(jobs[0], JobState::Scheduled).await;
    let mut tx = fixture.tx().await;
    fixture.engine.run_now(&mut tx, &jobs[..1]).await.unwrap();
    tx.commit().await.unwrap();
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_eq!(log.read(), [0, 0, 1, 2]);
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn head_cancelled_while_running_releases_the_others_in_order() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let handler = ending_first_with(&log, async |run| {
        run_forever(&run).await;
        Verdict::done()
    });
    let fleet = Fleet::start(&fixture, 2, 4, &handler);
    let jobs = enqueue_three(&fixture).await;
    log.holds(1).await;
    cancel(&fixture, jobs[0]).await;
    fixture.wait_until_idle().await;
    fleet.stop().await;
    assert_eq!(log.read(), [0, 1, 2]);
    assert_eq!(fixture.state(jobs[0]).await, JobState::Cancelled);
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn head_of_a_dead_worker_runs_again_before_the_others() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let stuck = ending_first_with(&log, async |run| {
        run_forever(&run).await;
        Verdict::done()
    });
    let worker = fixture.start_worker(stuck);
    let jobs = enqueue_three(&fixture).await;
    log.holds(1).await;
    kill_and_expire(&fixture, worker).await;
    let healthy = ending_first_with(&log, async |_| Verdict::done());
    let fleet = Fleet::start(&fixture, 3, 4, &healthy);
    fixture.wait_until_idle().await;
    fleet.stop().await;
    assert_eq!(log.read(), [0, 0, 1, 2]);
    let outcomes = fixture.attempts(jobs[0]).await.into_iter();
    let outcomes: Vec<_> = outcomes.map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [AttemptOutcome::Lost, AttemptOutcome::Succeeded]);
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn head_that_exhausts_its_attempts_by_worker_loss_releases_the_others_in_order() {
    for cancelled in [false, true] {
        let fixture = Fixture::new().await;
        let log = Log::new();
        let worker = fixture.start_worker(ending_first_with(&log, async |_| {
            std::future::pending::<()>().await;
            Verdict::done()
        }));
        let jobs = (0..3).map(|number| NewJob {
            max_attempts: if cancelled { 3 } else { 1 },
            ..ordered("a", number)
        });
        let head = fixture.enqueue_all(jobs.collect()).await[0].id();
        log.holds(1).await;
        kill_and_expire(&fixture, worker).await;
        if cancelled {
            cancel(&fixture, head).await;
        }
        let healthy = ending_first_with(&log, async |_| Verdict::done());
        let fleet = Fleet::start(&fixture, 3, 4, &healthy);
        fixture.wait_until_idle().await;
        fleet.stop().await;
        assert_eq!(log.read(), [0, 1, 2]);
        assert_at_rest(&fixture).await;
    }
}

#[tokio::test]
async fn stopped_worker_puts_its_head_back_in_front() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let stuck = ending_first_with(&log, async |_| {
        std::future::pending::<()>().await;
        Verdict::done()
    });
    let worker = fixture.start_worker_with(crate::lost_workers::options_without_drain(4), stuck);
    let jobs = enqueue_three(&fixture).await;
    log.holds(1).await;
    worker.stop().await;
    let healthy = ending_first_with(&log, async |_| Verdict::done());
    let fleet = Fleet::start(&fixture, 3, 4, &healthy);
    fixture.wait_until_idle().await;
    fleet.stop().await;
    assert_eq!(log.read(), [0, 0, 1, 2]);
    assert_eq!(fixture.job(jobs[0]).await.attempt, 1);
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn lanes_with_different_keys_run_concurrently() {
    let fixture = Fixture::new().await;
    let together = Arc::new(Barrier::new(10));
    let handler = handler(move |_| {
        let together = Arc::clone(&together);
        async move {
            together.wait().await;
            Verdict::done()
        }
    });
    let jobs = (0..30).map(|number| ordered(&format!("lane {}", number % 10), number));
    fixture.enqueue_all(jobs.collect()).await;
    let fleet = Fleet::start(&fixture, 2, 5, &handler);
    fixture.wait_until_idle().await;
    fleet.stop().await;
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn rolled_back_cancel_lets_no_job_overtake() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let jobs = enqueue_three(&fixture).await;
    let mut tx = fixture.tx().await;
    fixture.engine.cancel(&mut tx, jobs[0]).await.unwrap();
    let worker = fixture.start_worker(ending_first_with(&log, async |_| Verdict::done()));
    let other = fixture.enqueue(ordered("b", 9)).await.id();
    fixture.wait_for_state(other, JobState::Succeeded).await;
    drop(tx);
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_eq!(log.read(), [9, 0, 1, 2]);
    assert_at_rest(&fixture).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_stay_live_and_ordered_after_many_worker_deaths() {
    const LANES: u64 = 8;
    const JOBS: u64 = 12;
    let fixture = Fixture::new().await;
    let log = Log::new();
    let log_copy = log.clone();
    let handler = handler(move |run| {
        let log = log_copy.clone();
        async move {
            log.write(number(&run));
            let chance = rand::rng().random_range(0..10);
            match chance {
                0 => failed("chance"),
                1 => Verdict::Snooze {
                    wait: Duration::from_millis(5),
                    reason: error("chance"),
                },
                _ => {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                    Verdict::done()
                }
            }
        }
    });
    let jobs = (0..JOBS).flat_map(|position| {
        (0..LANES).map(move |lane| NewJob {
            max_attempts: 100,
            ..ordered(&format!("lane {lane}"), lane * 1000 + position)
        })
    });
    fixture.enqueue_all(jobs.collect()).await;
    let short = || WorkerOptions {
        lease: Duration::from_millis(600),
        ..options(&[(QUEUE, 4)])
    };
    for round in 1..6 {
        let one = fixture.start_worker_with(short(), Arc::clone(&handler));
        let other = fixture.start_worker_with(short(), Arc::clone(&handler));
        let so_far = log.len();
        until("some jobs have run", async || {
            log.len() > so_far + 3 * round
        })
        .await;
        one.task.abort();
        with_timeout("the worker dies", one.task).await.unwrap_err();
        other.stop().await;
    }
    let fleet = Fleet::start(&fixture, 2, 8, &handler);
    fixture.wait_until_idle().await;
    fleet.stop().await;
    let mut reached: HashMap<u64, u64> = HashMap::new();
    for number in log.read() {
        let (lane, position) = (number / 1000, number % 1000);
        let at = reached.entry(lane).or_default();
        assert!(
            position == *at || position == *at + 1,
            "lane {lane}: {position} began after {at}"
        );
        *at = position;
    }
    assert!(reached.values().all(|position| *position == JOBS - 1));
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn retried_dead_head_goes_to_the_end_of_the_lane() {
    let fixture = Fixture::new().await;
    let log = Log::new();
    let turns = AtomicU32::new(0);
    let handler = ending_first_with(&log, move |_| {
        let first = turns.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            match first {
                true => Verdict::Dead {
                    error: error("never"),
                },
                false => Verdict::done(),
            }
        }
    });
    let worker = fixture.start_worker(Arc::clone(&handler));
    let jobs = enqueue_three(&fixture).await;
    fixture.wait_until_idle().await;
    worker.stop().await;
    fixture.enqueue(ordered("a", 3)).await;
    let mut tx = fixture.tx().await;
    fixture.engine.retry(&mut tx, jobs[0]).await.unwrap();
    tx.commit().await.unwrap();
    fixture.enqueue(ordered("a", 4)).await;
    let worker = fixture.start_worker_with(options(&[(QUEUE, 4)]), handler);
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_eq!(log.read(), [0, 1, 2, 3, 0, 4]);
    assert_at_rest(&fixture).await;
}
