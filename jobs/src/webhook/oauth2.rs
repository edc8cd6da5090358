//! Room: tokens for endpoints that ask for them (RFC 6749 §4.4, client credentials).
//! Takes: an endpoint's credentials. Gives: a token that is good for a while yet.
//! Never: keeps a token anywhere but in memory, or asks for one outside of the egress rules.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use harkara_queue::job::JobError;
use harkara_shared::egress::{Egress, EgressRequest};
use harkara_shared::id::EndpointId;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use url::form_urlencoded;

use super::OAuth2;
use super::envoy::{Credentials, Target};

/// How long before its end a token is not used any more.
const MARGIN: Duration = Duration::from_secs(30);

/// How long a token is used whose server does not say (RFC 6749 §5.1 has it say so).
const USUAL: Duration = Duration::from_secs(300);

/// The longest that one is used, whatever its server says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Most endpoints whose tokens are kept.
const MOST: usize = 10_000;

/// The tokens that this process has.
#[derive(Default)]
pub(super) struct Tokens {
    places: Mutex<HashMap<EndpointId, Arc<tokio::sync::Mutex<Option<Token>>>>>,
}

struct Token {
    value: HeaderValue,
    until: Instant,
    /// When the endpoint was changed that it was had for: one that was changed since asks anew.
    of: DateTime<Utc>,
}

impl Tokens {
    /// The `Authorization` header for a request to `target`; one caller asks, the others wait.
    pub(super) async fn bearer(
        &self,
        egress: &Egress,
        target: &Target,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<HeaderValue, JobError> {
        let place = self.place(target.id);
        let mut token = place.lock().await;
        if let Some(known) = token.as_ref()
            && known.of == target.updated_at
            && Instant::now() < known.until
        {
            return Ok(known.value.clone());
        }
        *token = None;
        let (value, until) = ask(egress, credentials, timeout).await?;
        *token = Some(Token {
            value: value.clone(),
            until,
            of: target.updated_at,
        });
        Ok(value)
    }

    /// Forgets a token that the receiver does not take.
    pub(super) fn forget(&self, id: EndpointId) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.remove(&id);
    }

    fn place(&self, id: EndpointId) -> Arc<tokio::sync::Mutex<Option<Token>>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= MOST && !places.contains_key(&id) {
            places.clear();
        }
        Arc::clone(places.entry(id).or_default())
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

async fn ask(
    egress: &Egress,
    credentials: &Credentials,
    timeout: Duration,
) -> Result<(HeaderValue, Instant), JobError> {
    let failed = |words: String| JobError::new("oauth2_token", words);
    let oauth2 = &credentials.oauth2;
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(
        AUTHORIZATION,
        basic(&oauth2.client_id, &credentials.secret)?,
    );
    let started = Instant::now();
    let request = EgressRequest {
        method: Method::POST,
        url: &oauth2.token_url,
        headers,
        body: Bytes::from(form(oauth2)),
        timeout,
        identity: None,
    };
    let answer = egress
        .send(request)
        .await
        .map_err(|error| failed(format!("no token could be had: {error}")))?;
    if !answer.status.is_success() {
        return Err(failed(format!(
            "the token server answered {}",
            answer.status
        )));
    }
    let told: Answer = serde_json::from_slice(&answer.body)
        .map_err(|_| failed("the token server's answer holds no token".to_owned()))?;
    let is_bearer = told
        .token_type
        .is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    let value = HeaderValue::try_from(format!("Bearer {}", told.access_token));
    let (true, Ok(mut value)) = (is_bearer, value) else {
        return Err(failed(
            "the token server's answer holds no bearer token".to_owned(),
        ));
    };
    value.set_sensitive(true);
    let life = told
        .expires_in
        .map_or(USUAL, Duration::from_secs)
        .min(LONGEST);
    Ok((value, started + life.saturating_sub(MARGIN)))
}

fn form(oauth2: &OAuth2) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    for (name, value) in [("scope", &oauth2.scope), ("audience", &oauth2.audience)] {
        if let Some(value) = value {
            form.append_pair(name, value);
        }
    }
    form.finish()
}

/// RFC 6749 §2.3.1: both are written as in a form before they are joined.
fn basic(id: &str, secret: &str) -> Result<HeaderValue, JobError> {
    let word =
        |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let joined = BASE64.encode(format!("{}:{}", word(id), word(secret)));
    let mut value = HeaderValue::try_from(format!("Basic {joined}"))
        .map_err(|_| JobError::new("oauth2_token", "the credentials cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}
