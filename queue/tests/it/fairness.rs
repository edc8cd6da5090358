//! Fairness: which tenants and lanes get the free slots of workers, measured by the order of runs.

use std::sync::Arc;
use std::time::Duration;

use harkara_queue::job::{NewJob, Unique};
use harkara_queue::settings::{Change, LaneChange, TenantChange};
use harkara_queue::{Handler, Verdict};
use harkara_shared::id::TenantId;
use tokio::sync::{Barrier, Semaphore};

use crate::lost_workers::{Fleet, assert_at_rest, jobs_in, named, options_without_drain};
use crate::support::{
    Fixture, Log, QUEUE, handler, job, number, numbered, succeeding_handler, until,
};

/// The duration of a run that is too long for prefetching. Keyed lanes then get no more than a quarter of the
/// slots.
async fn long_run() {
    tokio::time::sleep(Duration::from_millis(40)).await;
}

/// The duration of a run: long enough that a worker prefetches few jobs, because lanes within a prefetch take
/// turns regardless of weight.
async fn short_run() {
    tokio::time::sleep(Duration::from_millis(4)).await;
}

/// Logs the tenant of each run, in order.
fn logging(log: &Log<TenantId>) -> Arc<dyn Handler> {
    let log = log.clone();
    handler(move |run| {
        log.write(run.job.tenant);
        async {
            short_run().await;
            Verdict::done()
        }
    })
}

/// Jobs in rows of their own.
fn singles(jobs: u64) -> Vec<NewJob> {
    let single = |number| NewJob {
        unique: Some(Unique {
            key: format!("{number}"),
            hold: None,
        }),
        ..numbered(number)
    };
    (0..jobs).map(single).collect()
}

/// A fixture with known lanes and tenants and an empty fair-share store.
async fn with_known_lanes(tenants: usize) -> (Fixture, Vec<TenantId>) {
    let fixture = Fixture::new().await;
    let tenants: Vec<_> = (0..tenants).map(|_| TenantId::new()).collect();
    for tenant in &tenants {
        fixture.enqueue_for(*tenant, vec![job()]).await;
    }
    let worker = fixture.start_worker(succeeding_handler());
    fixture.wait_until_idle().await;
    worker.stop().await;
    fixture.execute("delete from queue.shares").await;
    (fixture, tenants)
}

fn runs_of(tenant: TenantId, runs: &[TenantId]) -> usize {
    runs.iter().filter(|of| **of == tenant).count()
}

#[tokio::test]
async fn tenants_share_starts_by_weight() {
    let (fixture, tenants) = with_known_lanes(2).await;
    let heavy = TenantChange {
        weight: Change::Set(3),
        ..TenantChange::default()
    };
    fixture.engine.set_tenant(tenants[0], &heavy).await.unwrap();
    for tenant in &tenants {
        fixture.enqueue_for(*tenant, singles(800)).await;
    }
    let log = Log::new();
    let worker = Fleet::start(&fixture, 1, 8, &logging(&log));
    fixture.wait_until_idle().await;
    worker.stop().await;
    let runs = log.read();
    for end in [400, 800] {
        let heavy = runs_of(tenants[0], &runs[..end]);
        let due = end * 3 / 4;
        assert!(
            heavy.abs_diff(due) <= end / 8,
            "the tenant with three of four shares got {heavy} of the first {end} runs"
        );
    }
}

#[tokio::test]
async fn lanes_of_a_tenant_divide_its_share_by_weight() {
    let (fixture, tenants) = with_known_lanes(3).await;
    let log: Log<(TenantId, u64)> = Log::new();
    let keys = ["heavy", "light", "light too"];
    for (lane, key) in (0..).zip(keys) {
        for batch in 0..20 {
            let jobs = (0..10).map(|_| NewJob {
                priority: u8::try_from(batch % 10).unwrap(),
                ..named(key, lane)
            });
            fixture.enqueue_for(tenants[0], jobs.collect()).await;
        }
    }
    for other in &tenants[1..] {
        fixture.enqueue_for(*other, singles(300)).await;
    }
    let heavy = LaneChange {
        weight: Change::Set(2),
        ..LaneChange::default()
    };
    let lane = harkara_queue::job::Lane::Named("heavy".to_owned());
    fixture
        .engine
        .set_lane(tenants[0], QUEUE, &lane, &heavy)
        .await
        .unwrap();
    let log_copy = log.clone();
    let handler = handler(move |run| {
        log_copy.write((run.job.tenant, number(&run)));
        async {
            long_run().await;
            Verdict::done()
        }
    });
    let worker = Fleet::start(&fixture, 1, 8, &handler);
    log.holds(480).await;
    worker.stop().await;
    let runs = &log.read()[..480];
    let first: Vec<u64> = runs
        .iter()
        .filter(|(tenant, _)| *tenant == tenants[0])
        .map(|(_, lane)| *lane)
        .collect();
    assert!(first.len().abs_diff(160) <= 32, "{} of 480", first.len());
    let share = |lane| first.iter().filter(|of| **of == lane).count() * 100 / first.len();
    let shares = [share(0), share(1), share(2)];
    for (share, due) in shares.iter().zip([50, 25, 25]) {
        assert!(share.abs_diff(due) <= 10, "{shares:?} percent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_tenant_starts_among_the_first_beside_a_backlog_of_200_000() {
    let (fixture, tenants) = with_known_lanes(2).await;
    fixture
        .enqueue_for(tenants[0], (0..500).map(numbered).collect())
        .await;
    // 399 more rows like the one of 500 jobs.
    let more = "insert into queue.parcels (lane, run_at, created_at, queue, tenant, kind, priority,
            max_attempts, n, state, body)
        select lane, run_at, created_at, queue, tenant, kind, priority, max_attempts, n, state, body
        from queue.parcels, generate_series(1, 399)
        where state = 'a'";
    assert_eq!(fixture.execute(more).await, 399);
    fixture.enqueue_for(tenants[1], vec![job()]).await;
    assert_eq!(jobs_in(&fixture, "a").await, 200_001);
    let log = Log::new();
    let log_copy = log.clone();
    let handler = handler(move |run| {
        log_copy.write(run.job.tenant);
        async { Verdict::done() }
    });
    // One worker, because simultaneous starts of several workers have no order.
    let fleet = Fleet::start(&fixture, 1, 8, &handler);
    log.holds(600).await;
    // A second job that arrives later waits only for jobs that are prefetched or claimed meanwhile.
    let so_far = log.len();
    fixture.enqueue_for(tenants[1], vec![job()]).await;
    until("the second job of the quiet tenant ran", async || {
        runs_of(tenants[1], &log.read()) == 2
    })
    .await;
    let runs = log.read();
    for worker in &fleet.0 {
        worker.request_stop();
    }
    fleet.stop().await;
    let positions: Vec<_> = (0..runs.len())
        .filter(|position| runs[*position] == tenants[1])
        .collect();
    assert!(
        positions[0] < 8 * 2,
        "the first job of the quiet tenant was number {}",
        positions[0]
    );
    let ahead = positions[1].saturating_sub(so_far);
    assert!(
        ahead < 3 * (2048 + 500),
        "{ahead} jobs ran before the second one"
    );
}

#[tokio::test]
async fn parcels_and_single_jobs_get_equal_shares() {
    let (fixture, tenants) = with_known_lanes(2).await;
    for _ in 0..6 {
        fixture
            .enqueue_for(tenants[0], (0..500).map(numbered).collect())
            .await;
    }
    fixture.enqueue_for(tenants[1], singles(3000)).await;
    let log = Log::new();
    let worker = Fleet::start(&fixture, 1, 8, &logging(&log));
    fixture.wait_until_idle().await;
    worker.stop().await;
    let runs = log.read();
    for end in [1500, 3000, 4500] {
        let packed = runs_of(tenants[0], &runs[..end]);
        assert!(
            packed.abs_diff(end / 2) <= 500,
            "{packed} of the first {end} runs came from parcels"
        );
    }
}

#[tokio::test]
async fn restarted_worker_remembers_previous_shares() {
    let (fixture, tenants) = with_known_lanes(2).await;
    for tenant in &tenants {
        fixture.enqueue_for(*tenant, singles(1000)).await;
    }
    let served = "insert into queue.shares (queue, tenant, served)
        select l.queue, l.tenant, case when l.tenant = 1 then 1000300 else 1000000 end
        from queue.lanes l union all select 1, 0, 1000000";
    fixture.execute(served).await;
    let log = Log::new();
    let worker = Fleet::start(&fixture, 1, 8, &logging(&log));
    fixture.wait_until_idle().await;
    worker.stop().await;
    let runs = log.read();
    let first = runs_of(tenants[0], &runs[..300]);
    assert!(
        first <= 50,
        "the tenant that was ahead got {first} of 300 runs"
    );
    let then = runs_of(tenants[0], &runs[400..800]);
    assert!(
        then.abs_diff(200) <= 60,
        "it got {then} of the next 400 runs"
    );
}

#[tokio::test]
async fn idle_tenant_gains_no_credit_across_a_worker_restart() {
    let (fixture, tenants) = with_known_lanes(3).await;
    for tenant in &tenants {
        fixture.enqueue_for(*tenant, singles(600)).await;
    }
    // The first tenant has a large recent share, the second a small old one, the third none.
    let served = "insert into queue.shares (queue, tenant, served)
        select l.queue, l.tenant, case when l.tenant = 1 then 1000000 else 10 end
        from queue.lanes l where l.tenant < 3
        union all select 1, 0, 1000000";
    fixture.execute(served).await;
    let log = Log::new();
    let worker = Fleet::start(&fixture, 1, 8, &logging(&log));
    fixture.wait_until_idle().await;
    worker.stop().await;
    let runs = log.read();
    for tenant in tenants {
        let runs = runs_of(tenant, &runs[..900]);
        assert!(
            runs.abs_diff(300) <= 60,
            "one of three tenants got {runs} of 900 runs"
        );
    }
}

#[tokio::test]
async fn restarting_workers_serve_two_tenants_equally() {
    let (fixture, tenants) = with_known_lanes(2).await;
    for tenant in &tenants {
        fixture.enqueue_for(*tenant, singles(1500)).await;
    }
    // Exactly this many runs finish between two restarts, however fast the machine is: a run needs a permit,
    // and a worker that stops puts back the runs that have none. A thousand runs leave both tenants a backlog.
    const RUNS_PER_ROUND: usize = 200;
    const ROUNDS: usize = 5;
    let (log, permits) = (Log::new(), Arc::new(Semaphore::new(0)));
    let handler = {
        let (log, permits) = (log.clone(), Arc::clone(&permits));
        handler(move |run| {
            let (log, permits) = (log.clone(), Arc::clone(&permits));
            async move {
                permits.acquire().await.unwrap().forget();
                short_run().await;
                log.write(run.job.tenant);
                Verdict::done()
            }
        })
    };
    for round in 1..=ROUNDS {
        let start = |_| fixture.start_worker_with(options_without_drain(4), Arc::clone(&handler));
        let workers = Fleet((0..2).map(start).collect());
        permits.add_permits(RUNS_PER_ROUND);
        log.holds(round * RUNS_PER_ROUND).await;
        workers.stop().await;
    }
    let runs = log.read();
    assert_eq!(runs.len(), ROUNDS * RUNS_PER_ROUND);
    let first = runs_of(tenants[0], &runs);
    let fair = runs.len() / 2;
    assert!(
        first.abs_diff(fair) <= fair / 4,
        "the first tenant got {first} of {} runs",
        runs.len()
    );
}

#[tokio::test]
async fn single_busy_tenant_uses_every_slot_of_every_worker() {
    let (fixture, tenants) = with_known_lanes(3).await;
    let together = Arc::new(Barrier::new(24));
    let handler = handler(move |_| {
        let together = Arc::clone(&together);
        async move {
            together.wait().await;
            Verdict::done()
        }
    });
    fixture.enqueue_for(tenants[0], singles(24)).await;
    let fleet = Fleet::start(&fixture, 3, 8, &handler);
    fixture.wait_until_idle().await;
    fleet.stop().await;
}

#[tokio::test]
async fn jobs_do_not_wait_in_one_worker_while_another_has_free_slots() {
    let fixture = Fixture::new().await;
    let (quick, go) = (Log::new(), Arc::new(Semaphore::new(0)));
    let (log_copy, permits) = (quick.clone(), Arc::clone(&go));
    let handler = handler(move |run| {
        let (quick, go) = (log_copy.clone(), Arc::clone(&permits));
        async move {
            match number(&run) {
                1 => go.acquire().await.unwrap().forget(),
                _ => quick.write(number(&run)),
            }
            Verdict::done()
        }
    });
    // Short jobs first, so that many are prefetched; then two long ones occupy both slots.
    let jobs = [vec![0; 300], vec![1; 2], vec![2; 100]].concat();
    fixture
        .enqueue_all(jobs.into_iter().map(numbered).collect())
        .await;
    let one = Fleet::start(&fixture, 1, 2, &handler);
    quick.holds(300).await;
    until("both slots are occupied", async || {
        jobs_in(&fixture, "r").await >= 2
    })
    .await;
    let other = Fleet::start(&fixture, 1, 2, &handler);
    quick.holds(400).await;
    go.add_permits(2);
    fixture.wait_until_idle().await;
    assert_eq!(quick.len(), 400);
    let used = "select count(*) from queue.parcels
        where attempt <> 1 and cardinality(body) > 0";
    assert_eq!(fixture.count(used).await, 0);
    one.stop().await;
    other.stop().await;
    assert_at_rest(&fixture).await;
}
