//! Room: the API's process.
//! Takes: settings, or a listener and a state. Gives: answers until it is told to stop.
//! Never: drops a request that is being answered in time, or waits for a connection on which nobody
//! asks.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use harkara_queue::Engine;
use harkara_shared::config::{Needed, Settings};
use harkara_shared::database;
use harkara_shared::egress::Egress;
use harkara_shared::process::{self, DATABASE_PATIENCE, Readiness};
use harkara_shared::telemetry::Metrics;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{ApiState, router, usage};

/// How long a stopping server waits for connections to close by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// How long requests that are being answered may hold a stopping server.
const ANSWERS: Duration = Duration::from_secs(8);

/// How long the last numbers may take to be written.
const BOOKS: Duration = Duration::from_secs(3);

/// Time for the last answers to leave.
const FLUSH: Duration = Duration::from_millis(100);

/// Serves requests until `stop` is cancelled, then lets those that are being answered finish, for ten
/// seconds at the most, and closes connections that are idle.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    state: ApiState,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let in_flight = state.in_flight().clone();
    let last = stop.child_token();
    let books = tokio::spawn(usage::keep_books(state.clone(), last.clone()));
    state.listens_on(listener.local_addr()?);
    let app = router(state.clone()).into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    // A connection on which no request was ever begun does not close by itself.
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
        in_flight.close();
        tokio::time::timeout(ANSWERS, in_flight.wait()).await.ok();
        tokio::time::sleep(FLUSH).await;
    };
    let served = tokio::select! {
        served = server.into_future() => served.context("the listener failed"),
        () = patience => Ok(()),
    };
    // What was counted until the last answer; also when the listener failed before it was told to stop.
    last.cancel();
    let closed = async {
        books.await.ok();
        usage::close_books(&state).await;
    };
    if tokio::time::timeout(BOOKS, closed).await.is_err() {
        tracing::warn!("the last second's usage could not be written in time");
    }
    served
}

/// What [`run`] cannot do without.
pub const NEEDED: &[Needed] = &[Needed::Database, Needed::MasterKey];

/// What the binary does: listens, waits for its database, and serves until SIGTERM or SIGINT.
///
/// # Errors
/// When settings are missing, the address is taken, the database is not there for a minute, or its
/// schema is not the one of this release.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let database = settings.database.clone().context("DATABASE_URL")?;
    let keys = settings.master_keys.clone().context("HARKARA_MASTER_KEY")?;
    let _metrics = Metrics::of_process();
    let pool = database::pool(&database, "harkara-api")?;
    let egress = Egress::new(settings.egress_allow.clone())?;
    let stop = process::stop_on_signal()?;
    let listener = process::bind(settings.api_addr).await?;
    let readiness = Readiness::of_database(pool.clone(), stop.clone());
    let engine = Engine::new(pool.clone(), settings.notify);
    let blobs = settings.blobs();
    let state = ApiState::new(pool.clone(), engine, keys, egress, readiness, settings.http)
        .with_blobs(blobs);
    tracing::info!("the API listens on http://{}", listener.local_addr()?);
    // Requests are answered from the start: while the database is not there, with 503.
    let unfit = async {
        let fit = async {
            database::wait_until_reachable(&pool, DATABASE_PATIENCE).await?;
            database::check_schema(&pool).await
        };
        match fit.await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        served = serve(listener, state, stop) => served?,
        error = unfit => return Err(error.into()),
    }
    database::close(&pool).await;
    Ok(())
}
