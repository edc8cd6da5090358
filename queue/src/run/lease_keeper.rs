//! Keeps a worker's lease: opens and renews it, and gives it up when it cannot be renewed in time.
//!
//! A lease is the right to run the jobs claimed under it; when the lease expires, other workers take over
//! these jobs. No run continues under a lease that may have expired. Jobs of other workers are rescued in
//! another task, so that a renewal never waits for a rescue.

use std::sync::Arc;
use std::time::Duration;

use harkara_shared::telemetry::metric;
use rand::RngExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::options::WorkerOptions;
use super::worker_state::WorkerState;

/// Maximum pause before another attempt to open a lease.
const MAX_OPEN_RETRY: Duration = Duration::from_secs(1);

/// Minimum pause before another attempt to renew a lease.
const MIN_RENEW_RETRY: Duration = Duration::from_millis(20);

/// Holds a lease until `stop` is cancelled. Returns the lease that is held at that time, if any.
pub(super) async fn keep_lease(
    state: Arc<WorkerState>,
    options: WorkerOptions,
    stop: CancellationToken,
) -> Option<i64> {
    // A third of the lease: two renewals can fail before it is lost.
    let renew_interval = options.lease / 3;
    while !stop.is_cancelled() {
        let requested_at = Instant::now();
        match state.engine.open_lease(&options.info, options.lease).await {
            Ok(lease) => {
                state.set_lease(lease);
                if renew_until_stop(&state, lease, options.lease, requested_at, &stop).await {
                    return Some(lease);
                }
                state.lease.mark_lost();
                metrics::counter!(metric::LEASES_LOST).increment(1);
                tracing::warn!(
                    lease,
                    "lost the lease; other workers will take over its jobs"
                );
            }
            Err(error) => {
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "open_lease").increment(1);
                tracing::warn!(%error, "could not open a lease; will try again");
                sleep_unless_stopped(renew_interval.min(MAX_OPEN_RETRY), &stop).await;
            }
        }
    }
    None
}

/// Renews `lease` until `stop` is cancelled (returns true) or the lease is lost (returns false).
async fn renew_until_stop(
    state: &WorkerState,
    lease: i64,
    length: Duration,
    opened_at: Instant,
    stop: &CancellationToken,
) -> bool {
    let renew_interval = length / 3;
    let mut valid_until = opened_at + length;
    let mut retry_in: Option<Duration> = None;
    loop {
        // Jitter, so that workers started together do not renew together.
        let pause =
            retry_in.unwrap_or_else(|| renew_interval.mul_f64(rand::rng().random_range(0.8..1.0)));
        sleep_unless_stopped(pause, stop).await;
        if stop.is_cancelled() {
            return true;
        }
        let requested_at = Instant::now();
        let time_left = valid_until.saturating_duration_since(requested_at);
        match tokio::time::timeout(time_left, state.engine.renew_lease(lease, length)).await {
            Ok(Ok(true)) => {
                valid_until = requested_at + length;
                retry_in = None;
            }
            Ok(Ok(false)) | Err(_) => return false,
            Ok(Err(error)) => {
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "renew_lease")
                    .increment(1);
                tracing::warn!(%error, lease.id = lease, "could not renew the lease; will try again");
                retry_in = Some((renew_interval / 10).max(MIN_RENEW_RETRY));
            }
        }
    }
}

async fn sleep_unless_stopped(length: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(length) => {}
        () = stop.cancelled() => {}
    }
}
