//! Room: routes of sessions.
//! Takes: what somebody signs in with, or a person's request. Gives: a session, who has it, all that are
//! open, their end.
//! Never: tells what was wrong with a sign-in, or shows another person's session.

pub(super) mod proof;

use axum::Json;
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use harkara_shared::id::{SessionId, TenantId, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::Whole;
use super::users::SignedOutResponse;
use crate::ApiState;
use crate::access::{Scope, TenantStatus};
use crate::auth::{Caller, Person, Visitor};
use crate::body::JsonBody;
use crate::faults::Faults;
use crate::people::cookie::{Cookie, own_site};
use crate::people::session::{self, Method, OpenSession, SessionFound};
use crate::people::sign_in::{self, Attempt};
use crate::problem::Problem;

/// What somebody signs in with.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SignIn, example = json!({
    "email": "ada@example.com", "password": "correct horse battery staple", "code": "123456"
}))]
pub(super) struct SignInRequest {
    /// Their email; case does not matter.
    #[schema(value_type = String, required, nullable = false)]
    email: Option<String>,
    /// Their password.
    #[schema(value_type = String, required, nullable = false)]
    password: Option<String>,
    /// The code of their authenticator, if they have one.
    #[schema(example = "123456")]
    code: Option<String>,
    /// Slug or id of the tenant, for those who are users of several.
    #[schema(example = "acme")]
    tenant: Option<String>,
}

/// A person, as sessions show them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionUser)]
pub(super) struct SessionUserResponse {
    /// Id.
    #[schema(value_type = String, example = "usr_01h455vb4pex5vsknk084sn02q")]
    id: UserId,
    /// What they sign in with.
    #[schema(example = "ada@example.com")]
    email: String,
    /// What people call them.
    #[schema(example = "Ada Lovelace")]
    name: String,
}

/// A tenant, as sessions show it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionTenant)]
pub(super) struct SessionTenantResponse {
    /// Id.
    #[schema(value_type = String, example = "ten_01h455vb4pex5vsknk084sn02q")]
    id: TenantId,
    /// What it is called in headers.
    #[schema(example = "acme")]
    slug: String,
    /// What people call it.
    #[schema(example = "Acme")]
    name: String,
    /// Where it stands with its bills.
    status: TenantStatus,
}

/// Who has signed in, and what they may do now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub(super) struct SessionResponse {
    /// The session.
    #[schema(value_type = String, example = "ses_01h455vb4pex5vsknk084sn02q")]
    id: SessionId,
    /// Who.
    user: SessionUserResponse,
    /// Whose they are.
    tenant: SessionTenantResponse,
    /// How they signed in.
    method: Method,
    /// The roles granted to them that hold now.
    #[schema(example = json!(["operator"]))]
    roles: Vec<String>,
    /// What they may do now.
    #[schema(example = json!(["jobs:manage", "jobs:read"]))]
    permissions: Vec<String>,
    /// What that is in the API.
    #[schema(value_type = Vec<String>, example = json!(["jobs:read", "jobs:write"]))]
    scopes: Vec<Scope>,
    /// For the header `X-CSRF-Token` of every request of this session that changes something.
    #[schema(example = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYq")]
    csrf_token: String,
    /// Until when what needs confirmation is confirmed; null when it is not.
    #[schema(required)]
    confirmed_until: Option<DateTime<Utc>>,
    /// When the session ends, however busy it is.
    expires_at: DateTime<Utc>,
}

impl SessionResponse {
    fn of(state: &ApiState, found: &SessionFound) -> Self {
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
/// Answers the session's cookie. An unknown email, a wrong password or code and a disabled user are
/// answered alike. Where a code is needed, a right password without one is told so. After ten attempts in
/// fifteen minutes for one email, or a hundred from one address, further ones are refused.
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
        (status = 401, description = "Something is wrong, or a code is needed as well"),
        (status = 409, description = "Users of several tenants are this person: `errors` names them"),
        (status = 429, description = "Too many attempts")
    )
)]
pub(super) async fn sign_in(
    State(state): State<ApiState>,
    Visitor(visitor): Visitor,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, Problem> {
    own_site(&headers, state.http().public_url.as_ref())?;
    let mut faults = Faults::default();
    let request: SignInRequest = body.members(&mut faults).unwrap_or_default();
    for (pointer, is_missing) in [
        ("/email", request.email.is_none()),
        ("/password", request.password.is_none()),
    ] {
        if is_missing {
            faults.add("", pointer, "missing", "must be there");
        }
    }
    faults.none_in_body()?;
    let attempt = Attempt {
        email: request.email.unwrap_or_default(),
        password: request.password.unwrap_or_default(),
        code: request.code,
        tenant: request.tenant,
    };
    let signed_in = sign_in::with_password(&state, &visitor, attempt).await?;
    let found = session::find(state.pool(), &signed_in).await?;
    let found = found.ok_or_else(sign_in::failed)?;
    let cookie = Cookie::Session.set(&signed_in, session::LIFE, state.is_secure());
    let answer = SessionResponse::of(&state, &found);
    Ok((StatusCode::CREATED, [(SET_COOKIE, cookie)], Json(answer)).into_response())
}

/// Show who has signed in
///
/// And what they may do at this moment. For people only.
#[utoipa::path(
    get,
    path = "/v1/session",
    operation_id = "get_session",
    tag = "people",
    responses((status = 200, description = "The session", body = SessionResponse))
)]
pub(super) async fn get_session(
    State(state): State<ApiState>,
    Person(found): Person,
) -> Json<SessionResponse> {
    Json(SessionResponse::of(&state, &found))
}

/// Sign out
///
/// For people only.
#[utoipa::path(
    delete,
    path = "/v1/session",
    operation_id = "sign_out",
    tag = "people",
    responses((status = 204, description = "The session is over",
        headers(("Set-Cookie" = String, description = "Takes the cookie back"))))
)]
pub(super) async fn sign_out(
    State(state): State<ApiState>,
    person: Person,
    caller: Caller,
) -> Result<Response, Problem> {
    end_sessions(&state, &person, &caller, false).await?;
    Ok((
        StatusCode::NO_CONTENT,
        [(SET_COOKIE, expired_cookie(&state))],
    )
        .into_response())
}

/// An open session of a person.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenSession)]
pub(super) struct OpenSessionResponse {
    /// The session.
    #[schema(value_type = String, example = "ses_01h455vb4pex5vsknk084sn02q")]
    id: SessionId,
    /// Whether it is the one that asks.
    current: bool,
    /// How the person signed in.
    method: Method,
    /// When they signed in.
    created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    last_seen_at: DateTime<Utc>,
    /// When it ends.
    expires_at: DateTime<Utc>,
    /// From where they signed in.
    #[schema(required, example = "192.0.2.1")]
    address: Option<String>,
    /// With what.
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

/// List one's open sessions, newest first
///
/// For people only.
#[utoipa::path(
    get,
    path = "/v1/sessions",
    operation_id = "list_sessions",
    tag = "people",
    responses((status = 200, description = "The sessions", body = Whole<OpenSessionResponse>))
)]
pub(super) async fn list_sessions(
    State(state): State<ApiState>,
    person: Person,
) -> Result<Json<Whole<OpenSessionResponse>>, Problem> {
    let mut tx = person.begin(&state).await?;
    let open = session::list(&mut tx, person.0.user_id).await?;
    tx.commit().await?;
    let shown = |one| OpenSessionResponse::of(one, person.0.id);
    let data = open.into_iter().map(shown).collect();
    Ok(Json(Whole { data }))
}

/// Sign out everywhere
///
/// Ends all of one's sessions, this one too. For people only.
#[utoipa::path(
    delete,
    path = "/v1/sessions",
    operation_id = "sign_out_everywhere",
    tag = "people",
    responses((status = 200, description = "The sessions are over", body = SignedOutResponse,
        headers(("Set-Cookie" = String, description = "Takes the cookie back"))))
)]
pub(super) async fn sign_out_everywhere(
    State(state): State<ApiState>,
    person: Person,
    caller: Caller,
) -> Result<Response, Problem> {
    let ended = end_sessions(&state, &person, &caller, true).await?;
    let answer = Json(SignedOutResponse { ended });
    Ok(([(SET_COOKIE, expired_cookie(&state))], answer).into_response())
}

/// Ends the person's session, or all of them.
async fn end_sessions(
    state: &ApiState,
    person: &Person,
    caller: &Caller,
    everywhere: bool,
) -> Result<u64, Problem> {
    let mut tx = person.begin(state).await?;
    let ended = session::sign_out(&mut tx, caller.actor(), &person.0, everywhere).await?;
    tx.commit().await?;
    Ok(ended)
}

fn expired_cookie(state: &ApiState) -> axum::http::HeaderValue {
    Cookie::Session.clear(state.is_secure())
}
