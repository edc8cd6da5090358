//! Room: the keeper of a worker's lease, and the rescuer of others' jobs.
//! Takes: the lease's length. Gives: a lease that is opened, renewed, and given up when it cannot
//! be. Never: lets a run go on under a lease that may have expired; never has a renewal wait for a
//! rescue.

use std::sync::Arc;
use std::time::Duration;

use harkara_shared::telemetry::metric;
use rand::RngExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::WorkerOptions;
use super::desk::Desk;

/// Keeps a lease until `idle` is cancelled, and answers the one it then holds.
pub(super) async fn run(
    desk: Arc<Desk>,
    options: WorkerOptions,
    idle: CancellationToken,
) -> Option<i64> {
    // A third of the lease: two renewals may fail before it is lost.
    let turn = options.lease / 3;
    while !idle.is_cancelled() {
        let asked = Instant::now();
        match desk.engine.open_lease(&options.info, options.lease).await {
            Ok(lease) => {
                desk.take_lease(lease);
                if keep(&desk, &options, lease, asked, &idle).await {
                    return Some(lease);
                }
                desk.lose_lease();
                metrics::counter!(metric::LEASES_LOST).increment(1);
                tracing::warn!("the lease was lost: its jobs are left to be taken by others");
            }
            Err(error) => {
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "open_lease").increment(1);
                tracing::warn!(%error, "cannot open a lease: trying again");
                pause(turn.min(Duration::from_secs(1)), &idle).await;
            }
        }
    }
    None
}

/// Takes back what dead workers held, every now and then until `idle`.
pub(super) async fn rescue(desk: Arc<Desk>, lease: Duration, idle: CancellationToken) {
    while !idle.is_cancelled() {
        match desk.engine.rescue().await {
            Ok(rescued) if rescued.jobs > 0 => desk.tell_news(),
            Ok(_) => {}
            Err(error) => {
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "rescue").increment(1);
                tracing::warn!(%error, "cannot look for dead workers: trying again");
            }
        }
        // Workers started together should not rescue together.
        let wait = (lease / 3).mul_f64(rand::rng().random_range(0.8..1.0));
        pause(wait, &idle).await;
    }
}

/// Renews `lease` until `idle` (true) or until it is lost (false).
async fn keep(
    desk: &Desk,
    options: &WorkerOptions,
    lease: i64,
    asked: Instant,
    idle: &CancellationToken,
) -> bool {
    let turn = options.lease / 3;
    let mut good_until = asked + options.lease;
    let mut retry: Option<Duration> = None;
    loop {
        // Workers started together should not renew together.
        let wait = retry.unwrap_or_else(|| turn.mul_f64(rand::rng().random_range(0.8..1.0)));
        pause(wait, idle).await;
        if idle.is_cancelled() {
            return true;
        }
        let asked = Instant::now();
        let left = good_until.saturating_duration_since(asked);
        match tokio::time::timeout(left, desk.engine.renew_lease(lease, options.lease)).await {
            Ok(Ok(true)) => {
                good_until = asked + options.lease;
                retry = None;
            }
            Ok(Ok(false)) | Err(_) => return false,
            Ok(Err(error)) => {
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "renew_lease")
                    .increment(1);
                tracing::warn!(%error, "cannot renew the lease: trying again");
                retry = Some((turn / 10).max(Duration::from_millis(20)));
            }
        }
    }
}

async fn pause(length: Duration, idle: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(length) => {}
        () = idle.cancelled() => {}
    }
}
