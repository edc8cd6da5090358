//! A receiver of webhooks and requests: a real HTTP server on loopback.
//! Takes a script of replies, and records every request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};

/// A received request.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The time of arrival.
    pub at: Instant,
    /// The HTTP method.
    pub method: Method,
    /// The request path.
    pub path: String,
    /// The request headers.
    pub headers: HeaderMap,
    /// The request body.
    pub body: Bytes,
}

/// The response of a receiver.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status code.
    pub status: u16,
    /// The response headers.
    pub headers: Vec<(&'static str, String)>,
    /// The response body.
    pub body: String,
    /// The delay before the response.
    pub after: Duration,
}

impl Reply {
    /// An immediate response with this status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: "seen".to_owned(),
            after: Duration::ZERO,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }
}

type Script = dyn Fn(usize) -> Reply + Send + Sync;

#[derive(Clone)]
struct Shared {
    hits: Arc<Mutex<Vec<Hit>>>,
    script: Arc<Script>,
}

/// A receiver that listens until its runtime ends.
#[derive(Clone)]
pub struct Receiver {
    /// The URL at which it listens.
    pub url: String,
    shared: Shared,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Receiver {
    /// Starts a receiver that answers the nth request (from 0) with `script(n)`.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let shared = Shared {
            hits: Arc::default(),
            script: Arc::new(script),
        };
        let routes = Router::new().fallback(receive).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, shared }
    }

    /// All requests received so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn hits(&self) -> Vec<Hit> {
        self.shared.hits.lock().unwrap().clone()
    }

    /// The number of arrivals per `webhook-id`.
    #[must_use]
    pub fn deliveries(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for hit in self.hits() {
            if let Some(id) = hit
                .headers
                .get("webhook-id")
                .and_then(|id| id.to_str().ok())
            {
                *counts.entry(id.to_owned()).or_default() += 1;
            }
        }
        counts
    }
}

async fn receive(State(shared): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 24)
        .await
        .unwrap_or_default();
    let nth = {
        let mut hits = shared.hits.lock().unwrap();
        hits.push(Hit {
            at: Instant::now(),
            method: parts.method,
            path: parts.uri.path().to_owned(),
            headers: parts.headers,
            body,
        });
        hits.len() - 1
    };
    let reply = (shared.script)(nth);
    // A slow receiver is part of the scenario, not a wait for a condition.
    tokio::time::sleep(reply.after).await;
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, reply.body).into_response();
    for (name, value) in reply.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}
