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

/// Lifetime of a token without `expires_in`, which RFC 6749 §5.1 recommends but does not require.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);

/// Maximum lifetime of a token, even if its `expires_in` is longer.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Maximum number of endpoints whose tokens are cached; all are discarded when it is reached.
const MAX_ENDPOINTS: usize = 10_000;

/// Time after a failed token request during which its error is returned again without a new request.
const FAILURE_TTL: Duration = Duration::from_secs(5);

/// Why no token could be obtained.
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
    entries: Mutex<HashMap<EndpointId, Arc<tokio::sync::Mutex<Option<CachedToken>>>>>,
}

/// The result of a token request.
struct CachedToken {
    token: Result<HeaderValue, NoToken>,
    /// From this time on a new token is requested.
    until: Instant,
    /// Last change of the endpoint before the request. After a later change a new token is requested.
    endpoint_updated_at: DateTime<Utc>,
}

impl Tokens {
    /// Returns the `Authorization` header for a request to `target`, with a cached or a new token. Concurrent callers share
    /// one token request. Takes at most `timeout`.
    pub(super) async fn bearer(
        &self,
        egress: &Egress,
        target: &Target,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<HeaderValue, NoToken> {
        let entry = self.entry(target.id);
        let requested = async {
            let mut cached = entry.lock().await;
            if let Some(known) = cached.as_ref()
                && known.endpoint_updated_at == target.updated_at
                && Instant::now() < known.until
            {
                return known.token.clone();
            }
            let (token, until) = match request_token(egress, credentials, timeout).await {
                Ok((value, until)) => (Ok(value), until),
                Err(error) => (Err(error), Instant::now() + FAILURE_TTL),
            };
            *cached = Some(CachedToken {
                token: token.clone(),
                until,
                endpoint_updated_at: target.updated_at,
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

    fn entry(&self, id: EndpointId) -> Arc<tokio::sync::Mutex<Option<CachedToken>>> {
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
    let url = url.map_err(|error| failed(format!("invalid token URL: {error}")))?;
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
    // Cloned because the library requires a client without borrows.
    let egress = egress.clone();
    let http = move |request: HttpRequest| send(egress.clone(), request, timeout);
    let token = request
        .request_async(&http)
        .await
        .map_err(|error| match error {
            RequestTokenError::Request(error) => NoToken {
                is_terminal: error.is_terminal(),
                ..failed(format!("token request failed: {error}"))
            },
            RequestTokenError::ServerResponse(response) => failed(format!(
                "token server refused the request: {}",
                response.error()
            )),
            RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
                failed("token server's response contains no token".to_owned())
            }
        })?;
    let value = HeaderValue::try_from(format!("Bearer {}", token.access_token().secret()));
    let (BasicTokenType::Bearer, Ok(mut value)) = (token.token_type(), value) else {
        return Err(failed(
            "token server's response contains no bearer token".to_owned(),
        ));
    };
    value.set_sensitive(true);
    let lifetime = token
        .expires_in()
        .unwrap_or(DEFAULT_LIFETIME)
        .min(MAX_LIFETIME);
    Ok((
        value,
        started + lifetime.saturating_sub(EXPIRY_MARGIN.min(lifetime / 2)),
    ))
}

fn failed(message: String) -> NoToken {
    NoToken {
        error: JobError::new("oauth2_token", message),
        is_terminal: false,
    }
}

/// Sends a request that the OAuth library has built, within the egress rules.
async fn send(
    egress: Egress,
    request: HttpRequest,
    timeout: Duration,
) -> Result<HttpResponse, EgressError> {
    let (parts, body) = request.into_parts();
    let received = egress
        .send(EgressRequest {
            method: parts.method,
            url: &parts.uri.to_string(),
            headers: parts.headers,
            body: Bytes::from(body),
            timeout,
            identity: None,
        })
        .await?;
    let mut response = HttpResponse::new(received.body);
    *response.status_mut() = received.status;
    *response.headers_mut() = received.headers;
    Ok(response)
}
