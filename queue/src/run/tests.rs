//! A worker that hardly ever polls: what it does in time it does because it was told.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use harkara_shared::config::QueueConcurrency;
use harkara_shared::id::JobId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Handler, Run, Worker, WorkerOptions};
use crate::job::{AttemptOutcome, JobError, JobState, NewJob};
use crate::testing::{QUEUE, Stand, job, worker};
use crate::verdict::Verdict;

const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

/// Says what it is given to run and when a run is over, and does what the payload asks for.
struct Telling {
    begun: mpsc::UnboundedSender<JobId>,
    dropped: mpsc::UnboundedSender<JobId>,
}

struct Guard(mpsc::UnboundedSender<JobId>, JobId);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.send(self.1).ok();
    }
}

impl Handler for Telling {
    fn run(&self, run: Run) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
        let guard = Guard(self.dropped.clone(), run.job.id);
        self.begun.send(run.job.id).ok();
        Box::pin(async move {
            let _guard = guard;
            match (run.job.payload().get(), run.job.attempt) {
                ("\"wait\"", _) => {
                    run.cancel.cancelled().await;
                    Verdict::Cancelled
                }
                ("\"fail\"", 1) => Verdict::retry(
                    JobError::new("failed", "on purpose"),
                    Some(Duration::from_millis(500)),
                ),
                _ => Verdict::done(),
            }
        })
    }
}

struct Working {
    stand: Stand,
    begun: mpsc::UnboundedReceiver<JobId>,
    dropped: mpsc::UnboundedReceiver<JobId>,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl Working {
    /// A worker whose next poll is an hour away, at work since its first look found nothing.
    async fn without_polling() -> Self {
        let stand = Stand::new().await;
        let ((begins, begun), (drops, dropped)) =
            (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let options = WorkerOptions {
            info: worker(),
            queues: vec![QueueConcurrency {
                queue: QUEUE.to_owned(),
                concurrency: 2,
            }],
            lease: Duration::from_secs(3600),
            drain: PATIENCE,
            memory: 64 << 20,
            listen_url: None,
        };
        let handler = Telling {
            begun: begins,
            dropped: drops,
        };
        let mut worker = Worker::new(stand.engine.clone(), options, Arc::new(handler));
        worker.poll = Duration::from_secs(3600);
        let (stop, (ends, ended)) = (CancellationToken::new(), oneshot::channel());
        let stopped = stop.clone();
        tokio::spawn(async move {
            worker.run(stopped).await.unwrap();
            ends.send(()).ok();
        });
        let mut working = Self {
            stand,
            begun,
            dropped,
            stop,
            ended,
        };
        let first = working.stand.enqueue(job()).await;
        assert_eq!(working.begins().await, first);
        working
    }

    async fn begins(&mut self) -> JobId {
        soon(self.begun.recv()).await.unwrap()
    }

    async fn ends(&mut self) -> JobId {
        soon(self.dropped.recv()).await.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        soon(self.ended).await.unwrap();
    }
}

fn asking(payload: &str) -> NewJob {
    NewJob {
        payload: serde_json::value::to_raw_value(payload).unwrap(),
        ..job()
    }
}

#[tokio::test]
async fn a_job_posted_while_the_worker_idles_is_run_without_a_poll() {
    let mut working = Working::without_polling().await;
    for _ in 0..5 {
        let id = working.stand.enqueue(job()).await;
        assert_eq!(working.begins().await, id);
    }
    working.stop().await;
}

#[tokio::test]
async fn a_job_posted_for_a_moment_close_by_is_run_then_without_a_poll() {
    let mut working = Working::without_polling().await;
    for wait in [30, 300, 1500] {
        let now: chrono::DateTime<chrono::Utc> =
            harkara_shared::database::query_scalar("select clock_timestamp()")
                .fetch_one(working.stand.engine.pool())
                .await
                .unwrap();
        let run_at = Some(now + Duration::from_millis(wait));
        let id = working.stand.enqueue(NewJob { run_at, ..job() }).await;
        assert_eq!(working.begins().await, id);
        let started = working.stand.job(id).await;
        assert!(started.started_at.unwrap() >= started.run_at);
    }
    working.stop().await;
}

#[tokio::test]
async fn places_that_become_free_are_taken_without_a_poll() {
    let mut working = Working::without_polling().await;
    for _ in 0..50 {
        working.stand.enqueue(job()).await;
    }
    for _ in 0..50 {
        working.begins().await;
    }
    working.stop().await;
}

#[tokio::test]
async fn a_cancel_reaches_a_running_handler_without_a_poll() {
    let mut working = Working::without_polling().await;
    assert_ne!(working.ends().await, JobId::from_i64(0));
    let id = working.stand.enqueue(asking("wait")).await;
    assert_eq!(working.begins().await, id);
    working.stand.cancel(id).await;
    assert_eq!(working.ends().await, id);
    working.stop().await;
}

#[tokio::test]
async fn a_short_backoff_is_kept_without_a_poll() {
    let mut working = Working::without_polling().await;
    let id = working.stand.enqueue(asking("fail")).await;
    assert_eq!(working.begins().await, id);
    assert_eq!(working.begins().await, id);
    assert_eq!(
        working.stand.attempts(id).await[0].outcome,
        AttemptOutcome::Retry
    );
    working.stop().await;
}

#[tokio::test]
async fn a_job_retried_by_hand_is_run_without_a_poll() {
    let mut working = Working::without_polling().await;
    let id = working.stand.enqueue(asking("wait")).await;
    assert_eq!(working.begins().await, id);
    working.stand.cancel(id).await;
    while working.stand.is(id).await.0 != JobState::Cancelled {
        tokio::task::yield_now().await;
    }
    working.stand.retry(id).await;
    assert_eq!(working.begins().await, id);
    working.stand.cancel(id).await;
    working.stop().await;
}
