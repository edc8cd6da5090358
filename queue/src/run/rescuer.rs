//! Regularly rescues the jobs of workers whose lease has expired.
//!
//! Such a worker was killed or has lost its connection to the database. The jobs it held become ready again,
//! or dead if they have no attempt left.

use std::sync::Arc;
use std::time::Duration;

use harkara_shared::telemetry::metric;
use rand::RngExt;
use tokio_util::sync::CancellationToken;

use super::worker_state::WorkerState;

/// Rescues jobs about three times in each period of length `lease`, until `stop` is cancelled.
pub(super) async fn rescue_periodically(
    state: Arc<WorkerState>,
    lease: Duration,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        match state.engine.rescue().await {
            Ok(rescued) if rescued.jobs > 0 => state.wake.signal_new_work(),
            Ok(_) => {}
            Err(error) => {
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "rescue").increment(1);
                tracing::warn!(%error, "could not rescue jobs of lost workers; will try again");
            }
        }
        // Jitter, so that workers started together do not rescue together.
        let pause = (lease / 3).mul_f64(rand::rng().random_range(0.8..1.0));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}
