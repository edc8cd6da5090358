//! Poisonous jobs: a job that kills every worker that runs it.

use std::time::Duration;

use harkara_queue::job::{AttemptOutcome, JobState, NewJob};
use harkara_queue::{Verdict, WorkerOptions};
use tokio::sync::mpsc;

use crate::lease::{expire, kill};
use crate::support::{Fixture, QUEUE, handler, number, numbered, options, with_timeout};

#[tokio::test(flavor = "multi_thread")]
async fn job_that_kills_its_workers_ends_dead_without_harming_its_parcel() {
    const POISON: u64 = 250;
    let fixture = Fixture::new().await;
    let jobs = (0..500).map(|n| NewJob {
        max_attempts: 2,
        ..numbered(n)
    });
    let ids = fixture.enqueue_all(jobs.collect()).await;
    assert_eq!(fixture.count("select count(*) from queue.parcels").await, 1);
    let start = |deaths: mpsc::UnboundedSender<()>| {
        let options = WorkerOptions {
            lease: Duration::from_secs(600),
            ..options(&[(QUEUE, 8)])
        };
        fixture.start_worker_with(
            options,
            handler(move |run| {
                let deaths = deaths.clone();
                async move {
                    if number(&run) == POISON {
                        deaths.send(()).ok();
                        std::future::pending::<()>().await;
                    }
                    Verdict::done()
                }
            }),
        )
    };
    for _ in 0..2 {
        let (death, mut deaths) = mpsc::unbounded_channel();
        let worker = start(death);
        with_timeout("the job kills the worker", deaths.recv()).await;
        kill(&fixture, worker).await;
        expire(&fixture).await;
        fixture.engine.rescue().await.unwrap();
    }
    let poison = fixture.job(ids[250].id()).await;
    assert_eq!((poison.state, poison.attempt), (JobState::Dead, 2));
    assert_eq!(poison.last_error.unwrap().code, "worker_lost");
    let log = fixture.attempts(ids[250].id()).await;
    assert!(log.iter().all(|run| run.outcome == AttemptOutcome::Lost));
    assert_eq!(log.len(), 2);

    let (death, mut deaths) = mpsc::unbounded_channel();
    let worker = start(death);
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert!(deaths.recv().await.is_none(), "the job must not run again");
    assert_eq!((fixture.jobs("d").await, fixture.jobs("x").await), (499, 1));
    let log = fixture.attempts(ids[499].id()).await;
    assert_eq!(log.last().unwrap().outcome, AttemptOutcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_of_two_queues_holds_one_suspect_job_at_a_time() {
    let fixture = Fixture::new().await;
    let in_queue = |queue: &str| NewJob {
        queue: queue.to_owned(),
        max_attempts: 2,
        ..numbered(0)
    };
    let queues = [("one", 4), ("two", 4)];
    for (queue, _) in queues {
        fixture
            .enqueue_all((0..4).map(|_| in_queue(queue)).collect())
            .await;
    }
    let endless = || {
        handler(async |_| {
            std::future::pending::<()>().await;
            Verdict::done()
        })
    };
    let worker = fixture.start_worker_with(options(&queues), endless());
    crate::support::until("all jobs run", async || fixture.jobs("r").await == 8).await;
    kill(&fixture, worker).await;
    expire(&fixture).await;
    assert_eq!(fixture.engine.rescue().await.unwrap().jobs, 8);

    let worker = fixture.start_worker_with(options(&queues), endless());
    let mut later = Vec::new();
    for (queue, _) in queues {
        later.push(fixture.enqueue(in_queue(queue)).await.id());
    }
    for id in later {
        fixture.wait_for_state(id, JobState::Running).await;
    }
    // After a second the job is trusted, and the next one is claimed.
    let at_once = "with held as (
            select started_at from queue.parcels where state = 'r' and lost
        )
        select count(*) from held
        where started_at < (select min(started_at) from held) + interval '1 second'";
    assert_eq!(fixture.count(at_once).await, 1);
    kill(&fixture, worker).await;
}
