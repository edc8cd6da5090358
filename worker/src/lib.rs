//! The worker process: claims jobs and runs them with the catalogue of kinds.
//!
//! The process serves only its own health and metrics.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use harkara_jobs::Services;
use harkara_jobs::catalogue::Catalogue;
use harkara_jobs::publish::publish;
use harkara_queue::{Engine, Worker, WorkerInfo, WorkerOptions, WorkerStopped};
use harkara_shared::config::{Needed, QueueConcurrency, Settings};
use harkara_shared::database::{self, DatabaseSettings};
use harkara_shared::egress::Egress;
use harkara_shared::id::WorkerId;
use harkara_shared::process::{self, DATABASE_START_TIMEOUT, Readiness};
use harkara_shared::telemetry::Metrics;
use harkara_webhooks::DeliveryBatcher;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

/// Settings that [`run`] requires.
pub const NEEDED: &[Needed] = &[Needed::Database, Needed::MasterKey];

/// Runs the process until it is stopped and drained.
///
/// # Errors
/// For missing settings, a database that is not reachable in time or has an incompatible schema, or an
/// address in use.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let database = settings.database.clone().context("DATABASE_URL")?;
    let keys = settings.master_keys.clone().context("HARKARA_MASTER_KEY")?;
    let stop = process::stop_on_signal()?;
    let _metrics = Metrics::global();
    let pool = database::pool(&database, "harkara-worker")?;
    let listener = process::bind(settings.worker_addr).await?;
    tracing::info!(addr = %settings.worker_addr, "harkara-worker started");
    // Health is served from the start: a process that waits for its database is alive but not ready.
    let health = CancellationToken::new();
    let readiness = Readiness::for_database(pool.clone(), stop.clone());
    let serving = tokio::spawn(process::serve_health(listener, readiness, health.clone()));
    let ready = async {
        database::wait_until_reachable(&pool, DATABASE_START_TIMEOUT).await?;
        database::check_schema(&pool).await
    };
    tokio::select! {
        ready = ready => ready?,
        () = stop.cancelled() => return Ok(()),
    }
    let engine = engine(&settings, &database)?;
    let services = harkara_kind::Services {
        engine,
        pool: pool.clone(),
        keys,
        egress: Egress::new(settings.egress_allow.clone())?,
        blobs: settings.blobs(),
    };
    let engine_pool = services.engine.pool().clone();
    let worked = work(&settings, services, stop).await;
    health.cancel();
    serving.await??;
    database::close(&engine_pool).await;
    database::close(&pool).await;
    worked?;
    tracing::info!("harkara-worker stopped");
    Ok(())
}

/// Connections of a worker's engine: lease, claims, settlements, due jobs, rescue, notifications, and one
/// or two spare ones. The engine has its own pool, so that handlers cannot block the renewal of the lease.
const ENGINE_CONNECTIONS: u32 = 8;

/// The engine of a worker.
///
/// # Errors
/// When the database's address cannot be parsed.
pub fn engine(settings: &Settings, database: &DatabaseSettings) -> anyhow::Result<Engine> {
    let own = DatabaseSettings {
        max_connections: ENGINE_CONNECTIONS,
        ..database.clone()
    };
    let pool = database::pool(&own, "harkara-worker-engine")?;
    Ok(Engine::new(pool, settings.notify))
}

/// Runs the worker until `stop` and the drain after it. While the database is unavailable, it retries.
///
/// # Errors
/// When a part of the worker ended unexpectedly, which is a bug.
pub async fn work(
    settings: &Settings,
    services: harkara_kind::Services,
    stop: CancellationToken,
) -> Result<(), WorkerStopped> {
    let options = WorkerOptions {
        info: worker_info(&settings.worker_queues),
        queues: settings.worker_queues.clone(),
        lease: settings.lease,
        drain: settings.drain,
        memory: settings.worker_memory,
        listen_url: settings.listen_url.clone(),
    };
    let engine = services.engine.clone();
    let deliveries = DeliveryBatcher::of_worker(
        services.pool.clone(),
        engine.clone(),
        services.keys.clone(),
        &settings.worker_queues,
    );
    let services = Services::new(services, deliveries);
    // Clients that enqueue by SQL need the published kinds. Jobs run even if this fails.
    if let Err(error) = publish(&engine).await {
        tracing::warn!(%error, "could not publish the catalogue of kinds");
    }
    Worker::new(
        engine,
        options,
        Arc::new(Catalogue::new(Arc::new(services))),
    )
    .run(stop)
    .await
}

fn worker_info(queues: &[QueueConcurrency]) -> WorkerInfo {
    let queues: Map<String, Value> = queues
        .iter()
        .map(|queue| (queue.queue.clone(), Value::from(queue.concurrency)))
        .collect();
    WorkerInfo {
        id: WorkerId::new(),
        host: gethostname::gethostname().to_string_lossy().into_owned(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        queues: Value::Object(queues),
    }
}

/// The longest time [`work`] takes to end after `stop`, in addition to the drain.
pub const STOP_MARGIN: Duration = Duration::from_secs(8);
