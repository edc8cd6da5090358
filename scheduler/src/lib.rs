//! The scheduler process: enqueues the jobs of schedules. Any number of schedulers run; one leads.
//!
//! Each slot of a schedule becomes one job. A scheduler never runs jobs, and never enqueues without proving
//! its leadership in the same transaction.

mod leader;
mod schedule;
mod tick;

use std::time::Duration;

use anyhow::Context;
use harkara_queue::Engine;
use harkara_shared::config::{Needed, Settings};
use harkara_shared::database;
use harkara_shared::process::{self, DATABASE_START_TIMEOUT, Readiness};
use harkara_shared::telemetry::{Metrics, metric};
use tokio_util::sync::CancellationToken;

use leader::Candidate;

/// The longest time between two searches for due schedules.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The shortest time between two searches for due schedules.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Settings that [`run`] requires.
pub const NEEDED: &[Needed] = &[Needed::Database];

/// Runs the process until it is stopped.
///
/// # Errors
/// For missing settings, a database that is not reachable in time or has an incompatible schema, or an
/// address in use.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let database = settings.database.clone().context("DATABASE_URL")?;
    let stop = process::stop_on_signal()?;
    let _metrics = Metrics::global();
    let pool = database::pool(&database, "harkara-scheduler")?;
    let listener = process::bind(settings.scheduler_addr).await?;
    tracing::info!(addr = %settings.scheduler_addr, "harkara-scheduler started");
    let readiness = Readiness::for_database(pool.clone(), stop.clone());
    let serving = tokio::spawn(process::serve_health(listener, readiness, stop.clone()));
    let ready = async {
        database::wait_until_reachable(&pool, DATABASE_START_TIMEOUT).await?;
        database::check_schema(&pool).await
    };
    tokio::select! {
        ready = ready => ready?,
        () = stop.cancelled() => return Ok(()),
    }
    schedule(Engine::new(pool.clone(), settings.notify), stop).await;
    serving.await??;
    database::close(&pool).await;
    tracing::info!("harkara-scheduler stopped");
    Ok(())
}

/// Schedules until `stop`, then releases the lead. While the database is unavailable, it retries.
pub async fn schedule(engine: Engine, stop: CancellationToken) {
    let candidate = Candidate::new(engine.pool().clone());
    while !stop.is_cancelled() {
        let result = tokio::select! {
            result = run_once(&engine, &candidate) => result,
            // Enqueueing a slot is one transaction: dropping it rolls it back.
            () = stop.cancelled() => break,
        };
        let wait = match result {
            Ok(wait) => wait,
            Err(error) => {
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "schedule").increment(1);
                tracing::warn!(%error, "could not schedule; retrying");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => {}
        }
    }
    // The next leader need not wait for the lease to expire.
    tokio::time::timeout(Duration::from_secs(2), candidate.resign())
        .await
        .ok();
}

/// Acquires the lead if possible, enqueues due slots, and returns how long to wait.
async fn run_once(engine: &Engine, candidate: &Candidate) -> Result<Duration, schedule::Error> {
    let Some(term) = candidate.acquire_lead().await? else {
        metrics::gauge!(metric::SCHEDULER_LEADS).set(0.0);
        return Ok(MAX_POLL_INTERVAL);
    };
    metrics::gauge!(metric::SCHEDULER_LEADS).set(1.0);
    for id in schedule::due_schedules(engine.pool()).await? {
        schedule::emit_slot(engine, candidate, term, id).await?;
    }
    let next = schedule::time_to_next_slot(engine.pool()).await?;
    Ok(next
        .unwrap_or(MAX_POLL_INTERVAL)
        .clamp(MIN_POLL_INTERVAL, MAX_POLL_INTERVAL))
}
