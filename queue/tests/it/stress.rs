//! Stress test: claims, settlements, cancels, retries, enqueues, rescues and limit changes run
//! concurrently in the same lanes. No deadlock occurs, and every job is accounted for.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harkara_queue::job::{Lane, LimitUse, NewJob, Unique};
use harkara_queue::settings::{Breaker, Change, LaneChange, LimitChange, Rate, TenantChange};
use harkara_queue::{Engine, Quota, Verdict, WorkerOptions};
use harkara_shared::database::TenantTx;
use harkara_shared::id::{JobId, TenantId};
use rand::RngExt;
use tokio::task::JoinSet;

use crate::lost_workers::assert_at_rest;
use crate::support::{
    Fixture, Log, QUEUE, RunningWorker, error, failed, handler, job, number, numbered, options,
    until,
};

const KEYS: [&str; 3] = ["a", "b", "c"];

fn random_below(max: u64) -> u64 {
    rand::rng().random_range(0..max)
}

fn chance(percent: u64) -> bool {
    random_below(100) < percent
}

fn key() -> String {
    KEYS[usize::try_from(random_below(3)).unwrap()].to_owned()
}

/// A random job in one of a few lanes, under a few limits.
fn random_job(number: u64) -> NewJob {
    NewJob {
        lane: match random_below(3) {
            0 => Lane::Default,
            1 => Lane::Named(key()),
            _ => Lane::Ordered(key()),
        },
        limits: match random_below(3) {
            0 => vec![LimitUse {
                key: key(),
                cost: 1 + u16::try_from(random_below(2)).unwrap(),
            }],
            _ => Vec::new(),
        },
        unique: chance(30).then(|| Unique {
            key: format!("{}", random_below(40)),
            hold: None,
        }),
        priority: u8::try_from(random_below(3)).unwrap(),
        max_attempts: 1 + u16::try_from(random_below(3)).unwrap(),
        ..numbered(number)
    }
}

struct Stress {
    fixture: Fixture,
    tenants: [TenantId; 2],
    over: AtomicBool,
    enqueued: AtomicU64,
    jobs: Log<(usize, JobId)>,
    faults: Log<String>,
}

impl Stress {
    fn is_ongoing(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Up to `max` recently enqueued jobs of one tenant.
    fn recent_jobs(&self, max: usize) -> Option<(usize, Vec<JobId>)> {
        let all = self.jobs.read();
        let (tenant, _) = *all.get(usize::try_from(random_below(1 + all.len() as u64)).unwrap())?;
        let lately = all.iter().rev().take(300).filter(|(of, _)| *of == tenant);
        let mut jobs: Vec<_> = lately.map(|(_, job)| *job).filter(|_| chance(10)).collect();
        jobs.truncate(max);
        Some((tenant, jobs))
    }

    fn record_fault(&self, what: &str, error: &dyn std::fmt::Debug) {
        self.faults
            .write(format!("{what}: {error:?}").chars().take(900).collect());
    }

    /// Enqueues a few random jobs, unless too many are waiting already.
    async fn enqueue(&self) {
        let waiting = "select count(*) from queue.parcels where state = 'a' and not lost";
        if self.fixture.count(waiting).await > 500 {
            return;
        }
        let tenant = usize::from(chance(30));
        let jobs: Vec<NewJob> = (0..1 + random_below(40))
            .map(|_| random_job(self.enqueued.fetch_add(1, Ordering::Relaxed)))
            .collect();
        let mut tx = TenantTx::begin(&self.fixture.pool(), self.tenants[tenant])
            .await
            .unwrap();
        let answers = self
            .fixture
            .engine
            .enqueue_all(&mut tx, self.tenants[tenant], jobs, Quota::Skip)
            .await;
        match answers {
            Ok(answers) if chance(90) => {
                tx.commit().await.unwrap();
                for answer in answers {
                    self.jobs.write((tenant, answer.id()));
                }
            }
            Ok(_) => {}
            Err(error) => self.record_fault("enqueue", &error),
        }
    }

    /// Cancels, retries or runs now some random jobs, each in its own transaction.
    async fn change_random_jobs(&self) {
        let Some((tenant, jobs)) = self.recent_jobs(6) else {
            return;
        };
        let engine = &self.fixture.engine;
        let what = random_below(3);
        for job in jobs {
            let mut tx = TenantTx::begin(&self.fixture.pool(), self.tenants[tenant])
                .await
                .unwrap();
            let done = match what {
                0 => engine.cancel(&mut tx, job).await.map(|_| ()),
                1 => engine.retry(&mut tx, job).await.map(|_| ()),
                _ => engine.run_now(&mut tx, &[job]).await,
            };
            match done {
                Ok(()) => tx.commit().await.unwrap(),
                Err(error) => self.record_fault(
                    ["cancel", "retry", "run_now"][usize::try_from(what).unwrap()],
                    &error,
                ),
            }
        }
    }

    async fn change(&self) {
        let engine = &self.fixture.engine;
        let limit = match random_below(3) {
            0 => LimitChange::removal(),
            1 => LimitChange {
                max_running: Change::Set(1 + u32::try_from(random_below(20)).unwrap()),
                ..LimitChange::default()
            },
            _ => LimitChange::rate(Rate {
                count: 500,
                per: Duration::from_secs(1),
                burst: 50,
            }),
        };
        let tenant = self.tenants[usize::try_from(random_below(2)).unwrap()];
        let lane = match random_below(2) {
            0 => Lane::Named(key()),
            _ => Lane::Ordered(key()),
        };
        let done = match random_below(4) {
            0 => engine.set_queue(QUEUE, &limit).await,
            1 => {
                let change = TenantChange {
                    limit,
                    ..TenantChange::default()
                };
                engine.set_tenant(tenant, &change).await
            }
            2 => {
                let change = TenantChange {
                    limits: [(key(), limit)].into(),
                    ..TenantChange::default()
                };
                engine.set_tenant(tenant, &change).await
            }
            _ => {
                let change = LaneChange {
                    limit,
                    breaker: match random_below(2) {
                        0 => Change::Remove,
                        _ => Change::Set(Breaker::consecutive(5, Duration::from_millis(50))),
                    },
                    ..LaneChange::default()
                };
                engine.set_lane(tenant, QUEUE, &lane, &change).await
            }
        };
        if let Err(error) = done {
            self.record_fault("change", &error);
        }
    }
}

fn any_verdict(follow: u64) -> Verdict {
    match random_below(12) {
        0 | 1 => failed("chance"),
        2 => Verdict::Dead {
            error: error("chance"),
        },
        3 => Verdict::Snooze {
            wait: Duration::from_millis(random_below(30)),
            reason: error("chance"),
        },
        4 => Verdict::RateLimited {
            wait: Duration::from_millis(random_below(30)),
            reason: error("chance"),
        },
        5 => Verdict::Done {
            result: None,
            follow_ups: vec![NewJob {
                unique: Some(Unique {
                    key: format!("{}", random_below(40)),
                    hold: None,
                }),
                max_attempts: 1,
                ..numbered(follow)
            }],
        },
        _ => Verdict::done(),
    }
}

async fn run_stress(length: Duration) {
    let fixture = Fixture::new().await;
    let stress = Arc::new(Stress {
        tenants: [fixture.tenant, TenantId::new()],
        fixture,
        over: AtomicBool::new(false),
        enqueued: AtomicU64::new(0),
        jobs: Log::new(),
        faults: Log::new(),
    });
    for tenant in stress.tenants {
        stress.fixture.enqueue_for(tenant, vec![job()]).await;
    }
    let ended = Log::new();
    let log_copy = ended.clone();
    let handler = handler(move |run| {
        let ended = log_copy.clone();
        async move {
            if chance(20) {
                tokio::time::sleep(Duration::from_millis(random_below(10))).await;
            }
            // Follow-ups have no follow-ups.
            let verdict = match number(&run) {
                u64::MAX => Verdict::done(),
                _ => any_verdict(u64::MAX),
            };
            if matches!(verdict, Verdict::Done { .. }) {
                ended.write(run.job.id);
            }
            verdict
        }
    });
    let short = || WorkerOptions {
        lease: Duration::from_secs(1),
        drain: Duration::from_millis(50),
        ..options(&[(QUEUE, 8)])
    };
    // Each worker has connections of its own.
    let start = || {
        let engine = Engine::new(stress.fixture.pool(), true);
        RunningWorker::start(engine, short(), Arc::clone(&handler))
    };
    let mut workers = vec![start(), start(), start()];
    let mut others = JoinSet::new();
    for part in 0..10 {
        let stress = Arc::clone(&stress);
        others.spawn(async move {
            while stress.is_ongoing() {
                match part {
                    0..4 => stress.enqueue().await,
                    4..8 => stress.change_random_jobs().await,
                    8 => stress.change().await,
                    _ => {
                        if let Err(error) = stress.fixture.engine.rescue().await {
                            stress.record_fault("rescue", &error);
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(20 + random_below(60))).await;
            }
        });
    }
    let started = Instant::now();
    while started.elapsed() < length {
        tokio::time::sleep(length / 12).await;
        // One worker dies or is stopped, and another starts.
        let worker = workers.swap_remove(usize::try_from(random_below(3)).unwrap());
        if chance(50) {
            worker.task.abort();
            worker.task.await.ok();
        } else {
            worker.stop().await;
        }
        workers.push(start());
    }
    stress.over.store(true, Ordering::Relaxed);
    others.join_all().await;
    let fixture = &stress.fixture;
    // Everything limited or parked continues now.
    for sql in [
        "with g as (select id from queue.limiters order by id for update)
         update queue.limiters set rate_count = null, rate_period = null, rate_burst = null
         from g where limiters.id = g.id",
        "with l as (select id from queue.lanes where breaker = 'c' order by id for update)
         update queue.lanes set parked_until = null from l where lanes.id = l.id",
    ] {
        fixture.execute(sql).await;
    }
    let unfinished = "select count(*) from queue.parcels where state in ('s', 'a', 'r')";
    let mut left = fixture.count(unfinished).await;
    while left > 0 {
        let before = left;
        until("jobs keep finishing", async || {
            left = fixture.count(unfinished).await;
            left < before
        })
        .await;
    }
    for worker in workers {
        worker.stop().await;
    }
    let mut faults = stress.faults.read();
    // A unique key that changes its holder during the call is a retryable error.
    faults.retain(|fault| !fault.contains("Contended"));
    assert!(faults.is_empty(), "{faults:?}");
    assert_at_rest(fixture).await;
    assert_accounted_for(&stress, &ended).await;
}

/// Asserts that each job can be read and is finished, and that no finished job holds a key.
async fn assert_accounted_for(stress: &Stress, ended: &Log<JobId>) {
    let all: HashSet<(usize, JobId)> = stress.jobs.read().into_iter().collect();
    assert!(all.len() > 100);
    for (tenant, id) in all {
        let mut tx = TenantTx::begin(&stress.fixture.pool(), stress.tenants[tenant])
            .await
            .unwrap();
        let found = harkara_queue::read::job(&mut tx, id).await.unwrap();
        let job = found.unwrap_or_else(|| panic!("{id} is lost"));
        assert!(job.state.is_final(), "{id} is {:?}", job.state);
    }
    let ran: HashSet<JobId> = ended.read().into_iter().collect();
    assert!(!ran.is_empty());
    let keys = "select count(*) from queue.unique_keys where expires_at = 'infinity'";
    assert_eq!(
        stress.fixture.count(keys).await,
        0,
        "finished jobs still hold keys"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_operations_keep_every_invariant_for_ten_seconds() {
    run_stress(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes"]
async fn concurrent_operations_keep_every_invariant_for_two_minutes() {
    run_stress(Duration::from_secs(120)).await;
}
