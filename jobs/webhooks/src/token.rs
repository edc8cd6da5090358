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

/// How long before its end a token is not used any more.
const MARGIN: Duration = Duration::from_secs(30);

/// How long a token is used whose server does not say (RFC 6749 §5.1 has it say so).
const USUAL: Duration = Duration::from_secs(300);

/// The longest that one is used, whatever its server says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Most endpoints whose tokens are kept.
const MOST: usize = 10_000;

/// How long nobody asks again where no token could be had.
const REFUSED: Duration = Duration::from_secs(5);

/// Why there is no token.
#[derive(Debug, Clone)]
pub struct NoToken {
    /// What is to be said of the run.
    pub error: JobError,
    /// Whether it will not pass: the token server may not be called.
    pub is_terminal: bool,
}

/// The tokens that this process has.
#[derive(Default)]
pub(super) struct Tokens {
    places: Mutex<HashMap<EndpointId, Arc<tokio::sync::Mutex<Option<Answer>>>>>,
}

/// What a token server said.
struct Answer {
    token: Result<HeaderValue, NoToken>,
    /// Until when nobody asks again.
    until: Instant,
    /// When the endpoint was changed that it was asked for: one that was changed since asks anew.
    of: DateTime<Utc>,
}

impl Tokens {
    /// The `Authorization` header for a request to `target`; one caller asks, the others wait, and hear what
    /// it heard. All of it takes `timeout` at most.
    pub(super) async fn bearer(
        &self,
        egress: &Egress,
        target: &Target,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<HeaderValue, NoToken> {
        let place = self.place(target.id);
        let asked = async {
            let mut answer = place.lock().await;
            if let Some(known) = answer.as_ref()
                && known.of == target.updated_at
                && Instant::now() < known.until
            {
                return known.token.clone();
            }
            let (token, until) = match ask(egress, credentials, timeout).await {
                Ok((value, until)) => (Ok(value), until),
                Err(error) => (Err(error), Instant::now() + REFUSED),
            };
            *answer = Some(Answer {
                token: token.clone(),
                until,
                of: target.updated_at,
            });
            token
        };
        tokio::time::timeout(timeout, asked)
            .await
            .unwrap_or_else(|_| Err(failed("no token came in time".to_owned())))
    }

    /// Forgets a token that the receiver does not take.
    pub(super) fn forget(&self, id: EndpointId) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.remove(&id);
    }

    fn place(&self, id: EndpointId) -> Arc<tokio::sync::Mutex<Option<Answer>>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= MOST && !places.contains_key(&id) {
            places.clear();
        }
        Arc::clone(places.entry(id).or_default())
    }
}

async fn ask(
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
    let mut question = client.exchange_client_credentials();
    if let Some(scope) = &oauth2.scope {
        question = question.add_scope(Scope::new(scope.clone()));
    }
    if let Some(audience) = &oauth2.audience {
        question = question.add_extra_param("audience", audience);
    }
    let started = Instant::now();
    // Of its own: the library wants a client that outlives the call.
    let egress = egress.clone();
    let http = move |request: HttpRequest| send(egress.clone(), request, timeout);
    let token = question
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
    let life = token.expires_in().unwrap_or(USUAL).min(LONGEST);
    Ok((value, started + life.saturating_sub(MARGIN.min(life / 2))))
}

fn failed(words: String) -> NoToken {
    NoToken {
        error: JobError::new("oauth2_token", words),
        is_terminal: false,
    }
}

/// The library's request, made within the egress rules.
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
