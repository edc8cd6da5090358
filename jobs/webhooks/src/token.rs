//! OAuth 2.0 access tokens for endpoints (RFC 6749 §4.4, client credentials).
//!
//! Tokens are kept in memory only and requested within the egress rules.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use harkara_queue::job::JobError;
use harkara_shared::egress::{Egress, EgressError, EgressRequest};
use harkara_shared::id::EndpointId;
use http::HeaderValue;
use oauth2::basic::{BasicClient, BasicTokenType};
use oauth2::{
    ClientId, ClientSecret, HttpRequest, HttpResponse, RequestTokenError, Scope,
    TokenResponse as _, TokenUrl,
};

use crate::delivery_context::{Credentials, Target};

/// Time before its expiry from which a token is no longer used.
const EXPIRY_MARGIN: Duration = Duration::from_secs(30);

/// Lifetime of a token whose server names none, which RFC 6749 §5.1 recommends to do.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);

/// Maximum lifetime of a token, whatever its server names.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Maximum number of endpoints whose tokens are kept.
const MAX_ENDPOINTS: usize = 10_000;

/// How long a failed request for a token is not repeated.
const FAILURE_TTL: Duration = Duration::from_secs(5);

/// Why there is no token.
#[derive(Debug, Clone)]
pub struct NoToken {
    /// The error of the run.
    pub error: JobError,
    /// Whether a retry is pointless: the egress rules refuse the token server.
    pub is_terminal: bool,
}

/// The tokens of a process, by endpoint.
#[derive(Default)]
pub(super) struct Tokens {
    entries: Mutex<HashMap<EndpointId, Arc<tokio::sync::Mutex<Option<Answer>>>>>,
}

/// The result of a request for a token.
struct Answer {
    token: Result<HeaderValue, NoToken>,
    /// When a new request is made.
    until: Instant,
    /// Last change of the endpoint at the request: a later change makes a new request.
    of: DateTime<Utc>,
}

impl Tokens {
    /// The `Authorization` header for a request to `target`. Concurrent callers share one request. Takes at most
    /// `timeout`.
    pub(super) async fn bearer(
        &self,
        egress: &Egress,
        target: &Target,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<HeaderValue, NoToken> {
        let entry = self.entry(target.id);
        let requested = async {
            let mut answer = entry.lock().await;
            if let Some(known) = answer.as_ref()
                && known.of == target.updated_at
                && Instant::now() < known.until
            {
                return known.token.clone();
            }
            let (token, until) = match request_token(egress, credentials, timeout).await {
                Ok((value, until)) => (Ok(value), until),
                Err(error) => (Err(error), Instant::now() + FAILURE_TTL),
            };
            *answer = Some(Answer {
                token: token.clone(),
                until,
                of: target.updated_at,
            });
            token
        };
        tokio::time::timeout(timeout, requested)
            .await
            .unwrap_or_else(|_| Err(failed("token server did not respond in time".to_owned())))
    }

    /// Discards a token that the receiver rejected.
    pub(super) fn forget(&self, id: EndpointId) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.remove(&id);
    }

    fn entry(&self, id: EndpointId) -> Arc<tokio::sync::Mutex<Option<Answer>>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_ENDPOINTS && !entries.contains_key(&id) {
            entries.clear();
        }
        Arc::clone(entries.entry(id).or_default())
    }
}

async fn request_token(
    egress: &Egress,
    credentials: &Credentials,
    timeout: Duration,
) -> Result<(HeaderValue, Instant), NoToken> {
    let oauth2 = &credentials.oauth2;
    let url = TokenUrl::new(oauth2.token_url.clone());
    let url = url.map_err(|error| failed(format!("the token's URL cannot be called: {error}")))?;
    let client = BasicClient::new(ClientId::new(oauth2.client_id.clone()))
        .set_client_secret(ClientSecret::new(credentials.secret.clone()))
        .set_token_uri(url);
    let mut request = client.exchange_client_credentials();
    if let Some(scope) = &oauth2.scope {
        request = request.add_scope(Scope::new(scope.clone()));
    }
    if let Some(audience) = &oauth2.audience {
        request = request.add_extra_param("audience", audience);
    }
    let started = Instant::now();
    // Cloned: the library requires a client without borrows.
    let egress = egress.clone();
    let http = move |request: HttpRequest| send(egress.clone(), request, timeout);
    let token = request
        .request_async(&http)
        .await
        .map_err(|error| match error {
            RequestTokenError::Request(error) => NoToken {
                is_terminal: error.is_terminal(),
                ..failed(format!("no token could be had: {error}"))
            },
            RequestTokenError::ServerResponse(answer) => {
                failed(format!("the token server refuses: {}", answer.error()))
            }
            RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
                failed("the token server's answer holds no token".to_owned())
            }
        })?;
    let value = HeaderValue::try_from(format!("Bearer {}", token.access_token().secret()));
    let (BasicTokenType::Bearer, Ok(mut value)) = (token.token_type(), value) else {
        return Err(failed(
            "the token server's answer holds no bearer token".to_owned(),
        ));
    };
    value.set_sensitive(true);
    let life = token
        .expires_in()
        .unwrap_or(DEFAULT_LIFETIME)
        .min(MAX_LIFETIME);
    Ok((
        value,
        started + life.saturating_sub(EXPIRY_MARGIN.min(life / 2)),
    ))
}

fn failed(message: String) -> NoToken {
    NoToken {
        error: JobError::new("oauth2_token", message),
        is_terminal: false,
    }
}

/// Sends a request of the library within the egress rules.
async fn send(
    egress: Egress,
    request: HttpRequest,
    timeout: Duration,
) -> Result<HttpResponse, EgressError> {
    let (parts, body) = request.into_parts();
    let answer = egress
        .send(EgressRequest {
            method: parts.method,
            url: &parts.uri.to_string(),
            headers: parts.headers,
            body: Bytes::from(body),
            timeout,
            identity: None,
        })
        .await?;
    let mut response = HttpResponse::new(answer.body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    Ok(response)
}
