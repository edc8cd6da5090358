//! Room: a receiver of webhooks and requests: a real HTTP server on this machine.
//! Takes: how to reply. Gives: everything it was sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};

/// One request that arrived.
#[derive(Debug, Clone)]
pub struct Hit {
    /// When.
    pub at: Instant,
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// What a receiver answers.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: String,
    /// How long it takes over it.
    pub after: Duration,
}

impl Reply {
    /// An immediate answer of this status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: "seen".to_owned(),
            after: Duration::ZERO,
        }
    }

    /// With this header too.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With this body.
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
    /// Where it listens.
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
    /// A receiver that answers the nth request (from 0) as `script` says.
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

    /// Everything that arrived so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn hits(&self) -> Vec<Hit> {
        self.shared.hits.lock().unwrap().clone()
    }

    /// How often each `webhook-id` arrived.
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
    // A receiver that takes its time: part of the scene, not a wait.
    tokio::time::sleep(reply.after).await;
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, reply.body).into_response();
    for (name, value) in reply.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}
