//! Rolls up counter deltas into totals, in the background.
//!
//! Every statement that changes jobs appends to `queue.deltas` how many jobs entered or left each
//! state, in the same transaction. A process that has done so rolls up at most once a second: it adds
//! those rows to `queue.tallies` and `queue.history` and removes them. Readers add the rows that are
//! still in `queue.deltas`, so counters are exact even when no process rolls up.
//!
//! Never delays the writers, and does nothing while no job changes.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use harkara_shared::database::query_scalar;
use harkara_shared::telemetry::metric;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// Time between two rollups of one process.
const ROLLUP_INTERVAL: Duration = Duration::from_secs(1);

/// Most rows of `queue.deltas` in one statement: about half a second of work.
const MAX_ROLLUP_ROWS: i32 = 100_000;

/// Whether this process has deltas to roll up, and the task that does it. The task ends when the
/// engine is dropped.
#[derive(Debug, Default)]
pub(crate) struct RollupState {
    scheduled: Arc<Notify>,
    task: OnceLock<AbortOnDropHandle<()>>,
}

impl RollupState {
    /// Has the deltas that this process has written, or is about to commit, rolled up soon. Only wakes
    /// a task, which is started on the first call. Must be called on a Tokio runtime.
    pub(crate) fn schedule(&self, pool: &PgPool) {
        self.scheduled.notify_one();
        self.task.get_or_init(|| {
            let task = run_rollups(pool.clone(), Arc::clone(&self.scheduled));
            AbortOnDropHandle::new(tokio::spawn(task))
        });
    }
}

async fn run_rollups(pool: PgPool, scheduled: Arc<Notify>) {
    loop {
        scheduled.notified().await;
        // The second one is for transactions that committed only after they had scheduled a rollup.
        for _ in 0..2 {
            tokio::time::sleep(ROLLUP_INTERVAL).await;
            if let Err(error) = roll_up(&pool).await {
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "fold").increment(1);
                tracing::warn!(%error, "could not roll up counters; will try again");
                scheduled.notify_one();
            }
        }
    }
}

/// Rolls up all deltas, of whichever process. Returns early while another process rolls up.
pub(crate) async fn roll_up(pool: &PgPool) -> Result<(), sqlx::Error> {
    loop {
        let rows: Option<i32> = query_scalar(include_str!("rollup/roll_up.sql"))
            .bind(MAX_ROLLUP_ROWS)
            .fetch_one(pool)
            .await?;
        if rows.is_none_or(|rows| rows < MAX_ROLLUP_ROWS) {
            return Ok(());
        }
    }
}
