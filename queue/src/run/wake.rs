//! Room: the worker's ear.
//! Takes: notifications. Gives: wake-ups and cancels to the desk. Never: is needed: whatever a lost
//! notification said, the next pulse finds.

use std::sync::Arc;
use std::time::Duration;

use harkara_shared::database::DatabaseUrl;
use harkara_shared::id::JobId;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;

/// The one channel: `q:<queues>` have work, `s:<queues>` soon will have, `o:<queues>` have other limits,
/// `c:<job>` is cancelled.
const CHANNEL: &str = "harkara";

/// Listens until `idle`, reconnecting for as long as it takes.
pub(super) async fn run(desk: Arc<Desk>, listen_url: Option<DatabaseUrl>, idle: CancellationToken) {
    while !idle.is_cancelled() {
        if let Err(error) = listen(&desk, listen_url.as_ref()).await {
            tracing::debug!(%error, "not listening: polling meanwhile");
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = idle.cancelled() => {}
        }
    }
}

async fn listen(desk: &Desk, listen_url: Option<&DatabaseUrl>) -> Result<(), sqlx::Error> {
    let mut listener = match listen_url {
        Some(url) => PgListener::connect(url.as_str()).await?,
        None => PgListener::connect_with(desk.engine.pool()).await?,
    };
    listener.listen(CHANNEL).await?;
    loop {
        // Whatever was said while nobody listened is found by looking once.
        desk.look();
        while let Some(notification) = listener.try_recv().await? {
            hear(desk, notification.payload());
        }
    }
}

fn hear(desk: &Desk, said: &str) {
    match said.split_once(':') {
        Some(("c", job)) => {
            if let Ok(job) = job.parse() {
                desk.cancel(&[JobId::from_i64(job)]);
            }
        }
        Some(("s", _)) => desk.due.notify_one(),
        Some(("o", _)) => desk.tell_opened(),
        _ => desk.tell_news(),
    }
}
