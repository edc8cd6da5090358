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
    /// The queues to claim from, and how many jobs of each run at once.
    pub queues: Vec<QueueConcurrency>,
    /// Length of the lease. A killed worker keeps its jobs until the lease expires; then other workers
    /// rescue them.
    pub lease: Duration,
    /// How long running jobs may continue after a stop. Jobs that run longer are put back without
    /// using an attempt.
    pub drain: Duration,
    /// Memory for claimed jobs, in bytes: jobs that run, wait for a slot or have an unwritten outcome. A
    /// job counts with four times its stored size. Limits claims in addition to the concurrency of the
    /// queues. Values below 2 MiB count as 2 MiB.
    pub memory: u64,
    /// The database to LISTEN on. `None` uses the engine's pool, which cannot LISTEN through PgBouncer in
    /// transaction mode.
    pub listen_url: Option<DatabaseUrl>,
}
