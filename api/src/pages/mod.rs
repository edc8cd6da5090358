//! Pages for users: sign-in and account.
//!
//! The pages need no script. Viewing a sign-in link never uses it up, and no page changes anything on
//! behalf of another site.

pub(crate) mod form;
mod oidc;

use askama::Template;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, SET_COOKIE,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use harkara_accounts::users::session::{self, OpenSession, SessionRow};
use harkara_accounts::users::sign_in::{Attempt, with_link};
use harkara_accounts::users::{Token, find_link};
use harkara_shared::audit::{Actor, ActorKind};
use harkara_shared::database::TenantTx;

use crate::ApiState;
use crate::auth::AnonymousActor;
use crate::problem::{Code, Problem};
use crate::sign_in;
use crate::sign_in::cookie::{Cookie, check_same_site};
use form::Form;

/// Content Security Policy: pages load only our stylesheet and submit forms only to ourselves.
const CONTENT_SECURITY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("../../templates/style.css");

/// Routes of the pages.
pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/", get(account_page))
        .route("/style.css", get(stylesheet))
        .route("/sign-in", get(sign_in_page).post(sign_in_submit))
        .route("/sign-in/oidc", get(oidc::begin_sign_in))
        .route(crate::sign_in::oidc::CALLBACK, get(oidc::complete_sign_in))
        .route("/sign-in/{token}", get(link_page).post(use_link))
        .route("/sign-out", post(sign_out))
}

/// Paths of the pages, which are not part of the OpenAPI document.
#[cfg(test)]
pub(crate) const PATHS: [&str; 6] = [
    "/style.css",
    "/sign-in",
    "/sign-in/oidc",
    "/sign-in/oidc/callback",
    "/sign-in/{token}",
    "/sign-out",
];

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    failure: Option<&'a str>,
    email: &'a str,
    tenants: &'a [&'a str],
    provider: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "link.html")]
struct LinkPage<'a> {
    name: &'a str,
    email: &'a str,
}

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage<'a> {
    title: &'a str,
    text: &'a str,
    links: &'a [(String, String)],
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage<'a> {
    me: &'a SessionRow,
    sessions: &'a [OpenSession],
    csrf: &'a str,
}

/// Renders a page with its security headers.
pub(crate) fn page(status: StatusCode, template: &impl Template) -> Result<Response, Problem> {
    let text = template.render().map_err(Problem::internal)?;
    let headers: [(HeaderName, HeaderValue); 4] = [
        (
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(CONTENT_SECURITY),
        ),
        // With `no-referrer`, browsers would not send the Origin of our own forms.
        (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    ];
    Ok((status, headers, text).into_response())
}

/// A page with one message and buttons to continue.
pub(crate) fn message(
    status: StatusCode,
    title: &str,
    text: &str,
    links: &[(String, String)],
) -> Result<Response, Problem> {
    page(status, &MessagePage { title, text, links })
}

fn sign_in_button() -> [(String, String); 1] {
    [("Sign in".to_owned(), "/sign-in".to_owned())]
}

/// Redirects the browser with a GET.
fn redirect(to: &'static str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response()
}

/// Sets the session cookie and redirects to the account page.
fn redirect_signed_in(state: &ApiState, session: &Token) -> Response {
    let cookie = Cookie::Session.set(session, session::MAX_LIFE, state.is_secure());
    let mut response = redirect("/");
    response.headers_mut().append(SET_COOKIE, cookie);
    response
}

/// Returns the browser's session if it is valid.
async fn current_session(
    state: &ApiState,
    headers: &HeaderMap,
) -> Result<Option<SessionRow>, Problem> {
    match Cookie::Session.read(headers, state.is_secure()) {
        Some(token) => Ok(session::find_session(state.pool(), &token).await?),
        None => Ok(None),
    }
}

async fn stylesheet() -> Response {
    let headers = [
        (CONTENT_TYPE, "text/css; charset=utf-8"),
        (CACHE_CONTROL, "public, max-age=3600"),
    ];
    (headers, STYLE).into_response()
}

fn sign_in_response(
    state: &ApiState,
    status: StatusCode,
    email: &str,
    failure: Option<&str>,
    tenants: &[&str],
) -> Result<Response, Problem> {
    let template = SignInPage {
        failure,
        email,
        tenants,
        provider: state.oidc().map(|oidc| oidc.name()),
    };
    page(status, &template)
}

async fn sign_in_page(
    State(state): State<ApiState>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if current_session(&state, &headers).await?.is_some() {
        return Ok(redirect("/"));
    }
    sign_in_response(&state, StatusCode::OK, "", None, &[])
}

async fn sign_in_submit(
    State(state): State<ApiState>,
    AnonymousActor(actor): AnonymousActor,
    headers: HeaderMap,
    form: Form,
) -> Result<Response, Problem> {
    check_same_site(&headers, state.http().public_url.as_ref())?;
    let attempt = Attempt {
        email: form.text("email"),
        password: form.text("password"),
        code: form.optional("code"),
        tenant: form.optional("tenant"),
    };
    let problem = match sign_in::sign_in(&state, &actor, attempt).await {
        Ok(session) => return Ok(redirect_signed_in(&state, &session)),
        Err(problem) => problem,
    };
    let text = match problem.code() {
        Code::SignInFailed => "The email, the password or the code is wrong.",
        Code::SecondFactor => "Enter the code of your authenticator.",
        Code::ChooseTenant => "You belong to several tenants. Choose one.",
        _ if problem.status() == StatusCode::TOO_MANY_REQUESTS => {
            "Too many attempts. Try again in 15 minutes."
        }
        _ => return Err(problem),
    };
    let errors = problem.field_errors().iter();
    let tenants: Vec<&str> = errors.map(|error| error.detail.as_str()).collect();
    let email = form.text("email");
    sign_in_response(&state, problem.status(), &email, Some(text), &tenants)
}

fn link_expired() -> Result<Response, Problem> {
    message(
        StatusCode::GONE,
        "This link no longer works",
        "It has already been used or has expired. Ask for a new one.",
        &sign_in_button(),
    )
}

async fn link_page(
    State(state): State<ApiState>,
    Path(token): Path<String>,
) -> Result<Response, Problem> {
    let Some(token) = Token::parse(&token) else {
        return link_expired();
    };
    match find_link(state.pool(), &token).await? {
        Some(link) => page(
            StatusCode::OK,
            &LinkPage {
                name: &link.name,
                email: &link.email,
            },
        ),
        None => link_expired(),
    }
}

async fn use_link(
    State(state): State<ApiState>,
    AnonymousActor(actor): AnonymousActor,
    headers: HeaderMap,
    Path(token): Path<String>,
) -> Result<Response, Problem> {
    check_same_site(&headers, state.http().public_url.as_ref())?;
    let Some(token) = Token::parse(&token) else {
        return link_expired();
    };
    match with_link(state.pool(), &actor, &token).await? {
        Some(session) => Ok(redirect_signed_in(&state, &session)),
        None => link_expired(),
    }
}

async fn account_page(
    State(state): State<ApiState>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Some(me) = current_session(&state, &headers).await? else {
        return Ok(redirect("/sign-in"));
    };
    let mut tx = TenantTx::begin(state.pool(), me.tenant_id).await?;
    let sessions = session::list_sessions(&mut tx, me.user_id).await?;
    tx.commit().await?;
    let csrf = state.csrf().token(me.id);
    let account = AccountPage {
        me: &me,
        sessions: &sessions,
        csrf: &csrf,
    };
    page(StatusCode::OK, &account)
}

async fn sign_out(
    State(state): State<ApiState>,
    AnonymousActor(actor): AnonymousActor,
    headers: HeaderMap,
    form: Form,
) -> Result<Response, Problem> {
    check_same_site(&headers, state.http().public_url.as_ref())?;
    if let Some(me) = current_session(&state, &headers).await? {
        if !state.csrf().verify(me.id, &form.text("csrf")) {
            return Err(Problem::new(
                Code::Csrf,
                "CSRF token does not match the session",
            ));
        }
        let actor = Actor {
            kind: ActorKind::Person,
            id: me.user_id.to_string(),
            name: Some(me.email.clone()),
            ..actor
        };
        let mut tx = TenantTx::begin(state.pool(), me.tenant_id).await?;
        session::sign_out(&mut tx, &actor, &me, form.optional("everywhere").is_some()).await?;
        tx.commit().await?;
    }
    let mut response = redirect("/sign-in");
    let expired = Cookie::Session.clear(state.is_secure());
    response.headers_mut().append(SET_COOKIE, expired);
    Ok(response)
}
