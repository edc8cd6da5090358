//! Room: the worker's line, from claim to settlement, run by apalis.
//!
//! ```text
//! keeper ── lease ──▶ dispatcher ── claims ──▶ backend ──▶ apalis worker ──▶ layer ── endings ──▶ completer
//!    └─ rescues the dead   ▲                                     (handler)                 └─ settles
//!                          └─ clock (promotes what is due), wake (notifications)
//! ```
//!
//! Takes: a [`Handler`] and the queues to serve. Gives: a [`Worker`] that runs until it is told to
//! stop. Never: ends because a statement failed, and never waits for the database to stop.

mod backend;
mod clock;
mod completer;
mod desk;
mod dispatcher;
mod fair;
mod keeper;
mod lanes;
mod layer;
mod places;
#[cfg(feature = "testing")]
pub mod test_worker;
mod wake;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use apalis::layers::WorkerBuilderExt;
use apalis_core::task::Task;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use futures_util::StreamExt;
use harkara_shared::config::QueueConcurrency;
use harkara_shared::database::DatabaseUrl;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::Service;

use crate::claim::Claimed;
use crate::engine::Engine;
use crate::lease::WorkerInfo;
use crate::verdict::Verdict;
use backend::QueueBackend;
use desk::Desk;

/// One run of a job, as its handler sees it.
#[derive(Debug, Clone)]
pub struct Run {
    /// The job.
    pub job: Claimed,
    /// Cancelled when somebody cancelled the job: the handler should end soon, with
    /// [`Verdict::Cancelled`] unless its work is done.
    pub cancel: CancellationToken,
}

/// What runs jobs: the catalogue of kinds.
pub trait Handler: Send + Sync + 'static {
    /// Runs one job and says how it went. Dropped at the job's timeout, when the worker's grace is over
    /// and when its lease is lost; told by [`Run::cancel`] when somebody cancels the job, and dropped at
    /// the timeout if it goes on all the same. A panic counts as a failure that may pass.
    fn run(&self, run: Run) -> Pin<Box<dyn Future<Output = Verdict> + Send>>;
}

/// How a worker process works.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Who it is.
    pub info: WorkerInfo,
    /// Which queues it serves, and how many jobs of each at once.
    pub queues: Vec<QueueConcurrency>,
    /// How long its claims outlive it.
    pub lease: Duration,
    /// Grace for jobs in flight when it stops; after it they go back without losing an attempt.
    pub drain: Duration,
    /// Bytes of memory that the jobs it holds may take, four times what they weigh as they are stored:
    /// those that run, wait in its hand or wait for their outcome to be written. Bounds claims beside the
    /// number of places; at least 2 MiB.
    pub memory: u64,
    /// Where to LISTEN, when not on the engine's own pool (PgBouncer).
    pub listen_url: Option<DatabaseUrl>,
}

/// How long handlers that were told to go may keep the worker from stopping.
const LAST_RUNS: Duration = Duration::from_secs(1);

/// How long the database may take for the last outcomes.
const LAST_OUTCOMES: Duration = Duration::from_secs(4);

/// How long it may take to close the lease.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A part of a worker ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker stopped because its {part} ended by itself")]
pub struct WorkerStopped {
    part: &'static str,
}

/// A worker, ready to run.
pub struct Worker {
    engine: Engine,
    options: WorkerOptions,
    handler: Arc<dyn Handler>,
    poll: Duration,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker that runs `handler` on what it claims.
    pub fn new(engine: Engine, options: WorkerOptions, handler: Arc<dyn Handler>) -> Self {
        Self {
            engine,
            options,
            handler,
            poll: clock::POLL,
        }
    }

    /// Works until `stop` is cancelled, then drains: nothing more is claimed, runs in flight may
    /// finish within the grace, the rest goes back untouched, and the lease is closed. Ends within
    /// the grace and a few seconds whatever the database does. Dropped instead, it dies as a killed
    /// process does: its lease is left to expire.
    ///
    /// # Errors
    /// [`WorkerStopped`] when a part of the worker ended by itself, which is a bug. The worker has drained
    /// as after a stop; a process should end then and be started again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkerStopped> {
        // The worker also stops itself, when a part of it has ended.
        let stop = stop.child_token();
        let (desk, desk_ends) = Desk::new(self.engine.clone(), &self.options, self.poll);
        let desk = Arc::new(desk);
        // Background parts outlive `stop`: runs in flight need their lease renewed, their cancels
        // heard and their endings written. All of them end with this future.
        let idle = CancellationToken::new();
        let keeper = keeper::run(Arc::clone(&desk), self.options.clone(), idle.clone());
        let mut keeper = AbortOnDropHandle::new(tokio::spawn(keeper));
        let completer = completer::run(Arc::clone(&desk), desk_ends.endings);
        let mut completer = AbortOnDropHandle::new(tokio::spawn(completer));
        let mut aside = JoinSet::new();
        aside.spawn(clock::run(Arc::clone(&desk), idle.clone()));
        aside.spawn(keeper::rescue(
            Arc::clone(&desk),
            self.options.lease,
            idle.clone(),
        ));
        if self.engine.notify() {
            let listen_url = self.options.listen_url.clone();
            aside.spawn(wake::run(Arc::clone(&desk), listen_url, idle.clone()));
        }

        let mut lines = JoinSet::new();
        for (queue, tasks) in self.options.queues.iter().zip(desk_ends.tasks) {
            let line = Line {
                queue: queue.clone(),
                backend: QueueBackend::new(tasks, Arc::clone(&desk)),
                handler: Arc::clone(&self.handler),
            };
            lines.spawn(line.run(stop.clone()));
        }
        let dispatcher = dispatcher::run(Arc::clone(&desk), desk_ends.senders, stop.clone());
        let mut dispatcher = AbortOnDropHandle::new(tokio::spawn(dispatcher));
        let ended_early = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            _ = &mut keeper => Some("keeper"),
            _ = &mut completer => Some("completer"),
            _ = &mut dispatcher => Some("dispatcher"),
            Some(_) = aside.join_next() => Some("clock, rescue or wake"),
            Some(_) = lines.join_next() => Some("line of a queue"),
        };
        if let Some(part) = ended_early {
            tracing::error!(part, "a part of the worker ended by itself: stopping");
            stop.cancel();
        }
        if ended_early != Some("dispatcher") {
            dispatcher.await.ok();
        }

        if tokio::time::timeout(self.options.drain, ended(&mut lines))
            .await
            .is_err()
        {
            tracing::warn!(
                jobs = desk.in_hand(),
                "grace is over: putting jobs in flight back"
            );
            desk.grace_over.cancel();
            if tokio::time::timeout(LAST_RUNS, ended(&mut lines))
                .await
                .is_err()
            {
                tracing::error!(
                    jobs = desk.in_hand(),
                    "handlers block their thread: leaving them"
                );
            }
        }
        desk.close_endings();
        // The endings are on their way; a database that is gone must not hold the process. What
        // could not be written is rescued when the lease expires.
        let written = async {
            if ended_early != Some("completer") {
                completer.await.ok();
            }
        };
        if tokio::time::timeout(LAST_OUTCOMES, written).await.is_err() {
            tracing::warn!(
                "the database did not take the last outcomes: their jobs will run again"
            );
        }
        idle.cancel();
        let closing = async {
            if ended_early != Some("keeper")
                && let Ok(Some(lease)) = keeper.await
            {
                self.engine.close_lease(lease).await.ok();
            }
        };
        tokio::time::timeout(LAST_WORDS, closing).await.ok();
        ended_early.map_or(Ok(()), |part| Err(WorkerStopped { part }))
    }
}

/// Waits until all lines have ended.
async fn ended(lines: &mut JoinSet<()>) {
    while lines.join_next().await.is_some() {}
}

/// The handler as the service apalis calls.
struct HandlerService(Arc<dyn Handler>);

impl Service<Task<Run>> for HandlerService {
    type Response = Verdict;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Verdict, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Run>) -> Self::Future {
        let (run, _) = task.take();
        // Called inside the future, so that a panic before the handler's first await is caught too.
        let handler = Arc::clone(&self.0);
        Box::pin(async move { Ok(handler.run(run).await) })
    }
}

/// One queue's apalis worker.
struct Line {
    queue: QueueConcurrency,
    backend: QueueBackend,
    handler: Arc<dyn Handler>,
}

impl Line {
    async fn run(self, stop: CancellationToken) {
        let concurrency = usize::try_from(self.queue.concurrency).unwrap_or(usize::MAX);
        let context = WorkerContext::new(&self.queue.queue);
        let worker = WorkerBuilder::new(context.clone())
            .backend(self.backend)
            .concurrency(concurrency)
            .build(HandlerService(self.handler));
        let mut events = std::pin::pin!(worker.stream());
        let mut stopping = false;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    None => break,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        tracing::error!(queue = self.queue.queue, %error, "the queue's worker failed");
                    }
                },
                () = stop.cancelled(), if !stopping => {
                    // Refused only before the first event, and then asked again.
                    stopping = context.stop().is_ok();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
