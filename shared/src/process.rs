//! Room: what every process of Harkara does the same way: stop on a signal, tell its health.
//! Takes: a readiness check. Gives: a stop token, `/healthz`, `/readyz`, `/metrics`.
//! Never: decides what readiness means for a process.

use std::error::Error;
use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::ConfigErrors;
use crate::database;
use crate::telemetry::Metrics;

/// How long a process waits at its start for its database.
pub const DATABASE_START_TIMEOUT: Duration = Duration::from_secs(60);

/// A token that is cancelled by SIGINT or SIGTERM. A second signal ends the process at once.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub fn stop_on_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = stop.clone();
    tokio::spawn(async move {
        for hurried in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if hurried {
                tracing::warn!("second signal: stopping at once");
                std::process::exit(130);
            }
            tracing::info!("stopping: letting what is in flight finish");
            token.cancel();
        }
    });
    Ok(stop)
}

/// Ends a process: 0 when all went well, 2 for a wrong configuration, 1 for the rest, with one
/// clear line on standard error.
#[expect(
    clippy::print_stderr,
    reason = "the last words of a process that may have no log yet"
)]
pub fn exit(result: Result<(), anyhow::Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<ConfigErrors>() => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {}", in_one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line, without the words that one repeats of another: transparent
/// errors say what they wrap says.
#[must_use]
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !line.contains(&words) {
            line.push_str(": ");
            line.push_str(&words);
        }
        cause = error.source();
    }
    line.lines().collect::<Vec<_>>().join(" ")
}

type Check = dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync;

/// Says whether a process can do its work now; the error is the reason why not.
#[derive(Clone)]
pub struct Readiness(Arc<Check>);

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readiness")
    }
}

impl Readiness {
    /// Ready while the database answers with the right schema and `stop` is not cancelled.
    #[must_use]
    pub fn for_database(pool: PgPool, stop: CancellationToken) -> Self {
        Self(Arc::new(move || {
            let (pool, stop) = (pool.clone(), stop.clone());
            Box::pin(async move {
                if stop.is_cancelled() {
                    return Err("draining".to_owned());
                }
                let check = database::check_schema(&pool);
                match tokio::time::timeout(Duration::from_secs(2), check).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(database::Error::Schema(mismatch))) => Err(mismatch.to_string()),
                    // The reason may name hosts and users: it goes to the log, not to the caller.
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "not ready");
                        Err("the database is not reachable".to_owned())
                    }
                    Err(_) => Err("the database did not answer within 2 s".to_owned()),
                }
            })
        }))
    }

    /// `Ok` when ready, else the reason.
    ///
    /// # Errors
    /// The reason, fit to be shown to anyone.
    pub async fn check(&self) -> Result<(), String> {
        (self.0)().await
    }
}

/// `/healthz` (the process lives), `/readyz` (it can work), `/metrics` (Prometheus text).
pub fn health_routes(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(readiness)
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    match readiness.check().await {
        Ok(()) => (StatusCode::OK, "ready\n").into_response(),
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, "1")],
            format!("{reason}\n"),
        )
            .into_response(),
    }
}

async fn metrics() -> Response {
    let text = Metrics::global().render();
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response()
}

/// Binds `addr`, with an error that names it.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {addr}: {error}"))
}

/// Time that connections have to close by themselves. One on which nothing was ever asked does not.
const CONNECTIONS_CLOSE: Duration = Duration::from_secs(1);

/// Serves health and metrics until `stop` is cancelled, and ends soon after it whatever connections
/// are open.
///
/// # Errors
/// When the listener fails.
pub async fn serve_health(
    listener: TcpListener,
    readiness: Readiness,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(CONNECTIONS_CLOSE).await;
    };
    let server = axum::serve(listener, health_routes(readiness))
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = server.into_future() => served,
        () = patience => Ok(()),
    }
}
