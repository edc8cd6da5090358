//! An apalis backend that reads the claimed jobs of one queue from a channel.
//!
//! Never returns an error, because an error would end the apalis worker for good. Acknowledges nothing: the
//! run layer reports outcomes, so closing the backend waits for no acknowledgement.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::worker::context::WorkerContext;
use tokio::sync::mpsc;

use super::handler::Run;
use super::run_layer::RunLayer;
use super::worker_state::WorkerState;
use crate::verdict::RunOutcome;

/// The claimed jobs of one queue.
pub(super) struct QueueBackend {
    tasks: mpsc::UnboundedReceiver<Task<Run>>,
    state: Arc<WorkerState>,
}

impl QueueBackend {
    pub(super) fn new(tasks: mpsc::UnboundedReceiver<Task<Run>>, state: Arc<WorkerState>) -> Self {
        Self { tasks, state }
    }
}

impl Backend for QueueBackend {
    type Task = Task<Run>;
    type Error = Infallible;

    fn poll_ready(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Run>, Infallible>>> {
        match self.tasks.poll_recv(cx) {
            Poll::Ready(Some(task)) => Poll::Ready(Some(Ok(task))),
            // The channel closes when the worker stops. On `None`, apalis would wait for a stop signal
            // that it has already received; pending, it is woken by its own stop.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Puts back jobs that apalis has not started.
    fn poll_close(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        self.tasks.close();
        while let Ok(task) = self.tasks.try_recv() {
            let (run, _) = task.take();
            self.state
                .finish_run(run.job, Some(RunOutcome::PutBack), None);
        }
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for QueueBackend {
    type Args = Run;
    type Id = String;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = RunLayer;

    fn config(&self) -> &Self::Config {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> RunLayer {
        RunLayer::new(Arc::clone(&self.state))
    }
}
