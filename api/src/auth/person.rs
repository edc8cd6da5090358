//! Room: people who have signed in, as requests bring them.
//! Takes: a request with the cookie of a session and without `Authorization`. Gives: the [`Caller`] that
//! the person is at this moment, and for routes about themselves their session.
//! Never: lets a change pass that another site's page may have asked for.

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
use crate::limits::Policies;
use crate::people::cookie::Cookie;
use crate::people::session::{self, SessionFound};
use crate::problem::{Code, Problem};

/// Where people look after their own sign-in, whatever their tenant's status.
const ABOUT_ONESELF: &str = "/v1/session";

/// Whether a person asks for what concerns their own sign-in alone.
pub(super) fn is_about_oneself(caller: &Caller, path: &str) -> bool {
    caller.is_person() && path.starts_with(ABOUT_ONESELF)
}

/// The person who calls and the slug of their tenant; `None` when no session is brought, or a key
/// besides.
///
/// # Errors
/// A problem of status 401 when the session is over, of status 403 when the request may be another's.
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
    let found = session::find(state.pool(), &token).await?.ok_or_else(|| {
        Problem::new(
            Code::Unauthorized,
            "the session is over, or was never there: sign in again",
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
        policies: Policies::of_people(),
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

/// The extractor for the person who calls, with their session: for what concerns themselves.
#[derive(Debug, Clone)]
pub(crate) struct Person(pub(crate) Arc<SessionFound>);

impl Person {
    /// A transaction of the person's own tenant, whomever they act for.
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
                "this concerns a person who has signed in, not an API key",
            )
        })
    }
}

/// The extractor for what a request says of somebody who is not known yet.
#[derive(Debug, Clone)]
pub(crate) struct AnonymousActor(pub(crate) Actor);

impl<S: Send + Sync> FromRequestParts<S> for AnonymousActor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(request_actor(parts)))
    }
}
