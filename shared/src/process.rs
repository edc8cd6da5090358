//! What every Harkara process does in the same way: stop on a signal, report errors, serve `/healthz`,
//! `/readyz` and `/metrics`.

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

use crate::config::{ConfigErrors, Needed, Settings};
use crate::database;
use crate::telemetry::{self, Metrics};

/// How long a starting process waits for its database.
pub const DATABASE_START_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns a token that SIGINT or SIGTERM cancels. A second signal ends the process immediately.
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
        for is_second in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if is_second {
                tracing::warn!("second signal received; exiting immediately");
                std::process::exit(130);
            }
            tracing::info!("signal received; finishing jobs in flight");
            token.cancel();
        }
    });
    Ok(stop)
}

/// Runs one service of the platform: reads the settings it needs, starts the log, and runs it until it stops.
///
/// # Errors
/// Every invalid and every missing setting, or what ended the service.
pub async fn run_service<F>(
    needed: &[Needed],
    service: impl FnOnce(Settings) -> F,
) -> Result<(), anyhow::Error>
where
    F: Future<Output = Result<(), anyhow::Error>>,
{
    let settings = Settings::from_environment(needed)?;
    telemetry::start_log(&settings);
    service(settings).await
}

/// The exit code of a process: 0 on success, 2 for an invalid configuration, 1 for any other error.
/// Errors are printed to standard error, in one line.
#[expect(
    clippy::print_stderr,
    reason = "the process ends here, possibly before its log was started"
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

/// An error and its causes in one line. Causes whose text is already included are skipped, because
/// transparent errors repeat the text of the error they wrap.
#[must_use]
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line.lines().collect::<Vec<_>>().join(" ")
}

type Check = dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync;

/// A check whether a process can do its work now; its error is the reason when it cannot.
#[derive(Clone)]
pub struct Readiness(Arc<Check>);

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readiness")
    }
}

impl Readiness {
    /// Ready while the database is reachable, its schema is compatible and `stop` is not cancelled.
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
                    // The reason can name hosts and users, so it is logged and not returned.
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "readiness check failed");
                        Err("the database is not reachable".to_owned())
                    }
                    Err(_) => Err("the database did not answer within 2 s".to_owned()),
                }
            })
        }))
    }

    /// Runs the check.
    ///
    /// # Errors
    /// The reason why the process is not ready; contains nothing confidential.
    pub async fn check(&self) -> Result<(), String> {
        (self.0)().await
    }
}

/// Routes `/healthz` (the process is alive), `/readyz` (it can work) and `/metrics` (Prometheus text).
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

/// Binds `addr`.
///
/// # Errors
/// When the address is in use or not assigned to this machine; the error names the address.
pub async fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {addr}: {error}"))
}

/// How long open connections can take to close. Idle ones without a request never close by themselves.
const CONNECTION_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves health and metrics until `stop` is cancelled, and returns within
/// `CONNECTION_CLOSE_TIMEOUT` of it even if connections are open.
///
/// # Errors
/// When the listener fails.
pub async fn serve_health(
    listener: TcpListener,
    readiness: Readiness,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let close_deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(CONNECTION_CLOSE_TIMEOUT).await;
    };
    let server = axum::serve(listener, health_routes(readiness))
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = server.into_future() => served,
        () = close_deadline => Ok(()),
    }
}
