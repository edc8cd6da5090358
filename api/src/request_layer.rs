//! The outermost layer of every request: id, tracing span, metrics, time limit, security headers, and the
//! rendering of problems.
//!
//! Bodies, raw paths and headers are never logged, and metrics have no label that a client can invent.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use harkara_shared::telemetry::metric;
use ipnet::IpNet;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use tracing::field::Empty;

use crate::problem::{Code, Problem};
use crate::request_context::{ClientAddress, REQUEST_ID, RequestId};
use crate::security_headers;

/// Settings of the layer.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Tracks requests in flight.
    pub(crate) in_flight: TaskTracker,
    /// Time limit of a request, including the reading of its body.
    pub(crate) limit: Duration,
    /// Whether clients use HTTPS, so that responses require it from now on (HSTS).
    pub(crate) is_https: bool,
    /// Peers whose `X-Forwarded-For` is trusted.
    pub(crate) proxies: Arc<[IpNet]>,
}

/// Runs one request inside the layer.
pub(crate) async fn apply(
    State(settings): State<Settings>,
    mut request: Request,
    next: Next,
) -> Response {
    let _in_flight = settings.in_flight.token();
    let started = Instant::now();
    let id = RequestId::from_headers(request.headers());
    let method = method_label(request.method());
    let route = route_label(&request);
    let path = request.uri().path().to_owned();
    let address = ClientAddress::from_request(&request, &settings.proxies);
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(address);
    // Authentication records key and tenant.
    let span = tracing::info_span!(
        "request",
        request_id = id.as_str(),
        method,
        route,
        key = Empty,
        tenant = Empty
    );

    let response = tokio::time::timeout(settings.limit, next.run(request))
        .instrument(span.clone())
        .await;
    let _entered = span.enter();
    let response = response.unwrap_or_else(|_| {
        let limit = settings.limit.as_secs();
        let detail = format!("no response within {limit} s; retry");
        Problem::new(Code::Timeout, detail).into_response()
    });
    let response = finish(response, &id, &path, settings.is_https);
    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    tracing::debug!(
        status,
        milliseconds = elapsed.as_secs_f64() * 1e3,
        "request finished with status {status}"
    );
    metrics::counter!(
        metric::HTTP_REQUESTS,
        "method" => method, "route" => route.clone(), "status" => status.to_string()
    )
    .increment(1);
    metrics::histogram!(metric::HTTP_SECONDS, "method" => method, "route" => route)
        .record(elapsed.as_secs_f64());
    response
}

/// The response to a request whose handler panicked.
pub(crate) fn panic_response(panic: Box<dyn Any + Send>) -> Response {
    Problem::of_panic(panic.as_ref()).into_response()
}

fn finish(response: Response, id: &RequestId, path: &str, is_https: bool) -> Response {
    let mut response = rendered(response, id.as_str(), path);
    let headers = response.headers_mut();
    headers.extend(id.header().map(|value| (REQUEST_ID, value)));
    security_headers::add(headers, is_https);
    response
}

/// The response, with its problem rendered if it carries one.
pub(crate) fn rendered(response: Response, id: &str, path: &str) -> Response {
    let problem = response
        .extensions()
        .get::<Problem>()
        .cloned()
        .or_else(|| Problem::of_framework(&response));
    let Some(problem) = problem else {
        return response;
    };
    let mut rendered = problem.render(id, path);
    // Headers of inner layers, such as request limits, apply to the problem as well.
    for name in response.headers().keys() {
        if name != CONTENT_LENGTH && !rendered.headers().contains_key(name) {
            for value in response.headers().get_all(name) {
                rendered.headers_mut().append(name, value.clone());
            }
        }
    }
    rendered
}

/// The route's template, a bounded set, never the path.
fn route_label(request: &Request) -> String {
    match request.extensions().get::<MatchedPath>() {
        Some(matched) => matched.as_str().to_owned(),
        None => "unmatched".to_owned(),
    }
}

/// The method, or `other`: clients can invent methods.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::header::RETRY_AFTER;
    use axum::routing::get;
    use axum::{Router, middleware};
    use tower::ServiceExt;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;

    async fn panics() -> &'static str {
        panic!("a secret")
    }

    async fn response(path: &str) -> (Response, String) {
        let settings = Settings {
            in_flight: TaskTracker::new(),
            limit: Duration::from_millis(10),
            is_https: false,
            proxies: Arc::from([]),
        };
        let router = Router::new()
            .route("/panics", get(panics))
            .route("/stuck", get(std::future::pending::<()>))
            .layer(CatchPanicLayer::custom(panic_response))
            .layer(middleware::from_fn_with_state(settings, apply));
        let request = Request::get(path)
            .header(REQUEST_ID, "mine")
            .body(Body::empty())
            .unwrap();
        let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
        let text = to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        (Response::from_parts(parts, Body::empty()), text)
    }

    #[tokio::test]
    async fn panic_is_a_problem_without_its_message() {
        let (response, text) = response("/panics").await;
        assert_eq!(response.status().as_u16(), 500);
        assert!(text.contains(r#""code":"internal""#) && text.contains(r#""request_id":"mine""#));
        assert!(!text.contains("a secret"), "{text}");
    }

    #[tokio::test]
    async fn slow_request_is_a_timeout_problem() {
        let (response, text) = response("/stuck").await;
        assert_eq!(response.status().as_u16(), 503);
        assert!(response.headers().contains_key(RETRY_AFTER));
        assert!(text.contains(r#""code":"timeout""#), "{text}");
    }
}
