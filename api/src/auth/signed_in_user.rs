//! Signed-in users, identified by the session cookie of a request without `Authorization`.
//!
//! A request that changes something must pass the CSRF check, since another site's page could have sent it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use harkara_shared::audit::{Actor, ActorKind};
use harkara_shared::database::TenantTx;

use super::authenticate::request_actor;
use super::caller::{Caller, Principal};
use crate::ApiState;
use crate::problem::{Code, Problem};
use crate::sign_in::cookie::Cookie;
use harkara_accounts::Policies;
use harkara_accounts::users::session::{self, SessionRow};

/// Path prefix under which users manage their own sign-in, whatever the status of their tenant.
const SESSION_PREFIX: &str = "/v1/session";

/// Whether a signed-in user manages their own sign-in with this request.
pub(super) fn is_session_request(caller: &Caller, path: &str) -> bool {
    caller.is_user() && path.starts_with(SESSION_PREFIX)
}

/// The caller whose session cookie the request carries, and the slug of their tenant; `None` for requests without
/// a session or with an API key.
///
/// # Errors
/// A problem of status 401 when the session has ended, of status 403 when the CSRF check fails.
pub(super) async fn find_session_caller(
    state: &ApiState,
    parts: &mut Parts,
) -> Result<Option<(Caller, String)>, Problem> {
    if parts.headers.contains_key(AUTHORIZATION) {
        return Ok(None);
    }
    let Some(token) = Cookie::Session.read(&parts.headers, state.is_secure()) else {
        return Ok(None);
    };
    let session = session::find_session(state.pool(), &token)
        .await?
        .ok_or_else(|| {
            Problem::new(
                Code::Unauthorized,
                "the session has ended or never existed: sign in again",
            )
        })?;
    let public_url = state.http().public_url.as_ref();
    state
        .csrf()
        .check(&parts.method, &parts.headers, session.id, public_url)?;
    let session = Arc::new(session);
    parts.extensions.insert(SignedInUser(Arc::clone(&session)));
    let caller = Caller {
        tenant: session.tenant_id,
        in_platform_tenant: session.is_platform(),
        principal: Principal::User {
            user: session.user_id,
            session: session.id,
            confirmed_until: session.confirmed_until,
        },
        home_tenant: session.tenant_id,
        from_platform: session.is_platform(),
        home_status: session.tenant_status,
        scopes: session.scopes().into(),
        rate_policies: Policies::of_users(),
        actor: Arc::new(Actor {
            kind: ActorKind::Person,
            id: session.user_id.to_string(),
            name: Some(session.email.clone()),
            ..request_actor(parts)
        }),
        idempotency_reservation: None,
    };
    Ok(Some((caller, session.tenant_slug.clone())))
}

/// The extractor of the signed-in user with their session, for routes about themselves.
#[derive(Debug, Clone)]
pub(crate) struct SignedInUser(pub(crate) Arc<SessionRow>);

impl SignedInUser {
    /// Begins a transaction of the user's own tenant, whichever tenant they act for.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn begin(&self, state: &ApiState) -> Result<TenantTx, Problem> {
        Ok(TenantTx::begin(state.pool(), self.0.tenant_id).await?)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SignedInUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Problem::new(
                Code::PersonOnly,
                "this operation is for signed-in users, not for API keys",
            )
        })
    }
}

/// The extractor of the actor of an unauthenticated request.
#[derive(Debug, Clone)]
pub(crate) struct AnonymousActor(pub(crate) Actor);

impl<S: Send + Sync> FromRequestParts<S> for AnonymousActor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(request_actor(parts)))
    }
}
