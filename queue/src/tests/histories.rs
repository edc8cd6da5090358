//! Property test: a random history has the same effect on jobs that share rows as on jobs with a row each.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use harkara_shared::database::query_scalar;
use harkara_shared::id::{JobId, TenantId};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::claimed::ClaimedJob;
use crate::job::{AttemptOutcome, JobError, JobState, LimitUse, NewJob, Unique};
use crate::testing::{Fixture, job};
use crate::verdict::{RunOutcome, Verdict};

/// The code of all errors in this test.
const ERROR_CODE: &str = "on_purpose";

const HOUR: Duration = Duration::from_secs(3600);

/// What happens to one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Done,
    Result(u8),
    Retry,
    RetryAtOnce,
    Dead,
    Snooze,
    RateLimited,
    Stopped,
    PutBack,
    /// Its worker dies before anything is written.
    Lost,
}

/// A job and what happens to its runs.
#[derive(Debug, Clone)]
struct Life {
    priority: u8,
    max_attempts: u16,
    is_delayed: bool,
    is_keyed: bool,
    tags: u8,
    acts: Vec<Act>,
    /// Cancelled before the claim of this round.
    cancelled_waiting: Option<usize>,
    /// Cancelled in this round, while it runs.
    cancelled_running: Option<usize>,
    /// Retried manually after this round, if it has finished by then.
    retried: Option<usize>,
}

#[derive(Debug, Clone)]
struct History {
    lives: Vec<Life>,
    /// Whether packed jobs are enqueued in one call, or one by one and merged by the claim.
    in_bulk: bool,
    /// Whether the jobs name a limit of running jobs.
    limited: bool,
    /// Jobs claimed at once.
    claim: u32,
    /// How outcomes fall into batches: each key sorts one job, each length cuts one batch.
    order: Vec<u8>,
    batches: Vec<usize>,
}

const ROUNDS: usize = 5;

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Done),
        3 => (0..4_u8).prop_map(Act::Result),
        3 => Just(Act::Retry),
        1 => Just(Act::RetryAtOnce),
        1 => Just(Act::Dead),
        1 => Just(Act::Snooze),
        1 => Just(Act::RateLimited),
        1 => Just(Act::Stopped),
        2 => Just(Act::PutBack),
        2 => Just(Act::Lost),
    ]
}

fn rarely(rounds: usize) -> impl Strategy<Value = Option<usize>> {
    prop_oneof![4 => Just(None), 1 => (0..rounds).prop_map(Some)]
}

fn life() -> impl Strategy<Value = Life> {
    (
        (
            prop_oneof![3 => Just(5_u8), 1 => Just(3_u8)],
            prop_oneof![Just(2_u16), Just(3)],
        ),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.3),
        0..3_u8,
        prop::collection::vec(act(), 0..ROUNDS),
        (rarely(ROUNDS), rarely(ROUNDS), prop::option::of(1..ROUNDS)),
    )
        .prop_map(
            |(
                (priority, max_attempts),
                is_delayed,
                is_keyed,
                tags,
                acts,
                (waiting, running, retried),
            )| Life {
                priority,
                max_attempts,
                is_delayed,
                is_keyed,
                tags,
                acts,
                cancelled_waiting: waiting,
                cancelled_running: running,
                retried,
            },
        )
}

fn history() -> impl Strategy<Value = History> {
    (
        prop::collection::vec(life(), 2..10),
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(100_u32), 2..5_u32],
        prop::collection::vec(any::<u8>(), 10),
        prop::collection::vec(1..4_usize, 1..5),
    )
        .prop_map(|(lives, in_bulk, limited, claim, order, batches)| History {
            lives,
            in_bulk,
            limited,
            claim,
            order,
            batches,
        })
}

/// The visible parts of a job.
#[derive(Debug, Clone, PartialEq)]
struct VisibleJob {
    state: JobState,
    attempt: u16,
    max_attempts: u16,
    priority: u8,
    result: Option<Value>,
    last_error: Option<JobError>,
    unique_key: Option<String>,
    tags: Vec<String>,
    has_started: bool,
    has_finished: bool,
    log: Vec<(u32, AttemptOutcome, Option<JobError>, bool)>,
}

/// The visible parts of all jobs, and the held unique keys.
type Snapshot = (Vec<VisibleJob>, Vec<String>);

struct HistoryRunner<'a> {
    fixture: &'a Fixture,
    history: &'a History,
    packed: bool,
    ids: Vec<JobId>,
    runs: Vec<usize>,
}

impl HistoryRunner<'_> {
    fn new_job(&self, index: usize, life: &Life) -> NewJob {
        NewJob {
            payload: serde_json::value::to_raw_value(&index).unwrap(),
            priority: life.priority,
            delay: if life.is_delayed {
                HOUR
            } else {
                Duration::ZERO
            },
            max_attempts: life.max_attempts,
            unique: life.is_keyed.then(|| Unique {
                key: format!("key {index}"),
                hold: None,
            }),
            limits: Vec::from_iter(self.history.limited.then(|| LimitUse {
                key: "limit".to_owned(),
                cost: 1,
            })),
            tags: (0..life.tags).map(|tag| format!("tag {tag}")).collect(),
            ..job()
        }
    }

    async fn enqueue(&mut self) {
        let lives = self.history.lives.iter().enumerate();
        let jobs: Vec<NewJob> = lives
            .map(|(index, life)| self.new_job(index, life))
            .collect();
        if self.packed && self.history.in_bulk {
            self.ids = self.fixture.enqueue_all(jobs).await;
        } else {
            for job in jobs {
                self.ids.push(self.fixture.enqueue(job).await);
            }
        }
        self.runs = vec![0; self.ids.len()];
    }

    /// Claims all ready jobs: many at a time, or each by itself.
    async fn claim(&self, lease: i64) -> Vec<ClaimedJob> {
        let at_once = if self.packed { self.history.claim } else { 1 };
        let mut claimed = Vec::new();
        loop {
            let jobs = self.fixture.claim(lease, at_once).await;
            if jobs.is_empty() {
                return claimed;
            }
            assert!(jobs.len() <= usize::try_from(at_once).unwrap());
            claimed.extend(jobs);
        }
    }

    fn index(&self, job: &ClaimedJob) -> usize {
        let index: usize = serde_json::from_str(job.payload().get()).unwrap();
        assert_eq!(self.ids[index], job.id, "the body belongs to the job");
        index
    }

    fn next_act(&mut self, index: usize) -> Act {
        let run = self.runs[index];
        self.runs[index] += 1;
        let acts = &self.history.lives[index].acts;
        acts.get(run).copied().unwrap_or(Act::Done)
    }

    async fn round(&mut self, round: usize) {
        let lives = &self.history.lives;
        self.fixture
            .execute("update queue.parcels set state = 'a', run_at = now() where state = 's'")
            .await;
        for (id, life) in self.ids.iter().zip(lives) {
            if life.cancelled_waiting == Some(round) {
                self.fixture.cancel(*id).await;
            }
        }
        self.fixture
            .execute("update queue.lanes set parked_until = null")
            .await;
        self.fixture
            .execute("update queue.limiters set max_running = 100")
            .await;
        let lease = self.fixture.open_lease().await;
        let claimed = self.claim(lease).await;
        if self.history.limited {
            assert_eq!(self.running().await, i64::try_from(claimed.len()).unwrap());
        }
        let distinct: HashSet<JobId> = claimed.iter().map(|job| job.id).collect();
        assert_eq!(distinct.len(), claimed.len(), "no job is claimed twice");
        let mut outcomes: Vec<(u8, ClaimedJob, RunOutcome)> = Vec::new();
        for job in claimed {
            let index = self.index(&job);
            if lives[index].cancelled_running == Some(round) {
                self.fixture.cancel(job.id).await;
            }
            if let Some(outcome) = outcome(self.next_act(index)) {
                outcomes.push((self.history.order[index], job, outcome));
            }
        }
        outcomes.sort_by_key(|(order, job, _)| (*order, self.index(job)));
        let mut outcomes = outcomes.into_iter().map(|(_, job, outcome)| (job, outcome));
        for length in self.history.batches.iter().cycle() {
            let batch: Vec<_> = outcomes.by_ref().take(*length).collect();
            if batch.is_empty() {
                break;
            }
            let length = batch.len();
            assert_eq!(
                self.fixture.settle(batch).await,
                length,
                "all claims are valid"
            );
        }
        self.fixture.expire(lease).await;
        self.fixture.engine.rescue().await.unwrap();
        assert_eq!(self.running().await, 0, "no run counts against the limit");
        for (id, life) in self.ids.iter().zip(lives) {
            if life.retried == Some(round) {
                self.fixture.retry(*id).await;
            }
        }
    }

    /// Running jobs, as the limit counts them.
    async fn running(&self) -> i64 {
        let held = "select coalesce(sum(running), 0)::int8 from queue.limiters";
        self.fixture.count(held).await
    }

    async fn snapshot(&self) -> Snapshot {
        let mut jobs = Vec::new();
        for id in &self.ids {
            let job = self.fixture.job(*id).await;
            assert_eq!(job.id, *id);
            let log = self.fixture.attempts(*id).await;
            jobs.push(VisibleJob {
                state: job.state,
                attempt: job.attempt,
                max_attempts: job.max_attempts,
                priority: job.priority,
                result: job.result,
                last_error: job.last_error,
                unique_key: job.unique_key,
                tags: job.tags,
                has_started: job.started_at.is_some(),
                has_finished: job.finished_at.is_some(),
                log: log
                    .into_iter()
                    .map(|run| {
                        (
                            run.number,
                            run.outcome,
                            run.error,
                            run.next_run_at.is_some(),
                        )
                    })
                    .collect(),
            });
        }
        let keys = query_scalar(
            "select k.key from queue.unique_keys k join queue.tenants t on t.number = k.tenant
             where t.id = $1 order by 1",
        )
        .bind(self.fixture.tenant)
        .fetch_all(self.fixture.engine.pool())
        .await
        .unwrap();
        (jobs, keys)
    }
}

fn outcome(act: Act) -> Option<RunOutcome> {
    let error = JobError::new(ERROR_CODE, format!("{act:?}"));
    let verdict = match act {
        Act::Lost => return None,
        Act::PutBack => return Some(RunOutcome::PutBack),
        Act::Done => Verdict::done(),
        Act::Result(which) => Verdict::Done {
            result: Some(match which {
                0 => json!(null),
                1 => json!([1, null, "a\0b"]),
                2 => json!({"sum": 3}),
                _ => json!(which),
            }),
            follow_ups: Vec::new(),
        },
        Act::Retry => Verdict::retry(error, None),
        Act::RetryAtOnce => Verdict::retry(error, Some(Duration::ZERO)),
        Act::Dead => Verdict::Dead { error },
        Act::Snooze => Verdict::Snooze {
            wait: HOUR,
            reason: error,
        },
        Act::RateLimited => Verdict::RateLimited {
            wait: HOUR,
            reason: error,
        },
        Act::Stopped => Verdict::Cancelled,
    };
    Some(RunOutcome::Verdict(verdict))
}

/// Runs the history and returns a snapshot after each round.
async fn run_history(fixture: &mut Fixture, history: &History, packed: bool) -> Vec<Snapshot> {
    fixture.execute("truncate queue.parcels").await;
    fixture.tenant = TenantId::new();
    let mut runner = HistoryRunner {
        fixture,
        history,
        packed,
        ids: Vec::new(),
        runs: Vec::new(),
    };
    runner.enqueue().await;
    let mut snapshots = vec![runner.snapshot().await];
    for round in 0..ROUNDS {
        runner.round(round).await;
        snapshots.push(runner.snapshot().await);
    }
    snapshots
}

#[test]
fn packed_jobs_behave_like_single_jobs() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let fixture = runtime.block_on(Fixture::new());
    let fixture = std::cell::RefCell::new(fixture);
    let config = Config {
        cases: 32,
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    };
    let final_states = std::cell::RefCell::new(HashMap::<JobState, u32>::new());
    let result = TestRunner::new(config).run(&history(), |history| {
        let fixture = &mut *fixture.borrow_mut();
        let (packed, alone) = runtime.block_on(async {
            let packed = run_history(fixture, &history, true).await;
            (packed, run_history(fixture, &history, false).await)
        });
        for seen in &packed[ROUNDS].0 {
            *final_states.borrow_mut().entry(seen.state).or_default() += 1;
        }
        for (round, (packed, alone)) in packed.iter().zip(&alone).enumerate() {
            prop_assert_eq!(packed, alone, "after round {}", round);
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    for state in [JobState::Succeeded, JobState::Dead, JobState::Cancelled] {
        assert!(
            final_states.borrow().contains_key(&state),
            "no job ended {state:?}"
        );
    }
}
