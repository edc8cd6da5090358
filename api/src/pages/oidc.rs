//! Pages of sign-in through the identity provider.
//!
//! Redirect to the provider, and complete the sign-in when the browser returns. Never show the provider's
//! error message.

use axum::extract::{RawQuery, State};
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use harkara_accounts::users::Token;
use harkara_accounts::users::provider::{FLOW_LIFE, ProviderSignIn};
use url::form_urlencoded;

use super::{message, redirect_signed_in, sign_in_button};
use crate::ApiState;
use crate::auth::AnonymousActor;
use crate::problem::Problem;
use crate::sign_in::cookie::Cookie;
use crate::sign_in::oidc;

/// Reads a parameter of the query string; providers add parameters of their own.
fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(csrf_state, _)| csrf_state == name)
        .map(|(_, value)| value.into_owned())
        .filter(|value| !value.is_empty() && !value.contains('\0'))
}

pub(super) async fn begin_sign_in(
    State(state): State<ApiState>,
    AnonymousActor(actor): AnonymousActor,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let tenant = parameter(query.as_deref(), "tenant");
    let flow = oidc::begin(&state, &actor, tenant).await?;
    let to = HeaderValue::try_from(flow.url.as_str()).map_err(Problem::internal)?;
    let cookie = Cookie::Flow.set(&flow.browser, FLOW_LIFE, state.is_secure());
    Ok((
        StatusCode::SEE_OTHER,
        [(LOCATION, to), (SET_COOKIE, cookie)],
    )
        .into_response())
}

pub(super) async fn complete_sign_in(
    State(state): State<ApiState>,
    AnonymousActor(actor): AnonymousActor,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = query.as_deref();
    let browser = Cookie::Flow.read(&headers, state.is_secure());
    let csrf_state = parameter(query, "state").and_then(|text| Token::parse(&text));
    let code = parameter(query, "code");
    let outcome = oidc::end(&state, &actor, browser.as_ref(), csrf_state.as_ref(), code).await?;
    let mut response = match outcome {
        ProviderSignIn::SignedIn(session) => redirect_signed_in(&state, &session),
        ProviderSignIn::Refused => message(
            StatusCode::UNAUTHORIZED,
            "Sign-in failed",
            "The sign-in was canceled or took too long, or no user has this email.",
            &sign_in_button(),
        )?,
        ProviderSignIn::ChooseTenant(slugs) => {
            let link = |slug: String| {
                let query: String = form_urlencoded::byte_serialize(slug.as_bytes()).collect();
                (slug, format!("/sign-in/oidc?tenant={query}"))
            };
            let links: Vec<(String, String)> = slugs.into_iter().map(link).collect();
            let text = "You belong to several tenants. Choose one.";
            message(StatusCode::CONFLICT, "Choose a tenant", text, &links)?
        }
    };
    let expired = Cookie::Flow.clear(state.is_secure());
    response.headers_mut().append(SET_COOKIE, expired);
    Ok(response)
}
