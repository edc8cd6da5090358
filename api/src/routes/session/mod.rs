//! Routes of sessions.
//!
//! Signs users in and out, and shows and lists their sessions. Never reveals which part of a sign-in was
//! wrong, and never shows another user's session.

pub(super) mod proof;

use axum::Json;
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use harkara_accounts::users::session::{self, Method, OpenSession, SessionRow};
use harkara_accounts::users::sign_in::Attempt;
use harkara_accounts::{Scope, TenantStatus};
use harkara_shared::id::{SessionId, TenantId, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::users::SignedOutResponse;
use crate::ApiState;
use crate::auth::{AnonymousActor, Caller, SignedInUser};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::paging::List;
use crate::problem::Problem;
use crate::sign_in::cookie::{Cookie, check_same_site};

/// Credentials of a user.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SignIn, example = json!({
    "email": "ada@example.com", "password": "correct horse battery staple", "code": "123456"
}))]
pub(super) struct SignInRequest {
    /// Email of the user, case-insensitive.
    #[schema(value_type = String, required, nullable = false)]
    email: Option<String>,
    /// Password of the user.
    #[schema(value_type = String, required, nullable = false)]
    password: Option<String>,
    /// Current code of the user's authenticator, if they have one.
    #[schema(example = "123456")]
    code: Option<String>,
    /// Slug or id of the tenant, for users of several tenants.
    #[schema(example = "acme")]
    tenant: Option<String>,
}

/// The user of a session.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionUser)]
pub(super) struct SessionUserResponse {
    /// Id of the user.
    id: UserId,
    /// Email of the user.
    #[schema(example = "ada@example.com")]
    email: String,
    /// Display name of the user.
    #[schema(example = "Ada Lovelace")]
    name: String,
}

/// The tenant of a session.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionTenant)]
pub(super) struct SessionTenantResponse {
    /// Id of the user.
    id: TenantId,
    /// Slug of the tenant, as used in headers.
    #[schema(example = "acme")]
    slug: String,
    /// Display name of the user.
    #[schema(example = "Acme")]
    name: String,
    /// Billing status of the tenant.
    status: TenantStatus,
}

/// The current session and its permissions.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub(super) struct SessionResponse {
    /// Id of the session.
    id: SessionId,
    /// The actor.
    user: SessionUserResponse,
    /// The user's tenant.
    tenant: SessionTenantResponse,
    /// How the user signed in.
    method: Method,
    /// Roles granted to the user that are in effect now.
    #[schema(example = json!(["operator"]))]
    roles: Vec<String>,
    /// Permissions in effect now.
    #[schema(example = json!(["jobs:manage", "jobs:read"]))]
    permissions: Vec<String>,
    /// Scopes in effect now.
    #[schema(value_type = Vec<String>, example = json!(["jobs:read", "jobs:write"]))]
    scopes: Vec<Scope>,
    /// Value of the header `X-CSRF-Token`, required for every request of this session that changes
    /// something.
    #[schema(example = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYq")]
    csrf_token: String,
    /// Until when the session is confirmed for sensitive operations; null if it is not.
    #[schema(required)]
    confirmed_until: Option<DateTime<Utc>>,
    /// When the session ends, regardless of activity.
    expires_at: DateTime<Utc>,
}

impl SessionResponse {
    fn of(state: &ApiState, found: &SessionRow) -> Self {
        Self {
            id: found.id,
            user: SessionUserResponse {
                id: found.user_id,
                email: found.email.clone(),
                name: found.name.clone(),
            },
            tenant: SessionTenantResponse {
                id: found.tenant_id,
                slug: found.tenant_slug.clone(),
                name: found.tenant_name.clone(),
                status: found.tenant_status,
            },
            method: found.method,
            roles: found.roles.clone(),
            permissions: found.permissions.clone(),
            scopes: found.scopes(),
            csrf_token: state.csrf().token(found.id),
            confirmed_until: found.confirmed_until,
            expires_at: found.expires_at,
        }
    }
}

/// Sign in
///
/// Sets the session cookie. An unknown email, a wrong password or code and a disabled user get the same
/// response. If the password is right and a code is required, the response says so. After ten attempts per
/// email or 100 attempts per address in 15 minutes, further attempts are rejected.
#[utoipa::path(
    post,
    path = "/v1/sessions",
    operation_id = "sign_in",
    tag = "people",
    security(()),
    request_body = SignInRequest,
    responses(
        (status = 201, description = "The session", body = SessionResponse,
            headers(("Set-Cookie" = String, description = "The session's cookie"))),
        (status = 401, description = "The credentials are wrong, or a code is required"),
        (status = 409, description = "The user belongs to several tenants, which are listed in `errors`"),
        (status = 429, description = "Too many attempts")
    )
)]
pub(super) async fn sign_in(
    State(state): State<ApiState>,
    AnonymousActor(actor): AnonymousActor,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, Problem> {
    check_same_site(&headers, state.http().public_url.as_ref())?;
    let mut errors = FieldErrors::default();
    let request: SignInRequest = body.members(&mut errors).unwrap_or_default();
    for (pointer, is_missing) in [
        ("/email", request.email.is_none()),
        ("/password", request.password.is_none()),
    ] {
        if is_missing {
            errors.add("", pointer, "missing", "is required");
        }
    }
    errors.into_body_result()?;
    let attempt = Attempt {
        email: request.email.unwrap_or_default(),
        password: request.password.unwrap_or_default(),
        code: request.code,
        tenant: request.tenant,
    };
    let signed_in = crate::sign_in::sign_in(&state, &actor, attempt).await?;
    let found = session::find_session(state.pool(), &signed_in).await?;
    let found = found.ok_or_else(crate::sign_in::failed)?;
    let cookie = Cookie::Session.set(&signed_in, session::MAX_LIFE, state.is_secure());
    let response = SessionResponse::of(&state, &found);
    Ok((StatusCode::CREATED, [(SET_COOKIE, cookie)], Json(response)).into_response())
}

/// Get the current session
///
/// Includes the permissions in effect now.
#[utoipa::path(
    get,
    path = "/v1/session",
    operation_id = "get_session",
    tag = "people",
    responses((status = 200, description = "The session", body = SessionResponse))
)]
pub(super) async fn get_session(
    State(state): State<ApiState>,
    SignedInUser(found): SignedInUser,
) -> Json<SessionResponse> {
    Json(SessionResponse::of(&state, &found))
}

/// Sign out
#[utoipa::path(
    delete,
    path = "/v1/session",
    operation_id = "sign_out",
    tag = "people",
    responses((status = 204, description = "The session was ended",
        headers(("Set-Cookie" = String, description = "Clears the session cookie"))))
)]
pub(super) async fn sign_out(
    State(state): State<ApiState>,
    signed_in: SignedInUser,
    caller: Caller,
) -> Result<Response, Problem> {
    end_sessions(&state, &signed_in, &caller, false).await?;
    Ok((
        StatusCode::NO_CONTENT,
        [(SET_COOKIE, expired_cookie(&state))],
    )
        .into_response())
}

/// An open session of the user.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenSession)]
pub(super) struct OpenSessionResponse {
    /// Id of the session.
    id: SessionId,
    /// Whether it is the session of this request.
    current: bool,
    /// How the user signed in.
    method: Method,
    /// When the user signed in.
    created_at: DateTime<Utc>,
    /// When the key was last used, to the minute.
    last_seen_at: DateTime<Utc>,
    /// When the session ends.
    expires_at: DateTime<Utc>,
    /// IP address of the sign-in.
    #[schema(required, example = "192.0.2.1")]
    address: Option<String>,
    /// `User-Agent` of the sign-in.
    #[schema(required, example = "Mozilla/5.0")]
    user_agent: Option<String>,
}

impl OpenSessionResponse {
    fn of(open: OpenSession, current: SessionId) -> Self {
        Self {
            id: open.id,
            current: open.id == current,
            method: open.method,
            created_at: open.created_at,
            last_seen_at: open.last_seen_at,
            expires_at: open.expires_at,
            address: open.address,
            user_agent: open.user_agent,
        }
    }
}

/// List the user's open sessions, newest first
#[utoipa::path(
    get,
    path = "/v1/sessions",
    operation_id = "list_sessions",
    tag = "people",
    responses((status = 200, description = "The sessions", body = List<OpenSessionResponse>))
)]
pub(super) async fn list_sessions(
    State(state): State<ApiState>,
    signed_in: SignedInUser,
) -> Result<Json<List<OpenSessionResponse>>, Problem> {
    let mut tx = signed_in.begin(&state).await?;
    let open = session::list_sessions(&mut tx, signed_in.0.user_id).await?;
    tx.commit().await?;
    let shown = |one| OpenSessionResponse::of(one, signed_in.0.id);
    let data = open.into_iter().map(shown).collect();
    Ok(Json(List { data }))
}

/// Sign out everywhere
///
/// Ends all sessions of the user, including the current one.
#[utoipa::path(
    delete,
    path = "/v1/sessions",
    operation_id = "sign_out_everywhere",
    tag = "people",
    responses((status = 200, description = "Number of sessions that were ended", body = SignedOutResponse,
        headers(("Set-Cookie" = String, description = "Clears the session cookie"))))
)]
pub(super) async fn sign_out_everywhere(
    State(state): State<ApiState>,
    signed_in: SignedInUser,
    caller: Caller,
) -> Result<Response, Problem> {
    let ended = end_sessions(&state, &signed_in, &caller, true).await?;
    let response = Json(SignedOutResponse { ended });
    Ok(([(SET_COOKIE, expired_cookie(&state))], response).into_response())
}

/// Ends the current session, or all sessions of the user.
async fn end_sessions(
    state: &ApiState,
    signed_in: &SignedInUser,
    caller: &Caller,
    everywhere: bool,
) -> Result<u64, Problem> {
    let mut tx = signed_in.begin(state).await?;
    let ended = session::sign_out(&mut tx, caller.actor(), &signed_in.0, everywhere).await?;
    tx.commit().await?;
    Ok(ended)
}

fn expired_cookie(state: &ApiState) -> axum::http::HeaderValue {
    Cookie::Session.clear(state.is_secure())
}
