//! Room: the worker's clock.
//! Takes: due times. Gives: due jobs made ready, a look for work at least once a poll, and cancels
//! that no notification brought. Never: claims, and never stops before the last run has.

use std::sync::Arc;
use std::time::Duration;

use harkara_shared::telemetry::metric;
use rand::RngExt;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;

/// The backstop where no notification comes.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// Time between two ticks, however many jobs are posted for moments close by.
const GAP: Duration = Duration::from_millis(5);

/// Ticks until `idle`.
pub(super) async fn run(desk: Arc<Desk>, idle: CancellationToken) {
    loop {
        desk.put_back_stuck();
        desk.give_up_overdue();
        let wait = tick(&desk).await;
        let told = async {
            desk.due.notified().await;
            tokio::time::sleep(GAP).await;
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = told => {}
            () = idle.cancelled() => return,
        }
    }
}

/// One pulse; answers how long the next one may wait.
async fn tick(desk: &Desk) -> Duration {
    // Workers started together should not ask together.
    let poll = desk.poll.mul_f64(rand::rng().random_range(0.75..1.0));
    let Some(lease) = desk.lease() else {
        return poll;
    };
    match desk.engine.pulse(lease).await {
        Ok(pulse) => {
            desk.cancel(&pulse.cancelling);
            desk.tell_news();
            pulse
                .next_due
                .unwrap_or(poll)
                .clamp(Duration::from_millis(1), poll)
        }
        Err(error) => {
            metrics::counter!(metric::ENGINE_RETRIES, "statement" => "pulse").increment(1);
            tracing::warn!(%error, "cannot promote what is due: trying again");
            poll
        }
    }
}
