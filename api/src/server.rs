//! The API's process: accepts connections and serves requests until it is stopped.
//!
//! Stopping lets requests in flight finish within a bound; idle and slow connections are closed.

use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::serve::Listener;
use harkara_queue::Engine;
use harkara_shared::config::{Needed, Settings};
use harkara_shared::database;
use harkara_shared::egress::Egress;
use harkara_shared::process::{self, DATABASE_START_TIMEOUT, Readiness};
use harkara_shared::telemetry::Metrics;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{ApiState, router, usage};

/// How long a stopping server waits for connections to close by themselves.
const IDLE_GRACE: Duration = Duration::from_secs(2);

/// How long a stopping server waits for requests in flight.
const IN_FLIGHT_GRACE: Duration = Duration::from_secs(8);

/// How long a stopping server may take to write usage.
const USAGE_FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for the last responses to be sent.
const RESPONSE_FLUSH: Duration = Duration::from_millis(100);

/// How long a connection may take to send a request's head, including the time it idles before. Longer than
/// proxies keep idle connections, so that proxies close them first.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// Serves requests until `stop` is cancelled, then closes idle connections and waits up to ten seconds for
/// requests in flight.
///
/// # Errors
/// When the listener has no local address.
pub async fn serve(
    listener: TcpListener,
    state: ApiState,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let in_flight = state.in_flight().clone();
    let stop_writing = stop.child_token();
    let writer = tokio::spawn(usage::write_periodically(
        state.clone(),
        stop_writing.clone(),
    ));
    state.set_address(listener.local_addr()?);
    let closing = accept(listener, router(state.clone()), HEADER_TIMEOUT, &stop).await;
    // A connection without any request does not close by itself.
    let grace = async {
        tokio::time::sleep(IDLE_GRACE).await;
        in_flight.close();
        tokio::time::timeout(IN_FLIGHT_GRACE, in_flight.wait())
            .await
            .ok();
        tokio::time::sleep(RESPONSE_FLUSH).await;
    };
    tokio::select! {
        () = closing.shutdown() => {}
        () = grace => {}
    }
    // Includes requests counted until the last response.
    stop_writing.cancel();
    let closed = async {
        writer.await.ok();
        usage::write_remaining(&state).await;
    };
    if tokio::time::timeout(USAGE_FLUSH_TIMEOUT, closed)
        .await
        .is_err()
    {
        tracing::warn!("could not write the usage of the last second in time");
    }
    Ok(())
}

/// Accepts connections until `stop` is cancelled. Returns a handle that waits for them to end.
async fn accept(
    mut listener: TcpListener,
    router: Router,
    header_timeout: Duration,
    stop: &CancellationToken,
) -> GracefulShutdown {
    let connections = GracefulShutdown::new();
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = stop.cancelled() => return connections,
        };
        // Responses are written whole, so Nagle's algorithm only adds delay.
        stream.set_nodelay(true).ok();
        let service = router
            .clone()
            .map_request(move |request: Request<Incoming>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                request
            });
        let connection =
            builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // A client may disconnect at any time.
            connection.await.ok();
        });
    }
}

/// Settings that [`run`] requires.
pub const NEEDED: &[Needed] = &[Needed::Database, Needed::MasterKey];

/// Runs the process: listens, waits for the database, and serves until SIGTERM or SIGINT.
///
/// # Errors
/// When settings are missing, the address is in use, the database stays unreachable for a minute, or its
/// schema does not match this release.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let database = settings.database.clone().context("DATABASE_URL")?;
    let keys = settings.master_keys.clone().context("HARKARA_MASTER_KEY")?;
    let _metrics = Metrics::global();
    let pool = database::pool(&database, "harkara-api")?;
    let egress = Egress::new(settings.egress_allow.clone())?;
    let stop = process::stop_on_signal()?;
    let listener = process::bind(settings.api_addr).await?;
    let readiness = Readiness::for_database(pool.clone(), stop.clone());
    let engine = Engine::new(pool.clone(), settings.notify);
    let blobs = settings.blobs();
    let state = ApiState::new(pool.clone(), engine, keys, egress, readiness, settings.http)
        .with_blobs(blobs);
    tracing::info!("API listening on http://{}", listener.local_addr()?);
    // Requests are served from the start; until the database is reachable, with 503.
    let unusable = async {
        let check = async {
            database::wait_until_reachable(&pool, DATABASE_START_TIMEOUT).await?;
            database::check_schema(&pool).await
        };
        match check.await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        served = serve(listener, state, stop) => served?,
        error = unusable => return Err(error.into()),
    }
    database::close(&pool).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::middleware;
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::request_layer;

    /// A connection to a server with timeouts of 50 ms.
    async fn connection() -> (TcpStream, CancellationToken) {
        let timeout = Duration::from_millis(50);
        let settings = request_layer::Settings {
            in_flight: TaskTracker::new(),
            limit: timeout,
            proxies: Arc::from([]),
            is_https: false,
        };
        let router = Router::new()
            .route("/", post(async |body: String| body))
            .layer(middleware::from_fn_with_state(
                settings,
                request_layer::apply,
            ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let until = stop.clone();
        tokio::spawn(async move { accept(listener, router, timeout, &until).await });
        (TcpStream::connect(address).await.unwrap(), stop)
    }

    /// Everything the server sends until it closes the connection.
    async fn rest(mut connection: TcpStream) -> String {
        let mut bytes = Vec::new();
        // A reset connection is closed as well.
        connection.read_to_end(&mut bytes).await.ok();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn incomplete_head_closes_the_connection() {
        let (mut connection, _stop) = connection().await;
        connection
            .write_all(b"POST / HTTP/1.1\r\nhost: x\r\nx-slow: ")
            .await
            .unwrap();
        assert_eq!(rest(connection).await, "");
    }

    #[tokio::test]
    async fn slow_body_times_out_with_its_request() {
        let (mut connection, _stop) = connection().await;
        connection
            .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nslow")
            .await
            .unwrap();
        let text = rest(connection).await;
        assert!(text.starts_with("HTTP/1.1 503"), "{text}");
        assert!(text.contains(r#""code":"timeout""#), "{text}");
    }

    #[tokio::test]
    async fn idle_connection_is_closed() {
        let (mut connection, _stop) = connection().await;
        connection
            .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi")
            .await
            .unwrap();
        let text = rest(connection).await;
        assert!(
            text.starts_with("HTTP/1.1 200") && text.ends_with("hi"),
            "{text}"
        );
    }
}
