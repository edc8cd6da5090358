//! Enqueue: bound to the caller's transaction, results in call order, jobs wait until they are due.

use std::time::Duration;

use harkara_queue::job::{Enqueued, JobState, NewJob, Unique};
use harkara_queue::{Quota, Verdict, read};
use harkara_shared::id::JobId;

use crate::support::{
    Fixture, Log, QUEUE, handler, job, number, numbered, options, succeeding_handler, until,
};

fn keyed_and_tagged() -> NewJob {
    NewJob {
        unique: Some(Unique {
            key: "order-1".to_owned(),
            hold: None,
        }),
        tags: vec!["red".to_owned()],
        ..job()
    }
}

#[tokio::test]
async fn rolled_back_enqueue_leaves_nothing() {
    let fixture = Fixture::new().await;
    let mut tx = fixture.tx().await;
    let answer = fixture
        .engine
        .enqueue(&mut tx, fixture.tenant, keyed_and_tagged(), Quota::Skip)
        .await
        .unwrap();
    assert!(
        read::job(&mut tx, answer.id()).await.unwrap().is_some(),
        "the job must be visible in its own transaction"
    );
    drop(tx);

    let left = "select (select count(*) from queue.parcels) + (select count(*) from queue.labels)
        + (select count(*) from queue.unique_keys)";
    until("nothing is left", async || fixture.count(left).await == 0).await;
    // The key was not taken, and the engine's caches hold nothing that was rolled back.
    assert!(matches!(
        fixture.enqueue(keyed_and_tagged()).await,
        Enqueued::New(_)
    ));
}

#[tokio::test]
async fn committed_enqueue_runs_once() {
    let fixture = Fixture::new().await;
    let runs = Log::new();
    let log_copy = runs.clone();
    let worker = fixture.start_worker(handler(move |run| {
        log_copy.write(run.job.id);
        async { Verdict::done() }
    }));

    let mut tx = fixture.tx().await;
    let id = fixture
        .engine
        .enqueue(&mut tx, fixture.tenant, keyed_and_tagged(), Quota::Skip)
        .await
        .unwrap()
        .id();
    tx.commit().await.unwrap();

    let done = fixture.wait_for_state(id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
    assert_eq!(done.unique_key.as_deref(), Some("order-1"));
    assert_eq!(done.tags, ["red"]);
    worker.stop().await;
    assert_eq!(runs.read(), [id]);
}

#[tokio::test]
async fn batch_of_10_000_is_answered_in_order() {
    let fixture = Fixture::new().await;
    // Every tenth job repeats the key of the previous one.
    let jobs = (0..10_000_u64)
        .map(|position| NewJob {
            unique: (position % 10 >= 8).then(|| Unique {
                key: format!("k{}", position / 10),
                hold: None,
            }),
            ..numbered(position)
        })
        .collect();
    let answers = fixture.enqueue_all(jobs).await;
    assert_eq!(answers.len(), 10_000);

    let new: Vec<(usize, JobId)> = answers
        .iter()
        .enumerate()
        .filter_map(|(position, answer)| match answer {
            Enqueued::New(id) => Some((position, *id)),
            Enqueued::Existing(_) => None,
        })
        .collect();
    assert_eq!(new.len(), 9_000);
    let ids: Vec<JobId> = new.iter().map(|(_, id)| *id).collect();
    let mut found = read::jobs(&mut *fixture.tx().await, &ids).await.unwrap();
    found.sort_by_key(|job| job.payload.get().parse::<usize>().unwrap());
    let kept: Vec<(usize, JobId)> = found
        .iter()
        .map(|job| (job.payload.get().parse().unwrap(), job.id))
        .collect();
    assert_eq!(kept, new);
    for position in (9..10_000).step_by(10) {
        assert_eq!(
            answers[position],
            Enqueued::Existing(answers[position - 1].id())
        );
    }
}

#[tokio::test]
async fn one_invalid_job_rejects_the_whole_batch() {
    let fixture = Fixture::new().await;
    let mut jobs: Vec<NewJob> = (0..100).map(numbered).collect();
    jobs[77].max_attempts = 0;
    let mut tx = fixture.tx().await;
    fixture
        .engine
        .enqueue_all(&mut tx, fixture.tenant, jobs, Quota::Skip)
        .await
        .unwrap_err();
    drop(tx);
    assert_eq!(fixture.count("select count(*) from queue.parcels").await, 0);
}

#[tokio::test]
async fn batch_across_thousands_of_queues_is_accepted() {
    let fixture = Fixture::new().await;
    // The queue ids do not fit into one notification.
    fixture
        .execute("insert into queue.queues (name) select 'q' || g from generate_series(1, 2500) g")
        .await;
    let jobs = (1..=2500)
        .map(|n| NewJob {
            queue: format!("q{n}"),
            ..job()
        })
        .collect();
    assert_eq!(fixture.enqueue_all(jobs).await.len(), 2500);
}

#[tokio::test]
async fn lane_runs_by_priority_then_due_time() {
    let fixture = Fixture::new().await;
    let now = fixture.now().await;
    let due = |number: u64, priority: u8, seconds_ago: i64| NewJob {
        priority,
        run_at: Some(now - chrono::Duration::seconds(seconds_ago)),
        ..numbered(number)
    };
    fixture
        .enqueue_all(vec![
            due(4, 5, 10),
            due(5, 5, 1),
            due(2, 0, 1),
            due(6, 9, 99),
            due(1, 0, 60),
        ])
        .await;
    fixture
        .enqueue_all(vec![due(3, 5, 20), due(0, 0, 90)])
        .await;

    let order = Log::new();
    let log_copy = order.clone();
    let worker = fixture.start_worker_with(
        options(&[(QUEUE, 1)]),
        handler(move |run| {
            log_copy.write(number(&run));
            async { Verdict::done() }
        }),
    );
    fixture.wait_until_idle().await;
    worker.stop().await;
    assert_eq!(order.read(), [0, 1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn delayed_job_does_not_start_early_by_the_database_clock() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(succeeding_handler());
    let now = fixture.now().await;
    let jobs = [0, 40, 400, 1100, 2300].map(|wait| NewJob {
        run_at: Some(now + Duration::from_millis(wait)),
        ..job()
    });
    let answers = fixture.enqueue_all(jobs.to_vec()).await;
    for answer in answers {
        let done = fixture
            .wait_for_state(answer.id(), JobState::Succeeded)
            .await;
        assert!(done.started_at.unwrap() >= done.run_at, "{done:?}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn thousands_of_jobs_due_at_once_are_not_limited_to_one_batch_per_poll() {
    let fixture = Fixture::new().await;
    let at = fixture.now().await + Duration::from_secs(1);
    let jobs = (0..60_000)
        .map(|n| NewJob {
            run_at: Some(at),
            ..numbered(n)
        })
        .collect();
    fixture.enqueue_all(jobs).await;
    assert_eq!(
        fixture
            .count("select count(*) from queue.parcels where state <> 's'")
            .await,
        0
    );
    // At a thousand per poll this would take a minute, twice the timeout of `until`.
    let worker = fixture.start_worker_with(options(&[(QUEUE, 1)]), succeeding_handler());
    until("all jobs are promoted", async || {
        fixture
            .count("select count(*) from queue.parcels where state = 's'")
            .await
            == 0
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn delayed_job_waits_although_a_worker_has_free_slots() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(succeeding_handler());
    let far = fixture.now().await + Duration::from_secs(3600);
    let later = fixture
        .enqueue(NewJob {
            run_at: Some(far),
            ..job()
        })
        .await
        .id();
    let now = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(now, JobState::Succeeded).await;
    assert_eq!(fixture.state(later).await, JobState::Scheduled);
    worker.stop().await;
}
