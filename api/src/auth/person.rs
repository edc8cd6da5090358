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
use super::caller::{Caller, Who};
use crate::ApiState;
use crate::problem::{Code, Problem};
use crate::sign_in::cookie::Cookie;
use harkara_accounts::Policies;
use harkara_accounts::users::session::{self, SessionFound};

/// Path prefix under which users manage their own sign-in, whatever the status of their tenant.
const OWN_SESSION_PREFIX: &str = "/v1/session";

/// Whether a user manages their own sign-in.
pub(super) fn manages_own_session(caller: &Caller, path: &str) -> bool {
    caller.is_person() && path.starts_with(OWN_SESSION_PREFIX)
}

/// The user who calls and the slug of their tenant; `None` for requests without a session or with an API
/// key.
///
/// # Errors
/// A problem of status 401 when the session has ended, of status 403 when the CSRF check fails.
pub(super) async fn found(
    state: &ApiState,
    parts: &mut Parts,
) -> Result<Option<(Caller, String)>, Problem> {
    if parts.headers.contains_key(AUTHORIZATION) {
        return Ok(None);
    }
    let Some(token) = Cookie::Session.read(&parts.headers, state.is_secure()) else {
        return Ok(None);
    };
    let found = session::find_session(state.pool(), &token)
        .await?
        .ok_or_else(|| {
            Problem::new(
                Code::Unauthorized,
                "the session has ended or never existed: sign in again",
            )
        })?;
    let own = state.http().public_url.as_ref();
    state
        .csrf()
        .check(&parts.method, &parts.headers, found.id, own)?;
    let found = Arc::new(found);
    parts.extensions.insert(Person(Arc::clone(&found)));
    let caller = Caller {
        tenant: found.tenant_id,
        is_platform: found.is_platform(),
        who: Who::Person {
            user: found.user_id,
            session: found.id,
            confirmed_until: found.confirmed_until,
        },
        home: found.tenant_id,
        by_platform: found.is_platform(),
        status: found.tenant_status,
        scopes: found.scopes().into(),
        budget: found.user_id.as_uuid(),
        policies: Policies::of_users(),
        actor: Arc::new(Actor {
            kind: ActorKind::Person,
            id: found.user_id.to_string(),
            name: Some(found.email.clone()),
            ..request_actor(parts)
        }),
        reservation: None,
    };
    Ok(Some((caller, found.tenant_slug.clone())))
}

/// The extractor of the signed-in user with their session, for routes about themselves.
#[derive(Debug, Clone)]
pub(crate) struct Person(pub(crate) Arc<SessionFound>);

impl Person {
    /// Begins a transaction of the user's own tenant, whichever tenant they act for.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn begin(&self, state: &ApiState) -> Result<TenantTx, Problem> {
        Ok(TenantTx::begin(state.pool(), self.0.tenant_id).await?)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Person {
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
