//! Room: the API's process.
//! Takes: settings, or a listener and a state. Gives: answers until it is told to stop.
//! Never: drops a request that is being answered in time, or waits for a connection on which nobody
//! asks, or asks too slowly.

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
const GRACE: Duration = Duration::from_secs(2);

/// How long requests that are being answered may hold a stopping server.
const ANSWERS: Duration = Duration::from_secs(8);

/// How long the last numbers may take to be written.
const BOOKS: Duration = Duration::from_secs(3);

/// Time for the last answers to leave.
const FLUSH: Duration = Duration::from_millis(100);

/// How long a connection may take to send the head of a request, the time it idles before included:
/// longer than proxies keep idle connections, so that it is they who close them.
const HEADS: Duration = Duration::from_secs(75);

/// Serves requests until `stop` is cancelled, then lets those that are being answered finish, for ten
/// seconds at the most, and closes connections that are idle.
///
/// # Errors
/// None yet: a listener that fails is asked again.
pub async fn serve(
    listener: TcpListener,
    state: ApiState,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let in_flight = state.in_flight().clone();
    let last = stop.child_token();
    let books = tokio::spawn(usage::keep_books(state.clone(), last.clone()));
    state.listens_on(listener.local_addr()?);
    let closing = accept(listener, router(state.clone()), HEADS, &stop).await;
    // A connection on which no request was ever begun does not close by itself.
    let patience = async {
        tokio::time::sleep(GRACE).await;
        in_flight.close();
        tokio::time::timeout(ANSWERS, in_flight.wait()).await.ok();
        tokio::time::sleep(FLUSH).await;
    };
    tokio::select! {
        () = closing.shutdown() => {}
        () = patience => {}
    }
    // What was counted until the last answer.
    last.cancel();
    let closed = async {
        books.await.ok();
        usage::close_books(&state).await;
    };
    if tokio::time::timeout(BOOKS, closed).await.is_err() {
        tracing::warn!("the last second's usage could not be written in time");
    }
    Ok(())
}

/// Takes connections until `stop` is cancelled. Answers what waits for them to end.
async fn accept(
    mut listener: TcpListener,
    router: Router,
    heads: Duration,
    stop: &CancellationToken,
) -> GracefulShutdown {
    let connections = GracefulShutdown::new();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(heads);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = stop.cancelled() => return connections,
        };
        // Answers are written whole: waiting for more to send with them gains nothing.
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
            // Callers may go away at any time; it concerns nobody else.
            connection.await.ok();
        });
    }
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
    tracing::info!("the API listens on http://{}", listener.local_addr()?);
    // Requests are answered from the start: while the database is not there, with 503.
    let unfit = async {
        let fit = async {
            database::wait_until_reachable(&pool, DATABASE_START_TIMEOUT).await?;
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

    /// A connection to a server that is patient for a twentieth of a second.
    async fn connection() -> (TcpStream, CancellationToken) {
        let patience = Duration::from_millis(50);
        let around = request_layer::Settings {
            in_flight: TaskTracker::new(),
            limit: patience,
            proxies: Arc::from([]),
            is_https: false,
        };
        let router = Router::new()
            .route("/", post(async |body: String| body))
            .layer(middleware::from_fn_with_state(around, request_layer::apply));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let until = stop.clone();
        tokio::spawn(async move { accept(listener, router, patience, &until).await });
        (TcpStream::connect(address).await.unwrap(), stop)
    }

    /// All that comes until the server closes the connection.
    async fn rest(mut connection: TcpStream) -> String {
        let mut bytes = Vec::new();
        // A connection that is reset has been closed, too.
        connection.read_to_end(&mut bytes).await.ok();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_closes_its_connection() {
        let (mut connection, _stop) = connection().await;
        connection
            .write_all(b"POST / HTTP/1.1\r\nhost: x\r\nx-slow: ")
            .await
            .unwrap();
        assert_eq!(rest(connection).await, "");
    }

    #[tokio::test]
    async fn a_body_that_trickles_is_cut_at_the_limit_of_its_request() {
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
    async fn an_idle_connection_is_closed_after_a_while() {
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
