//! Room: around every request.
//! Takes: a request. Gives: the answer with its request id and security headers, problems written
//! out, a span, metrics, a time limit.
//! Never: logs a body, a raw path or a header; counts by anything a caller can make up.

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

/// What the outermost layer works with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Counts the requests that are being answered.
    pub(crate) in_flight: TaskTracker,
    /// The longest a request may take, the reading of its body included.
    pub(crate) limit: Duration,
    /// Whether callers come by https, and are to keep to it.
    pub(crate) is_https: bool,
    /// Peers whose `X-Forwarded-For` is believed.
    pub(crate) proxies: Arc<[IpNet]>,
}

/// The outermost layer.
pub(crate) async fn apply(
    State(around): State<Settings>,
    mut request: Request,
    next: Next,
) -> Response {
    let _counted = around.in_flight.token();
    let started = Instant::now();
    let id = RequestId::of(request.headers());
    let method = method_label(request.method());
    let route = route_label(&request);
    let path = request.uri().path().to_owned();
    let address = ClientAddress::of(&request, &around.proxies);
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(address);
    // Key and tenant are told by whoever finds out.
    let span = tracing::info_span!(
        "request",
        request_id = id.as_str(),
        method,
        route,
        key = Empty,
        tenant = Empty
    );

    let answer = tokio::time::timeout(around.limit, next.run(request))
        .instrument(span.clone())
        .await;
    let _entered = span.enter();
    let answer = answer.unwrap_or_else(|_| {
        let limit = around.limit.as_secs();
        let detail = format!("there was no answer within {limit} s: try again");
        Problem::new(Code::Timeout, detail).into_response()
    });
    let answer = finish(answer, &id, &path, around.is_https);
    let status = answer.status().as_u16();
    let elapsed = started.elapsed();
    tracing::debug!(
        status,
        milliseconds = elapsed.as_secs_f64() * 1e3,
        "answered {status}"
    );
    metrics::counter!(
        metric::HTTP_REQUESTS,
        "method" => method, "route" => route.clone(), "status" => status.to_string()
    )
    .increment(1);
    metrics::histogram!(metric::HTTP_SECONDS, "method" => method, "route" => route)
        .record(elapsed.as_secs_f64());
    answer
}

/// The answer to a handler that panicked.
pub(crate) fn panic_response(panic: Box<dyn Any + Send>) -> Response {
    Problem::of_panic(panic.as_ref()).into_response()
}

fn finish(answer: Response, id: &RequestId, path: &str, is_https: bool) -> Response {
    let mut answer = written_out(answer, id.as_str(), path);
    let headers = answer.headers_mut();
    headers.extend(id.header().map(|value| (REQUEST_ID, value)));
    security_headers::add(headers, is_https);
    answer
}

/// The answer, with its problem written out if it is one that has not been yet.
pub(crate) fn written_out(answer: Response, id: &str, path: &str) -> Response {
    let problem = answer
        .extensions()
        .get::<Problem>()
        .cloned()
        .or_else(|| Problem::of_framework(&answer));
    let Some(problem) = problem else {
        return answer;
    };
    let mut rendered = problem.render(id, path);
    // What layers within have said of the request, such as its limits, holds for the problem.
    for name in answer.headers().keys() {
        if name != CONTENT_LENGTH && !rendered.headers().contains_key(name) {
            for value in answer.headers().get_all(name) {
                rendered.headers_mut().append(name, value.clone());
            }
        }
    }
    rendered
}

/// The template of the route, of which there are few, never the path.
fn route_label(request: &Request) -> String {
    match request.extensions().get::<MatchedPath>() {
        Some(matched) => matched.as_str().to_owned(),
        None => "unmatched".to_owned(),
    }
}

/// The method, or one word for all that no route knows: callers may make up methods.
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

    async fn clumsy() -> &'static str {
        panic!("a secret")
    }

    async fn answer(path: &str) -> (Response, String) {
        let around = Settings {
            in_flight: TaskTracker::new(),
            limit: Duration::from_millis(10),
            is_https: false,
            proxies: Arc::from([]),
        };
        let router = Router::new()
            .route("/clumsy", get(clumsy))
            .route("/stuck", get(std::future::pending::<()>))
            .layer(CatchPanicLayer::custom(panic_response))
            .layer(middleware::from_fn_with_state(around, apply));
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
    async fn a_panic_is_a_problem_that_keeps_its_words_to_itself() {
        let (response, text) = answer("/clumsy").await;
        assert_eq!(response.status().as_u16(), 500);
        assert!(text.contains(r#""code":"internal""#) && text.contains(r#""request_id":"mine""#));
        assert!(!text.contains("a secret"), "{text}");
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_a_problem() {
        let (response, text) = answer("/stuck").await;
        assert_eq!(response.status().as_u16(), 503);
        assert!(response.headers().contains_key(RETRY_AFTER));
        assert!(text.contains(r#""code":"timeout""#), "{text}");
    }
}
