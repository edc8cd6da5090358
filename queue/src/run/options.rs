//! The settings of a worker process.

use std::time::Duration;

use harkara_shared::config::QueueConcurrency;
use harkara_shared::database::DatabaseUrl;

use crate::lease::WorkerInfo;

/// The settings of a worker process.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// How the worker describes itself in the list of workers.
    pub info: WorkerInfo,
    /// The served queues and how many jobs of each run at once.
    pub queues: Vec<QueueConcurrency>,
    /// Length of the lease: how long its claims outlive a killed worker.
    pub lease: Duration,
    /// How long running jobs may continue after a stop. Jobs that run longer are put back without
    /// using an attempt.
    pub drain: Duration,
    /// Memory for the jobs that the worker holds, in bytes: those running, waiting for a slot or
    /// waiting for their outcome to be written. A job takes four times its stored size. Limits claims in
    /// addition to the queues' concurrency; at least 2 MiB.
    pub memory: u64,
    /// The database to LISTEN on, if not through the engine's pool: PgBouncer in transaction mode
    /// cannot LISTEN.
    pub listen_url: Option<DatabaseUrl>,
}
