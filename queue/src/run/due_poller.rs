//! Polls the database for due and cancelled jobs.
//!
//! Each poll makes due jobs ready, wakes the dispatcher, and signals cancellations whose notifications were
//! lost. Before each poll, runs that exceeded their timeout are given up, and prefetched jobs that have
//! waited too long for a slot are put back. Polling continues until the last run has ended.

use std::sync::Arc;
use std::time::Duration;

use harkara_shared::telemetry::metric;
use rand::RngExt;
use tokio_util::sync::CancellationToken;

use super::worker_state::WorkerState;

/// Maximum time between two polls, and so the delay of a job whose notification is lost.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Minimum time between two polls, so that jobs due shortly after one another cost few polls.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Polls until `stop` is cancelled.
pub(super) async fn poll_periodically(state: Arc<WorkerState>, stop: CancellationToken) {
    loop {
        state.put_back_stuck_jobs();
        state.give_up_overdue_runs();
        let pause = poll(&state).await;
        let early_poll = async {
            state.wake.wait_for_due_poller_signal().await;
            tokio::time::sleep(MIN_POLL_INTERVAL).await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = early_poll => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Polls once and returns how long to wait before the next poll.
async fn poll(state: &WorkerState) -> Duration {
    // Jitter, so that workers started together do not poll together.
    let interval = state
        .poll_interval
        .mul_f64(rand::rng().random_range(0.75..1.0));
    let Some(lease) = state.lease.id() else {
        return interval;
    };
    match state.engine.heartbeat(lease).await {
        Ok(heartbeat) => {
            state.cancel_runs(&heartbeat.cancelling);
            state.wake.signal_new_work();
            heartbeat
                .next_due
                .unwrap_or(interval)
                .clamp(Duration::from_millis(1), interval)
        }
        Err(error) => {
            metrics::counter!(metric::ENGINE_RETRIES, "statement" => "pulse").increment(1);
            tracing::warn!(%error, "could not poll for due jobs; will try again");
            interval
        }
    }
}
