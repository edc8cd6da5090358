//! Idempotency keys: a POST with an `Idempotency-Key` runs once, however often it is sent.
//!
//! A repeated request gets the first response again, or a problem that explains why there is none. Two
//! requests with one key never both change anything, even when a process dies between the change and its
//! response.
//!
//! ```text
//! reserve ──▶ handler: begin(caller) marks the row ──▶ commit ──▶ store the response, or release the key
//! ```

mod key;
mod store;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use sha2::{Digest as _, Sha256};
use tracing::Instrument;

use crate::ApiState;
use crate::auth::Caller;
use crate::body::{Chunks, size_limit};
use crate::problem::{Code, Problem};
use crate::request_context::RequestId;
use crate::request_layer::rendered;
pub(crate) use store::Reservation;
use store::{ReserveOutcome, StoredResponse};

/// `Idempotent-Replayed`.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Time limit of a handler. The client's own request times out earlier, while its work continues.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(50);

/// Headers of a response that a replay repeats.
const REPLAYED_HEADERS: [HeaderName; 2] = [CONTENT_TYPE, LOCATION];

/// Maximum size of a stored response, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Runs the handler for `caller`; for a POST with an `Idempotency-Key`, once per key.
pub(crate) async fn run_idempotent(
    state: &ApiState,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    let key = match key::parse(request.headers()) {
        Ok(Some(key)) if request.method() == Method::POST => key,
        Err(problem) if request.method() == Method::POST => return problem.into_response(),
        _ => return run(caller, request, next).await,
    };
    match run_once(state, caller, key, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn run(caller: Caller, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(caller);
    next.run(request).await
}

async fn run_once(
    state: &ApiState,
    caller: Caller,
    key: String,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let route = parts
        .extensions
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned())
        .ok_or_else(|| Problem::internal("a request with an idempotency key matched no route"))?;
    let body = Chunks::new(&parts.headers, body, size_limit(&route)).await?;
    let body = Bytes::from(body.rest().await?);
    let fingerprint = fingerprint(&parts, &body);
    let reservation = Reservation::new(&caller, &parts.method, route, key);
    let rights = caller.rights();
    let reservation = match store::reserve(state, reservation, rights, &fingerprint).await? {
        ReserveOutcome::Reserved(reservation) => reservation,
        ReserveOutcome::Completed(stored) => {
            // Responses can contain secrets, and the handler that checks rights does not run.
            caller.require_rights(&stored.rights)?;
            return replay(stored);
        }
    };
    let caller = caller.with_reservation(reservation.clone());
    let request = Request::from_parts(parts, Body::from(body));
    let state = state.clone();
    // The work and its response must outlive a client that disconnects: it will retry.
    let task = tokio::spawn(
        async move {
            let _in_flight = state.in_flight().token();
            run_and_store(&state, &reservation, caller, request, next).await
        }
        .in_current_span(),
    );
    match task.await {
        Ok(response) => Ok(response),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Problem::internal(error)),
        },
    }
}

/// Runs the handler and stores its response, or releases the key.
async fn run_and_store(
    state: &ApiState,
    reservation: &Reservation,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    let id = request.extensions().get::<RequestId>().cloned();
    let running = tokio::time::timeout(HANDLER_TIMEOUT, run(caller, request, next));
    let response = match AssertUnwindSafe(running).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Problem::new(Code::Timeout, "no response in time").into_response(),
        Err(panic) => {
            log_failure(store::release(state, reservation).await);
            std::panic::resume_unwind(panic);
        }
    };
    let status = response.status();
    if status.is_server_error() {
        log_failure(store::release(state, reservation).await);
        return response;
    }
    let id = id.as_ref().map_or("", RequestId::as_str);
    let (parts, body) = rendered(response, id, &path).into_parts();
    let body = match to_bytes(body, MAX_RESPONSE_BYTES).await {
        Ok(body) => body,
        Err(error) => return Problem::internal(error).into_response(),
    };
    let stored = StoredResponse {
        rights: Vec::new(),
        status,
        headers: REPLAYED_HEADERS
            .iter()
            .filter_map(|name| {
                let value = parts.headers.get(name)?.to_str().ok()?;
                Some((name.to_string(), value.to_owned()))
            })
            .collect(),
        body: body.to_vec(),
    };
    log_failure(store_response(state, reservation, &stored).await);
    Response::from_parts(parts, Body::from(body))
}

/// Stores the response. One that could differ on a retry is stored only if something was committed with it.
async fn store_response(
    state: &ApiState,
    reservation: &Reservation,
    response: &StoredResponse,
) -> Result<(), Problem> {
    let may_differ = matches!(
        response.status,
        StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::CONFLICT
            | StatusCode::TOO_MANY_REQUESTS
    );
    if may_differ && store::release(state, reservation).await? {
        return Ok(());
    }
    store::store_response(state, reservation, response, may_differ).await
}

/// Logs that the state of a key could not be stored. The request has run all the same: its caller gets the
/// response, and a retry gets the result that the row records.
fn log_failure(stored: Result<impl Sized, Problem>) {
    if let Err(problem) = stored {
        tracing::warn!(
            ?problem,
            "could not store the outcome of an idempotent request"
        );
    }
}

/// Whether the response repeats that of an earlier request.
pub(crate) fn is_replay(response: &Response) -> bool {
    response.headers().contains_key(REPLAYED)
}

/// The stored response.
fn replay(stored: StoredResponse) -> Result<Response, Problem> {
    let mut response = (stored.status, stored.body).into_response();
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    for (name, value) in stored.headers {
        let name = HeaderName::try_from(name).map_err(Problem::internal)?;
        let value = HeaderValue::try_from(value).map_err(Problem::internal)?;
        headers.insert(name, value);
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// Hash of the parts of a request that a repetition must share: method, path, query, media type and body.
fn fingerprint(parts: &Parts, body: &[u8]) -> [u8; 32] {
    let media_type = parts.headers.get(CONTENT_TYPE);
    let hash = [
        parts.method.as_str().as_bytes(),
        parts.uri.path().as_bytes(),
        parts.uri.query().unwrap_or_default().as_bytes(),
        media_type.map_or(&[], HeaderValue::as_bytes),
    ]
    .iter()
    // A NUL, which no part can contain, ends each part.
    .fold(Sha256::new(), |hash, part| {
        hash.chain_update(part).chain_update([0])
    });
    hash.chain_update(body).finalize().into()
}
