//! Starts the parts of a worker, waits for a stop, and drains.
//!
//! A worker does not end because a statement failed, and does not wait for the database when it stops.

use std::sync::Arc;
use std::time::Duration;

use apalis::layers::WorkerBuilderExt;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use futures_util::StreamExt;
use harkara_shared::config::QueueConcurrency;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::backend::QueueBackend;
use super::handler::{Handler, HandlerService};
use super::options::WorkerOptions;
use super::worker_state::WorkerState;
use super::{completer, dispatcher, due_poller, lease_keeper, listener, rescuer};
use crate::engine::Engine;

/// How long to wait after the drain time for handlers to be dropped, when their runs have been put back.
const PUT_BACK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait for the last outcomes to be written.
const LAST_OUTCOMES_TIMEOUT: Duration = Duration::from_secs(4);

/// How long to wait for the lease to be closed.
const CLOSE_LEASE_TIMEOUT: Duration = Duration::from_secs(1);

const LEASE_KEEPER: &str = "lease keeper";
const COMPLETER: &str = "completer";
const DISPATCHER: &str = "dispatcher";
const BACKGROUND_TASK: &str = "due poller, rescuer or listener";
const QUEUE_WORKER: &str = "queue worker";

/// The worker stopped because one of its parts ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker stopped because its {part} ended by itself")]
pub struct WorkerStopped {
    part: &'static str,
}

/// A worker that has not been started.
pub struct Worker {
    engine: Engine,
    options: WorkerOptions,
    handler: Arc<dyn Handler>,
    poll_interval: Duration,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// Creates a worker that runs claimed jobs with `handler`.
    pub fn new(engine: Engine, options: WorkerOptions, handler: Arc<dyn Handler>) -> Self {
        Self {
            engine,
            options,
            handler,
            poll_interval: due_poller::POLL_INTERVAL,
        }
    }

    /// Works until `stop` is cancelled, then drains: claims nothing more, lets running jobs finish
    /// within the drain time, puts the others back without using an attempt, and closes the lease. Returns
    /// within the drain time and a few seconds even if the database does not respond. If the future is
    /// dropped instead, the worker ends like a killed process, and its lease expires.
    ///
    /// # Errors
    /// [`WorkerStopped`] if a part of the worker ended by itself, which is a bug. The worker has drained
    /// as after a stop; the process should exit and be restarted.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkerStopped> {
        // A child token, because the worker also stops itself when a part of it has ended.
        let stop = stop.child_token();
        let (state, channels) =
            WorkerState::new(self.engine.clone(), &self.options, self.poll_interval);
        let state = Arc::new(state);
        // Background parts outlive `stop`: running jobs need their lease renewed, their cancellations
        // signalled and their outcomes written. All parts end when this future is dropped.
        let drained = CancellationToken::new();
        let lease_keeper =
            lease_keeper::keep_lease(Arc::clone(&state), self.options.clone(), drained.clone());
        let mut lease_keeper = AbortOnDropHandle::new(tokio::spawn(lease_keeper));
        let completer = completer::write_outcomes(Arc::clone(&state), channels.finished_runs);
        let mut completer = AbortOnDropHandle::new(tokio::spawn(completer));
        let mut background_tasks = self.spawn_background_tasks(&state, &drained);
        let mut queue_workers = JoinSet::new();
        for (queue, tasks) in self.options.queues.iter().zip(channels.task_receivers) {
            let queue_worker = QueueWorker {
                queue: queue.clone(),
                backend: QueueBackend::new(tasks, Arc::clone(&state)),
                handler: Arc::clone(&self.handler),
            };
            queue_workers.spawn(queue_worker.run(stop.clone()));
        }
        let dispatcher = dispatcher::dispatch_until_stop(
            Arc::clone(&state),
            channels.task_senders,
            stop.clone(),
        );
        let mut dispatcher = AbortOnDropHandle::new(tokio::spawn(dispatcher));

        let ended_part = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            _ = &mut lease_keeper => Some(LEASE_KEEPER),
            _ = &mut completer => Some(COMPLETER),
            _ = &mut dispatcher => Some(DISPATCHER),
            Some(_) = background_tasks.join_next() => Some(BACKGROUND_TASK),
            Some(_) = queue_workers.join_next() => Some(QUEUE_WORKER),
        };
        if let Some(part) = ended_part {
            tracing::error!(
                part,
                "a part of the worker ended by itself; stopping the worker"
            );
            stop.cancel();
        }
        if ended_part != Some(DISPATCHER) {
            // The dispatcher stops claiming within a second or two.
            dispatcher.await.ok();
        }
        self.drain(&state, &mut queue_workers).await;
        state.close_outcomes();
        // An unavailable database must not keep the process from ending. Jobs whose outcomes are not
        // written are rescued when the lease expires.
        let last_outcomes = async {
            if ended_part != Some(COMPLETER) {
                completer.await.ok();
            }
        };
        if tokio::time::timeout(LAST_OUTCOMES_TIMEOUT, last_outcomes)
            .await
            .is_err()
        {
            tracing::warn!("could not write the last outcomes; their jobs will run again");
        }
        drained.cancel();
        let close_lease = async {
            if ended_part != Some(LEASE_KEEPER)
                && let Ok(Some(lease)) = lease_keeper.await
                && let Err(error) = self.engine.close_lease(lease).await
            {
                tracing::warn!(%error, lease.id = lease, "could not close the lease; it will expire");
            }
        };
        tokio::time::timeout(CLOSE_LEASE_TIMEOUT, close_lease)
            .await
            .ok();
        ended_part.map_or(Ok(()), |part| Err(WorkerStopped { part }))
    }

    fn spawn_background_tasks(
        &self,
        state: &Arc<WorkerState>,
        stop: &CancellationToken,
    ) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(due_poller::poll_periodically(
            Arc::clone(state),
            stop.clone(),
        ));
        tasks.spawn(rescuer::rescue_periodically(
            Arc::clone(state),
            self.options.lease,
            stop.clone(),
        ));
        if self.engine.notify() {
            tasks.spawn(listener::listen_until_stop(
                Arc::clone(state),
                self.options.listen_url.clone(),
                stop.clone(),
            ));
        }
        tasks
    }

    /// Waits for running jobs within the drain time, then puts them back.
    async fn drain(&self, state: &WorkerState, queue_workers: &mut JoinSet<()>) {
        if tokio::time::timeout(self.options.drain, join_all(queue_workers))
            .await
            .is_ok()
        {
            return;
        }
        tracing::warn!(
            jobs = state.held_jobs(),
            "drain time is over; putting jobs in flight back"
        );
        state.drain_expired.cancel();
        if tokio::time::timeout(PUT_BACK_TIMEOUT, join_all(queue_workers))
            .await
            .is_err()
        {
            tracing::error!(
                jobs = state.held_jobs(),
                "handlers block their threads; stopping without them"
            );
        }
    }
}

/// Waits until all tasks have ended.
async fn join_all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// The apalis worker of one queue.
struct QueueWorker {
    queue: QueueConcurrency,
    backend: QueueBackend,
    handler: Arc<dyn Handler>,
}

impl QueueWorker {
    async fn run(self, stop: CancellationToken) {
        let concurrency = usize::try_from(self.queue.concurrency).unwrap_or(usize::MAX);
        let context = WorkerContext::new(&self.queue.queue);
        let worker = WorkerBuilder::new(context.clone())
            .backend(self.backend)
            .concurrency(concurrency)
            .build(HandlerService(self.handler));
        let mut events = std::pin::pin!(worker.stream());
        let mut is_stopping = false;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    None => break,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        tracing::error!(queue = self.queue.queue, %error, "apalis reported an error");
                    }
                },
                () = stop.cancelled(), if !is_stopping => {
                    // apalis refuses to stop before its first event; the loop then calls `stop` again.
                    is_stopping = context.stop().is_ok();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
