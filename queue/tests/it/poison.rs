//! A job that kills every worker it meets.

use std::time::Duration;

use harkara_queue::job::{AttemptOutcome, JobState, NewJob};
use harkara_queue::{Verdict, WorkerOptions};
use tokio::sync::mpsc;

use crate::lease::{expire, kill};
use crate::support::{QUEUE, Stand, handler, number, numbered, options, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_workers_ends_dead_and_takes_nobody_of_its_parcel_with_it() {
    const POISON: u64 = 250;
    let stand = Stand::new().await;
    let jobs = (0..500).map(|n| NewJob {
        max_attempts: 2,
        ..numbered(n)
    });
    let ids = stand.enqueue_all(jobs.collect()).await;
    assert_eq!(stand.count("select count(*) from queue.parcels").await, 1);
    let start = |deaths: mpsc::UnboundedSender<()>| {
        let options = WorkerOptions {
            lease: Duration::from_secs(600),
            ..options(&[(QUEUE, 8)])
        };
        stand.work_as(
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
        soon("the worker meets its death", deaths.recv()).await;
        kill(&stand, worker).await;
        expire(&stand).await;
        stand.engine.rescue().await.unwrap();
    }
    let poison = stand.job(ids[250].id()).await;
    assert_eq!((poison.state, poison.attempt), (JobState::Dead, 2));
    assert_eq!(poison.last_error.unwrap().code, "worker_lost");
    let log = stand.attempts(ids[250].id()).await;
    assert!(log.iter().all(|run| run.outcome == AttemptOutcome::Lost));
    assert_eq!(log.len(), 2);

    let (death, mut deaths) = mpsc::unbounded_channel();
    let worker = start(death);
    stand.is_quiet().await;
    worker.stop().await;
    assert!(deaths.recv().await.is_none(), "it does not run again");
    assert_eq!((stand.jobs("d").await, stand.jobs("x").await), (499, 1));
    let log = stand.attempts(ids[499].id()).await;
    assert_eq!(log.last().unwrap().outcome, AttemptOutcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_two_queues_holds_one_job_at_a_time_under_which_a_worker_died() {
    let stand = Stand::new().await;
    let in_queue = |queue: &str| NewJob {
        queue: queue.to_owned(),
        max_attempts: 2,
        ..numbered(0)
    };
    let queues = [("one", 4), ("two", 4)];
    for (queue, _) in queues {
        stand
            .enqueue_all((0..4).map(|_| in_queue(queue)).collect())
            .await;
    }
    let endless = || {
        handler(async |_| {
            std::future::pending::<()>().await;
            Verdict::done()
        })
    };
    let worker = stand.work_as(options(&queues), endless());
    crate::support::until("all run", async || stand.jobs("r").await == 8).await;
    kill(&stand, worker).await;
    expire(&stand).await;
    assert_eq!(stand.engine.rescue().await.unwrap().jobs, 8);

    let worker = stand.work_as(options(&queues), endless());
    let mut later = Vec::new();
    for (queue, _) in queues {
        later.push(stand.enqueue(in_queue(queue)).await.id());
    }
    for id in later {
        stand.reaches(id, JobState::Running).await;
    }
    // After a second it is trusted, and the next one is taken up.
    let at_once = "with held as (
            select started_at from queue.parcels where state = 'r' and lost
        )
        select count(*) from held
        where started_at < (select min(started_at) from held) + interval '1 second'";
    assert_eq!(stand.count(at_once).await, 1);
    kill(&stand, worker).await;
}
