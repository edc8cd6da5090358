//! Routes of users.
//!
//! Creates, lists, shows, changes and deletes users, creates sign-in links, and ends sessions. Never lets a
//! caller act on a user who has permissions that the caller lacks.

pub(super) mod grants;
pub(super) mod overrides;
mod request;
mod response;
pub(super) mod roles;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use harkara_accounts::Scope;
use harkara_accounts::users::{
    self, DEFAULT_LIFE, NewUser, SignInLink, User, UserChange, create_link, effective_permissions,
    find_user, session,
};
use harkara_shared::audit::{Actor, Entry};
use harkara_shared::database::TenantTx;
use harkara_shared::id::UserId;

use self::request::{NewUserRequest, UserChangeRequest};
pub(super) use self::response::SignedOutResponse;
use self::response::{SignInLinkResponse, UserResponse};
use crate::ApiState;
use crate::auth::{Authorized, Caller, Confirmed, Principal, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::paging::{Page, Paging};
use crate::problem::{Code, Problem};
use crate::query::PathId;

/// The actor with the reason given in the body, if any.
pub(super) fn with_reason(actor: &Actor, reason: Option<&str>) -> Actor {
    let mut actor = actor.clone();
    if let Some(reason) = reason {
        actor.reason = Some(reason.to_owned());
    }
    actor
}

/// Returns an error unless the caller has all these scopes.
///
/// # Errors A problem with status 403 that names the first missing scope.
pub(super) fn require_scopes(caller: &Caller, scopes: &[Scope]) -> Result<(), Problem> {
    match scopes.iter().find(|scope| !caller.has(**scope)) {
        None => Ok(()),
        Some(missing) => Err(Problem::new(
            Code::Escalation,
            format!("scope `{missing}` is required, which the caller does not have"),
        )),
    }
}

/// Returns an error unless the caller has all scopes that the user has or could obtain. Otherwise a caller
/// could gain scopes by changing, or signing in as, another user.
pub(super) async fn require_permissions_of(
    tx: &mut TenantTx,
    caller: &Caller,
    user: UserId,
) -> Result<(), Problem> {
    let scopes = effective_permissions::of_user(tx, user, caller.in_platform_tenant).await?;
    require_scopes(caller, &scopes)
}

/// Returns an error if the caller is this user.
pub(super) fn require_other_user(caller: &Caller, user: UserId) -> Result<(), Problem> {
    match caller.principal {
        Principal::User { user: own, .. } if own == user => Err(Problem::new(
            Code::OwnGrants,
            "your own permissions must be changed by another user",
        )),
        _ => Ok(()),
    }
}

pub(super) fn user_not_found() -> Problem {
    Problem::not_found("user")
}

/// Create a user
///
/// The response contains a link for the user to sign in with, once. The caller must have all scopes that
/// come with the role.
#[utoipa::path(
    post,
    path = "/v1/users",
    operation_id = "create_user",
    tag = "people",
    request_body = NewUserRequest,
    responses(
        (status = 201, description = "The user, with a sign-in link", body = UserResponse,
            headers(("Location" = String, description = "Path of the user"))),
        (status = 409, description = "The email is used by another user")
    )
)]
pub(super) async fn create_user(
    State(state): State<ApiState>,
    caller: Authorized<Confirmed<scope::UsersManage>>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let mut errors = FieldErrors::default();
    let request: NewUserRequest = body.members(&mut errors).unwrap_or_default();
    for (pointer, is_missing) in [
        ("/email", request.email.is_none()),
        ("/name", request.name.is_none()),
        ("/role", request.role.is_none()),
    ] {
        if is_missing {
            errors.add("", pointer, "missing", "is required");
        }
    }
    errors.into_body_result()?;
    let actor = with_reason(caller.actor(), request.reason.as_deref());
    let new = NewUser {
        email: request.email.unwrap_or_default(),
        name: request.name.unwrap_or_default(),
        role: request.role.unwrap_or_default(),
        expires_at: request.expires_at.map(|moment| moment.0),
        reason: request.reason,
    };
    let mut tx = state.begin(&caller).await?;
    let scopes =
        effective_permissions::of_role(&mut tx, &new.role, caller.in_platform_tenant).await?;
    require_scopes(&caller, &scopes)?;
    let user = users::create_user(&mut tx, &actor, new).await?;
    let link = create_link(&mut tx, &actor, user.id, DEFAULT_LIFE).await?;
    tx.commit().await?;
    let location = [(LOCATION, format!("/v1/users/{}", user.id))];
    let response = UserResponse {
        sign_in_url: Some(link.url(&state.base_url())),
        ..user.into()
    };
    Ok((StatusCode::CREATED, location, Json(response)).into_response())
}

/// List users, newest first
#[utoipa::path(
    get,
    path = "/v1/users",
    operation_id = "list_users",
    tag = "people",
    responses((status = 200, description = "A page of users", body = Page<UserResponse>))
)]
pub(super) async fn list_users(
    State(state): State<ApiState>,
    caller: Authorized<scope::UsersManage>,
    paging: Paging<UserId>,
) -> Result<Json<Page<UserResponse>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let users = users::list_users(&mut tx, paging.after, paging.fetch_limit()).await?;
    tx.commit().await?;
    Ok(paging.page(users, |user: &User| user.id, UserResponse::from))
}

/// Get a user
#[utoipa::path(
    get,
    path = "/v1/users/{id}",
    operation_id = "get_user",
    tag = "people",
    responses((status = 200, description = "The user", body = UserResponse))
)]
pub(super) async fn get_user(
    State(state): State<ApiState>,
    caller: Authorized<scope::UsersManage>,
    PathId(id): PathId<UserId>,
) -> Result<Json<UserResponse>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let user = find_user(&mut tx, id).await?;
    tx.commit().await?;
    user.map(|user| Json(user.into()))
        .ok_or_else(user_not_found)
}

/// Change a user
///
/// Disabling a user ends their sessions immediately. The caller must have all scopes of the user.
#[utoipa::path(
    patch,
    path = "/v1/users/{id}",
    operation_id = "change_user",
    tag = "people",
    request_body = UserChangeRequest,
    responses(
        (status = 200, description = "The changed user", body = UserResponse),
        (status = 409, description = "The email is used by another user, or the tenant would have no administrator left")
    )
)]
pub(super) async fn change_user(
    State(state): State<ApiState>,
    caller: Authorized<Confirmed<scope::UsersManage>>,
    PathId(id): PathId<UserId>,
    body: JsonBody,
) -> Result<Json<UserResponse>, Problem> {
    let mut errors = FieldErrors::default();
    let request: UserChangeRequest = body.members(&mut errors).unwrap_or_default();
    errors.into_body_result()?;
    let change = UserChange {
        email: request.email,
        name: request.name,
        disabled: request.disabled,
    };
    let mut tx = state.begin(&caller).await?;
    require_permissions_of(&mut tx, &caller, id).await?;
    let user = users::change_user(&mut tx, caller.actor(), id, change).await?;
    tx.commit().await?;
    Ok(Json(user.into()))
}

/// Delete a user
///
/// Ends the user's sessions immediately. Their entries in the audit log are kept. The caller must have all
/// scopes of the user.
#[utoipa::path(
    delete,
    path = "/v1/users/{id}",
    operation_id = "delete_user",
    tag = "people",
    responses(
        (status = 204, description = "The user was deleted"),
        (status = 409, description = "The tenant would have no administrator left")
    )
)]
pub(super) async fn delete_user(
    State(state): State<ApiState>,
    caller: Authorized<Confirmed<scope::UsersManage>>,
    PathId(id): PathId<UserId>,
) -> Result<StatusCode, Problem> {
    let mut tx = state.begin(&caller).await?;
    require_permissions_of(&mut tx, &caller, id).await?;
    users::delete_user(&mut tx, caller.actor(), id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Create a sign-in link for a user
///
/// The link works once, within 15 minutes, and replaces unused links. Callers cannot create links for
/// themselves. The caller must have all scopes of the user.
#[utoipa::path(
    post,
    path = "/v1/users/{id}/sign-in-link",
    operation_id = "create_sign_in_link",
    tag = "people",
    responses(
        (status = 201, description = "The link", body = SignInLinkResponse),
        (status = 409, description = "The user is disabled")
    )
)]
pub(super) async fn create_sign_in_link(
    State(state): State<ApiState>,
    caller: Authorized<Confirmed<scope::UsersManage>>,
    PathId(id): PathId<UserId>,
) -> Result<(StatusCode, Json<SignInLinkResponse>), Problem> {
    let mut tx = state.begin(&caller).await?;
    let user = find_user(&mut tx, id).await?.ok_or_else(user_not_found)?;
    if user.disabled_at.is_some() {
        return Err(Problem::new(Code::Conflict, "user is disabled"));
    }
    require_other_user(&caller, id)?;
    require_permissions_of(&mut tx, &caller, id).await?;
    let link: SignInLink = create_link(&mut tx, caller.actor(), id, DEFAULT_LIFE).await?;
    tx.commit().await?;
    let response = SignInLinkResponse {
        sign_in_url: link.url(&state.base_url()),
        expires_at: link.expires_at,
    };
    Ok((StatusCode::CREATED, Json(response)))
}

/// Sign a user out everywhere
///
/// The caller must have all scopes of the user.
#[utoipa::path(
    post,
    path = "/v1/users/{id}/sign-out",
    operation_id = "sign_user_out",
    tag = "people",
    responses((status = 200, description = "Number of sessions that were ended", body = SignedOutResponse))
)]
pub(super) async fn sign_user_out(
    State(state): State<ApiState>,
    caller: Authorized<scope::UsersManage>,
    PathId(id): PathId<UserId>,
) -> Result<Json<SignedOutResponse>, Problem> {
    let mut tx = state.begin(&caller).await?;
    find_user(&mut tx, id).await?.ok_or_else(user_not_found)?;
    require_permissions_of(&mut tx, &caller, id).await?;
    let ended = session::end_sessions(&mut tx, id, None).await?;
    let entry = Entry::new("user.sign_out", id).after(serde_json::json!({"ended": ended}));
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    Ok(Json(SignedOutResponse { ended }))
}
