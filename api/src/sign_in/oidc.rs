//! Sign-in through an identity provider (OpenID Connect): authorization code flow with PKCE, nonce and state.
//!
//! Only the protocol is here; flows and accounts are in `harkara_accounts::users::provider`. A sign-in is completed only in
//! the browser that started it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use harkara_accounts::users::provider::{self, Identity, ProviderSignIn};
use harkara_accounts::users::{Token, normal_email};
use harkara_shared::audit::Actor;
use harkara_shared::config::OidcSettings;
use harkara_shared::egress::client_config;
use harkara_shared::process::in_one_line;
use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreProviderMetadata, CoreUserInfoClaims,
};
use openidconnect::{
    AccessTokenHash, AuthorizationCode, ClientId, ClientSecret, CsrfToken, DiscoveryError,
    EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IssuerUrl, Nonce,
    OAuth2TokenResponse as _, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope,
    TokenResponse as _,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use url::Url;

use super::throttle;
use crate::ApiState;
use crate::problem::Problem;

/// How long the provider's metadata and keys are cached.
const METADATA_TTL: Duration = Duration::from_mins(60);

/// Time limit of one request to the provider.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum length of a response of the provider in bytes.
const MAX_RESPONSE_BYTES: usize = 1 << 20;

/// Path to which the provider redirects the browser.
pub(crate) const CALLBACK: &str = "/sign-in/oidc/callback";

type Client = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// A client of the identity provider.
pub(crate) struct Oidc {
    settings: OidcSettings,
    http: reqwest::Client,
    /// The provider's metadata, and when it was read.
    metadata: Mutex<Option<(Instant, CoreProviderMetadata)>>,
}

impl fmt::Debug for Oidc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Oidc").field(&self.settings).finish()
    }
}

/// Why a request to the provider failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OidcError {
    #[error("request to the identity provider failed: {0}")]
    Call(String),
    #[error("invalid response of the identity provider: {0}")]
    Response(String),
    #[error("HTTP client for the identity provider could not be created: {0}")]
    Setup(String),
}

/// Why an HTTP request to the provider failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error(transparent)]
    Form(#[from] axum::http::Error),
    #[error("response is longer than 1 MiB")]
    TooLong,
}

/// The provider of these settings; `None`, with a log entry, when its HTTP client cannot be created.
pub(crate) fn provider(settings: OidcSettings) -> Option<Oidc> {
    Oidc::new(settings)
        .inspect_err(
            |error| tracing::error!(%error, "sign-in through the identity provider is off"),
        )
        .ok()
}

fn response_error(error: &(dyn std::error::Error + 'static)) -> OidcError {
    OidcError::Response(in_one_line(error))
}

/// State of a sign-in that is stored, sealed, while the browser is at the provider.
#[derive(Serialize, Deserialize)]
struct Flow {
    nonce: String,
    verifier: String,
    tenant: Option<String>,
}

/// A sign-in that was started.
#[derive(Debug)]
pub(crate) struct Begun {
    /// URL to redirect the browser to.
    pub(crate) url: Url,
    /// Token for the browser's cookie.
    pub(crate) browser: Token,
}

impl Oidc {
    /// A client with these settings. The first sign-in reads the provider's metadata.
    ///
    /// # Errors
    /// When the HTTP client cannot be created.
    fn new(settings: OidcSettings) -> Result<Self, OidcError> {
        let setup = |error: &dyn fmt::Display| OidcError::Setup(error.to_string());
        let tls = client_config().map_err(|error| setup(&error))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|error| setup(&error))?;
        Ok(Self {
            settings,
            http,
            metadata: Mutex::default(),
        })
    }

    /// Display name of the provider.
    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    async fn metadata(&self) -> Result<CoreProviderMetadata, OidcError> {
        let mut known = self.metadata.lock().await;
        if let Some((when, metadata)) = &*known
            && when.elapsed() < METADATA_TTL
        {
            return Ok(metadata.clone());
        }
        let metadata = self.discover().await?;
        *known = Some((Instant::now(), metadata.clone()));
        Ok(metadata)
    }

    /// Issuers are compared literally. A URL without a path may or may not end with a slash, so both forms are tried.
    async fn discover(&self) -> Result<CoreProviderMetadata, OidcError> {
        let text = self.settings.issuer.as_str();
        let short = text
            .strip_suffix('/')
            .filter(|_| self.settings.issuer.path() == "/");
        let mut mismatch = String::new();
        for issuer in short.into_iter().chain([text]) {
            let issuer = IssuerUrl::new(issuer.to_owned())
                .map_err(|error| OidcError::Call(error.to_string()))?;
            match CoreProviderMetadata::discover_async(issuer, &self.caller()).await {
                Ok(metadata) => return Ok(metadata),
                Err(DiscoveryError::Validation(reason)) => mismatch = reason,
                Err(error) => return Err(OidcError::Call(in_one_line(&error))),
            }
        }
        Err(OidcError::Response(mismatch))
    }

    fn client(&self, metadata: CoreProviderMetadata, base: &str) -> Result<Client, OidcError> {
        let back = format!("{}{CALLBACK}", base.trim_end_matches('/'));
        let back = RedirectUrl::new(back).map_err(|error| OidcError::Setup(error.to_string()))?;
        let client = CoreClient::from_provider_metadata(
            metadata,
            ClientId::new(self.settings.client_id.clone()),
            Some(ClientSecret::new(self.settings.client_secret.clone())),
        );
        Ok(client.set_redirect_uri(back))
    }

    /// The function that the library makes HTTP requests with.
    fn caller(
        &self,
    ) -> impl Fn(
        HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, CallError>> + Send>>
    + Send
    + Sync {
        let http = self.http.clone();
        move |request| Box::pin(call(http.clone(), request))
    }

    /// Exchanges the code for the person's identity. Checks signature, issuer, audience, expiry and nonce.
    async fn identity(&self, code: String, flow: Flow, base: &str) -> Result<Identity, OidcError> {
        let client = self.client(self.metadata().await?, base)?;
        let caller = self.caller();
        let tokens = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|error| response_error(&error))?
            .set_pkce_verifier(PkceCodeVerifier::new(flow.verifier))
            .request_async(&caller)
            .await
            .map_err(|error| response_error(&error))?;
        let id_token = tokens
            .id_token()
            .ok_or_else(|| OidcError::Response("the response has no ID token".to_owned()))?;
        let verifier = client.id_token_verifier();
        let claims = match id_token.claims(&verifier, &Nonce::new(flow.nonce)) {
            Ok(claims) => claims,
            Err(error) => {
                // The provider may have rotated its keys: the next sign-in reads them.
                *self.metadata.lock().await = None;
                return Err(response_error(&error));
            }
        };
        if let Some(expected) = claims.access_token_hash() {
            let algorithm = id_token
                .signing_alg()
                .map_err(|error| response_error(&error))?;
            let key = id_token
                .signing_key(&verifier)
                .map_err(|error| response_error(&error))?;
            let found = AccessTokenHash::from_token(tokens.access_token(), algorithm, key)
                .map_err(|error| response_error(&error))?;
            if found != *expected {
                return Err(OidcError::Response(
                    "the access token does not match the ID token".to_owned(),
                ));
            }
        }
        let subject = claims.subject().clone();
        let mut email = claims.email().cloned();
        let mut is_verified = claims.email_verified() == Some(true);
        if email.is_none() && client.user_info_url().is_some() {
            let access = tokens.access_token().clone();
            let info: CoreUserInfoClaims = client
                .user_info(access, Some(subject.clone()))
                .map_err(|error| response_error(&error))?
                .request_async(&caller)
                .await
                .map_err(|error| response_error(&error))?;
            email = info.email().cloned();
            is_verified = info.email_verified() == Some(true);
        }
        Ok(Identity {
            issuer: claims.issuer().as_str().to_owned(),
            subject: subject.as_str().to_owned(),
            email: email
                .filter(|_| is_verified)
                .map(|email| normal_email(email.as_str())),
        })
    }
}

async fn call(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, CallError> {
    let (parts, body) = request.into_parts();
    let mut response = http
        .request(parts.method, parts.uri.to_string())
        .headers(parts.headers)
        .body(body)
        .send()
        .await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_RESPONSE_BYTES {
            return Err(CallError::TooLong);
        }
    }
    let mut converted = axum::http::Response::builder().status(response.status());
    if let Some(headers) = converted.headers_mut() {
        *headers = response.headers().clone();
    }
    Ok(converted.body(bytes)?)
}

/// Starts a sign-in, for a user of `tenant` if it is set.
///
/// # Errors
/// A problem of status 404 without a provider, 503 when it cannot be reached, 429 after too many attempts.
pub(crate) async fn begin(
    state: &ApiState,
    actor: &Actor,
    tenant: Option<String>,
) -> Result<Begun, Problem> {
    let oidc = state.oidc().ok_or_else(|| Problem::not_found("provider"))?;
    throttle::charge_address(state, actor.address).await?;
    let client = oidc.client(oidc.metadata().await?, &state.base_url())?;
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let (known, browser) = (Token::generate(), Token::generate());
    let text = known.expose().to_owned();
    let (url, _, nonce) = client
        .authorize_url(
            CoreAuthenticationFlow::AuthorizationCode,
            move || CsrfToken::new(text),
            Nonce::new_random,
        )
        .add_scope(Scope::new("email".to_owned()))
        .add_scope(Scope::new("profile".to_owned()))
        .set_pkce_challenge(challenge)
        .url();
    let flow = Flow {
        nonce: nonce.secret().clone(),
        verifier: verifier.into_secret(),
        tenant,
    };
    let flow = serde_json::to_vec(&flow).map_err(Problem::internal)?;
    provider::keep_flow(state.pool(), state.keys(), &known, &browser, &flow).await?;
    Ok(Begun { url, browser })
}

/// Completes a sign-in. The provider sends no code when the person declined.
///
/// # Errors
/// A problem when the request to the provider fails or its response is invalid.
pub(crate) async fn end(
    state: &ApiState,
    actor: &Actor,
    browser: Option<&Token>,
    known: Option<&Token>,
    code: Option<String>,
) -> Result<ProviderSignIn, Problem> {
    let oidc = state.oidc().ok_or_else(|| Problem::not_found("provider"))?;
    let (Some(browser), Some(known)) = (browser, known) else {
        return Ok(ProviderSignIn::Refused);
    };
    let flow = provider::take_flow(state.pool(), state.keys(), known, browser).await?;
    let (Some(flow), Some(code)) = (flow, code) else {
        return Ok(ProviderSignIn::Refused);
    };
    let flow: Flow = serde_json::from_slice(&flow).map_err(Problem::internal)?;
    let tenant = flow.tenant.clone();
    let identity = oidc.identity(code, flow, &state.base_url()).await?;
    Ok(provider::with_identity(state.pool(), actor, tenant, identity).await?)
}
