//! Listens for database notifications and turns them into wake signals and cancellations.
//!
//! Notifications only save time: if one is lost, the next poll finds the same change in the database.

use std::sync::Arc;
use std::time::Duration;

use harkara_shared::database::DatabaseUrl;
use harkara_shared::id::JobId;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use super::worker_state::WorkerState;

/// The notification channel. Its payloads are:
/// - `q:<queues>`: these queues have new ready jobs.
/// - `s:<queues>`: these queues have new jobs that are due soon.
/// - `o:<queues>`: limits or pauses changed in these queues.
/// - `c:<job>`: this job is being cancelled.
const CHANNEL: &str = "harkara";

/// Pause before reconnecting.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Listens until `stop` is cancelled, reconnecting as often as necessary.
pub(super) async fn listen_until_stop(
    state: Arc<WorkerState>,
    listen_url: Option<DatabaseUrl>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        if let Err(error) = listen(&state, listen_url.as_ref()).await {
            tracing::debug!(%error, "not listening for notifications; polling until reconnected");
        }
        tokio::select! {
            () = tokio::time::sleep(RECONNECT_PAUSE) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn listen(state: &WorkerState, listen_url: Option<&DatabaseUrl>) -> Result<(), sqlx::Error> {
    let mut listener = match listen_url {
        Some(url) => PgListener::connect(url.as_str()).await?,
        None => PgListener::connect_with(state.engine.pool()).await?,
    };
    listener.listen(CHANNEL).await?;
    loop {
        // Notifications sent before the connection was made, or while it was lost, have been missed.
        state.wake.signal_all();
        while let Some(notification) = listener.try_recv().await? {
            handle_notification(state, notification.payload());
        }
    }
}

fn handle_notification(state: &WorkerState, payload: &str) {
    match payload.split_once(':') {
        Some(("c", job)) => match job.parse() {
            Ok(job) => state.cancel_runs(&[JobId::from_i64(job)]),
            Err(error) => {
                tracing::warn!(%error, payload, "ignored a notification with an invalid job id");
            }
        },
        Some(("s", _)) => state.wake.signal_due_soon(),
        Some(("o", _)) => state.wake.signal_lanes_opened(),
        _ => state.wake.signal_new_work(),
    }
}
