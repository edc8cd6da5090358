//! Tests of a worker that polls once an hour: anything that happens earlier was triggered by a signal.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use harkara_shared::config::QueueConcurrency;
use harkara_shared::id::JobId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::super::handler::Run;
use super::{Handler, Worker, WorkerOptions};
use crate::job::{AttemptOutcome, JobError, JobState, NewJob};
use crate::testing::{Fixture, QUEUE, job, worker};
use crate::verdict::Verdict;

const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

async fn with_timeout<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(EVENT_TIMEOUT, future).await.unwrap()
}

/// Reports the start and the end of each run, and acts as the payload directs.
struct ReportingHandler {
    start_sender: mpsc::UnboundedSender<JobId>,
    drop_sender: mpsc::UnboundedSender<JobId>,
}

struct DropReporter(mpsc::UnboundedSender<JobId>, JobId);

impl Drop for DropReporter {
    fn drop(&mut self) {
        self.0.send(self.1).ok();
    }
}

impl Handler for ReportingHandler {
    fn run(&self, run: Run) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
        let guard = DropReporter(self.drop_sender.clone(), run.job.id);
        self.start_sender.send(run.job.id).ok();
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

struct RunningWorker {
    fixture: Fixture,
    starts: mpsc::UnboundedReceiver<JobId>,
    drops: mpsc::UnboundedReceiver<JobId>,
    stop: CancellationToken,
    end: oneshot::Receiver<()>,
}

impl RunningWorker {
    /// Starts a worker whose next poll is an hour away, and waits until it has run a job.
    async fn without_polling() -> Self {
        let fixture = Fixture::new().await;
        let ((start_sender, starts), (drop_sender, drops)) =
            (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let options = WorkerOptions {
            info: worker(),
            queues: vec![QueueConcurrency {
                queue: QUEUE.to_owned(),
                concurrency: 2,
            }],
            lease: Duration::from_secs(3600),
            drain: EVENT_TIMEOUT,
            memory: 64 << 20,
            listen_url: None,
        };
        let handler = ReportingHandler {
            start_sender,
            drop_sender,
        };
        let mut worker = Worker::new(fixture.engine.clone(), options, Arc::new(handler));
        worker.poll_interval = Duration::from_secs(3600);
        let (stop, (end_sender, end)) = (CancellationToken::new(), oneshot::channel());
        let worker_stop = stop.clone();
        tokio::spawn(async move {
            worker.run(worker_stop).await.unwrap();
            end_sender.send(()).ok();
        });
        let mut running = Self {
            fixture,
            starts,
            drops,
            stop,
            end,
        };
        let first = running.fixture.enqueue(job()).await;
        assert_eq!(running.next_start().await, first);
        running
    }

    async fn next_start(&mut self) -> JobId {
        with_timeout(self.starts.recv()).await.unwrap()
    }

    async fn next_drop(&mut self) -> JobId {
        with_timeout(self.drops.recv()).await.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        with_timeout(self.end).await.unwrap();
    }
}

fn job_with_payload(payload: &str) -> NewJob {
    NewJob {
        payload: serde_json::value::to_raw_value(payload).unwrap(),
        ..job()
    }
}

#[tokio::test]
async fn job_enqueued_while_the_worker_idles_runs_without_a_poll() {
    let mut running = RunningWorker::without_polling().await;
    for _ in 0..5 {
        let id = running.fixture.enqueue(job()).await;
        assert_eq!(running.next_start().await, id);
    }
    running.stop().await;
}

#[tokio::test]
async fn job_scheduled_soon_runs_when_due_without_a_poll() {
    let mut running = RunningWorker::without_polling().await;
    for wait in [30, 300, 1500] {
        let now: chrono::DateTime<chrono::Utc> =
            harkara_shared::database::query_scalar("select clock_timestamp()")
                .fetch_one(running.fixture.engine.pool())
                .await
                .unwrap();
        let run_at = Some(now + Duration::from_millis(wait));
        let id = running.fixture.enqueue(NewJob { run_at, ..job() }).await;
        assert_eq!(running.next_start().await, id);
        let started_job = running.fixture.job(id).await;
        assert!(started_job.started_at.unwrap() >= started_job.run_at);
    }
    running.stop().await;
}

#[tokio::test]
async fn freed_slots_are_used_without_a_poll() {
    let mut running = RunningWorker::without_polling().await;
    for _ in 0..50 {
        running.fixture.enqueue(job()).await;
    }
    for _ in 0..50 {
        running.next_start().await;
    }
    running.stop().await;
}

#[tokio::test]
async fn cancellation_reaches_a_running_handler_without_a_poll() {
    let mut running = RunningWorker::without_polling().await;
    assert_ne!(running.next_drop().await, JobId::from_i64(0));
    let id = running.fixture.enqueue(job_with_payload("wait")).await;
    assert_eq!(running.next_start().await, id);
    running.fixture.cancel(id).await;
    assert_eq!(running.next_drop().await, id);
    running.stop().await;
}

#[tokio::test]
async fn job_runs_again_after_a_short_backoff_without_a_poll() {
    let mut running = RunningWorker::without_polling().await;
    let id = running.fixture.enqueue(job_with_payload("fail")).await;
    assert_eq!(running.next_start().await, id);
    assert_eq!(running.next_start().await, id);
    assert_eq!(
        running.fixture.attempts(id).await[0].outcome,
        AttemptOutcome::Retry
    );
    running.stop().await;
}

#[tokio::test]
async fn manually_retried_job_runs_without_a_poll() {
    let mut running = RunningWorker::without_polling().await;
    let id = running.fixture.enqueue(job_with_payload("wait")).await;
    assert_eq!(running.next_start().await, id);
    running.fixture.cancel(id).await;
    while running.fixture.state_and_attempt(id).await.0 != JobState::Cancelled {
        tokio::task::yield_now().await;
    }
    running.fixture.retry(id).await;
    assert_eq!(running.next_start().await, id);
    running.fixture.cancel(id).await;
    running.stop().await;
}
