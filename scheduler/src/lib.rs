//! The scheduler process: emits periodic jobs. Any number may run; one leads.
//!
//! Takes: schedules. Gives: one job a slot. Never: runs a job, and never emits on a leadership it
//! cannot prove inside the transaction of the emission.

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

/// How often a leader looks for due schedules when it knows of none sooner.
const LOOK: Duration = Duration::from_secs(5);

/// What [`run`] cannot do without.
pub const NEEDED: &[Needed] = &[Needed::Database];

/// What the binary does, from settings to its end.
///
/// # Errors
/// For missing settings, a database that does not come within its time or has another release's
/// schema, an address that is taken.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let database = settings.database.clone().context("DATABASE_URL")?;
    let stop = process::stop_on_signal()?;
    let _metrics = Metrics::global();
    let pool = database::pool(&database, "harkara-scheduler")?;
    let listener = process::bind(settings.scheduler_addr).await?;
    tracing::info!(addr = %settings.scheduler_addr, "harkara-scheduler starts");
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
    tracing::info!("harkara-scheduler has stopped");
    Ok(())
}

/// Schedules until `stop`, then gives the leadership up. A database that goes away is waited for.
pub async fn schedule(engine: Engine, stop: CancellationToken) {
    let candidate = Candidate::new(engine.pool().clone());
    while !stop.is_cancelled() {
        let turned = tokio::select! {
            turned = turn(&engine, &candidate) => turned,
            // An emission is one transaction: dropped, it has not happened.
            () = stop.cancelled() => break,
        };
        let wait = match turned {
            Ok(wait) => wait,
            Err(error) => {
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "schedule").increment(1);
                tracing::warn!(%error, "cannot schedule: trying again");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => {}
        }
    }
    // A successor need not wait for the lease to run out.
    tokio::time::timeout(Duration::from_secs(2), candidate.resign())
        .await
        .ok();
}

/// One turn of a scheduler: leads if it can, emits what is due, and answers how long to rest.
async fn turn(engine: &Engine, candidate: &Candidate) -> Result<Duration, schedule::Error> {
    let Some(term) = candidate.lead().await? else {
        metrics::gauge!(metric::SCHEDULER_LEADS).set(0.0);
        return Ok(LOOK);
    };
    metrics::gauge!(metric::SCHEDULER_LEADS).set(1.0);
    for id in schedule::due(engine.pool()).await? {
        schedule::emit(engine, candidate, term, id).await?;
    }
    let next = schedule::next_due(engine.pool()).await?;
    Ok(next.unwrap_or(LOOK).clamp(Duration::from_millis(10), LOOK))
}
