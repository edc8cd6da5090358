//! Claim: concurrency per queue, independence of queues, equal shares of lanes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use harkara_queue::Verdict;
use harkara_queue::job::{JobState, NewJob};
use harkara_shared::id::TenantId;
use tokio::sync::Semaphore;

use crate::support::{
    Fixture, Log, QUEUE, handler, job, number, numbered, options, succeeding_handler, until,
};

#[tokio::test(flavor = "multi_thread")]
async fn queue_concurrency_is_reached_and_never_exceeded() {
    let fixture = Fixture::new().await;
    fixture.enqueue_all((0..60).map(numbered).collect()).await;
    let permits = Arc::new(Semaphore::new(0));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let worker = fixture.start_worker_with(options(&[(QUEUE, 7)]), {
        let (permits, running, most) = (permits.clone(), running.clone(), most.clone());
        handler(move |_| {
            let (permits, running, most) = (permits.clone(), running.clone(), most.clone());
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                permits.acquire().await.unwrap().forget();
                running.fetch_sub(1, Ordering::SeqCst);
                Verdict::done()
            }
        })
    });
    for round in 0..60 / 7 {
        until("seven jobs run concurrently", async || {
            running.load(Ordering::SeqCst) == 7
        })
        .await;
        if round == 0 {
            // The duration of runs is unknown yet, so nothing is prefetched.
            assert_eq!(fixture.jobs("r").await, 7);
        }
        permits.add_permits(7);
    }
    permits.add_permits(60);
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_eq!(most.load(Ordering::SeqCst), 7);
}

#[tokio::test]
async fn full_queue_does_not_delay_another() {
    let fixture = Fixture::new().await;
    let in_queue = |queue: &str| NewJob {
        queue: queue.to_owned(),
        ..job()
    };
    let stuck = fixture
        .enqueue_all((0..20).map(|_| in_queue("slow")).collect())
        .await;
    let worker = fixture.start_worker_with(
        options(&[("slow", 2), ("fast", 2)]),
        handler(async |run| {
            if run.job.payload().get() == "0" && &*run.job.kind == "test.job" {
                std::future::pending::<()>().await;
            }
            Verdict::done()
        }),
    );
    until("the slow queue is full", async || {
        fixture.jobs("r").await == 2
    })
    .await;
    let fast = (0..50).map(|_| NewJob {
        kind: "test.fast".to_owned(),
        ..in_queue("fast")
    });
    for answer in fixture.enqueue_all(fast.collect()).await {
        fixture
            .wait_for_state(answer.id(), JobState::Succeeded)
            .await;
    }
    // The stuck jobs are cancelled while the worker keeps claiming them.
    for answer in stuck {
        let mut tx = fixture.tx().await;
        fixture.engine.cancel(&mut tx, answer.id()).await.unwrap();
        tx.commit().await.unwrap();
    }
    fixture.wait_until_idle().await;
    worker.stop().await;
}

#[tokio::test]
async fn tenant_with_one_job_does_not_wait_for_a_backlog_of_thousands() {
    let fixture = Fixture::new().await;
    let quiet = TenantId::new();
    fixture
        .enqueue_all((0..5_000).map(numbered).collect())
        .await;
    fixture.enqueue_for(quiet, vec![numbered(0)]).await;
    for concurrency in [1, 4] {
        fixture
            .execute("update queue.parcels set state = 'a', finished_at = null where state = 'd'")
            .await;
        let order = Log::new();
        let log_copy = order.clone();
        let worker = fixture.start_worker_with(
            options(&[(QUEUE, concurrency)]),
            handler(move |run| {
                log_copy.write(run.job.tenant);
                async { Verdict::done() }
            }),
        );
        order.holds(40).await;
        worker.stop().await;
        let position = order
            .read()
            .iter()
            .position(|tenant| *tenant == quiet)
            .unwrap();
        let limit = usize::try_from(concurrency).unwrap() * 2;
        assert!(
            position < limit,
            "concurrency {concurrency}: the quiet tenant was number {position}"
        );
    }
}

#[tokio::test]
async fn every_lane_gets_a_turn_when_lanes_outnumber_slots() {
    let fixture = Fixture::new().await;
    let mut tenants = Vec::new();
    for _ in 0..10 {
        let tenant = TenantId::new();
        fixture
            .enqueue_for(tenant, (0..50).map(numbered).collect())
            .await;
        tenants.push(tenant);
    }
    let order = Log::new();
    let log_copy = order.clone();
    let worker = fixture.start_worker_with(
        options(&[(QUEUE, 3)]),
        handler(move |run| {
            log_copy.write(run.job.tenant);
            async { Verdict::done() }
        }),
    );
    fixture.wait_until_idle().await;
    worker.stop().await;
    let order = order.read();
    // After every hundred runs no tenant is far ahead of another.
    for stretch in order[..400].chunks(100) {
        for tenant in &tenants {
            let runs = stretch.iter().filter(|of| *of == tenant).count();
            assert!(
                (4..=20).contains(&runs),
                "one of ten tenants got {runs} of 100 runs"
            );
        }
    }
}

#[tokio::test]
async fn paused_queue_is_not_claimed_from() {
    let fixture = Fixture::new().await;
    let paused = fixture
        .enqueue(NewJob {
            queue: "paused".to_owned(),
            ..job()
        })
        .await
        .id();
    fixture
        .execute("update queue.queues set paused = true where name = 'paused'")
        .await;
    let worker =
        fixture.start_worker_with(options(&[("paused", 4), (QUEUE, 4)]), succeeding_handler());
    let other = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(other, JobState::Succeeded).await;
    assert_eq!(fixture.state(paused).await, JobState::Ready);
    fixture
        .execute("update queue.queues set paused = false")
        .await;
    fixture.wait_for_state(paused, JobState::Succeeded).await;
    worker.stop().await;
}

#[tokio::test]
async fn polling_finds_every_job_with_notifications_off() {
    let fixture = Fixture::with_notify(false).await;
    let worker = fixture.start_worker(handler(async |run| match number(&run) {
        0 => {
            std::future::pending::<()>().await;
            Verdict::done()
        }
        _ => Verdict::done(),
    }));
    let endless = fixture.enqueue(numbered(0)).await.id();
    fixture.wait_for_state(endless, JobState::Running).await;
    let done = fixture.enqueue(numbered(1)).await.id();
    fixture.wait_for_state(done, JobState::Succeeded).await;
    let mut tx = fixture.tx().await;
    fixture.engine.cancel(&mut tx, endless).await.unwrap();
    tx.commit().await.unwrap();
    fixture.wait_for_state(endless, JobState::Cancelled).await;
    let mut tx = fixture.tx().await;
    fixture.engine.retry(&mut tx, endless).await.unwrap();
    tx.commit().await.unwrap();
    fixture.wait_for_state(endless, JobState::Running).await;
    let mut tx = fixture.tx().await;
    fixture.engine.cancel(&mut tx, endless).await.unwrap();
    tx.commit().await.unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_workers_share_the_jobs_and_run_each_once() {
    let fixture = Fixture::new().await;
    let runs = Log::new();
    let log_copy = runs.clone();
    let handler = handler(move |run| {
        log_copy.write(number(&run));
        async { Verdict::done() }
    });
    let workers: Vec<_> = (0..3)
        .map(|_| fixture.start_worker_with(options(&[(QUEUE, 16)]), handler.clone()))
        .collect();
    for batch in 0..10 {
        fixture
            .enqueue_all((batch * 300..(batch + 1) * 300).map(numbered).collect())
            .await;
    }
    fixture.wait_until_idle().await;
    for worker in workers {
        worker.stop().await;
    }
    let mut runs = runs.read();
    runs.sort_unstable();
    assert_eq!(runs, (0..3000).collect::<Vec<u64>>());
}
