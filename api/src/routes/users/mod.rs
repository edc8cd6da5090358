//! Routes of users.
//!
//! Creates, lists, shows, changes and deletes users, creates sign-in links, and ends sessions. Never lets a
//! caller act on a user who has permissions that the caller lacks.

pub(super) mod grants;
pub(super) mod overrides;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use harkara_shared::audit::{Actor, Entry};
use harkara_shared::database::TenantTx;
use harkara_shared::id::UserId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ApiState;
use crate::access::Scope;
use crate::auth::{Authorized, Caller, Confirmed, Who, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::paging::{List, Page, Paging};
use crate::people::{
    self, DEFAULT_LIFE, NewUser, SignInLink, User, UserChange, create_link, find_user, reach,
    session,
};
use crate::problem::{Code, Problem};
use crate::query::PathId;
use crate::time::Timestamp;

/// A user to create.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewUser, example = json!({
    "email": "ada@example.com", "name": "Ada Lovelace", "role": "operator"
}))]
pub(super) struct NewUserRequest {
    /// Email to sign in with, case-insensitive. Unique within the tenant.
    #[schema(value_type = String, required, nullable = false, min_length = 3, max_length = 254,
        pattern = r"^\S+@[^\s@]+$")]
    email: Option<String>,
    /// Display name of the user.
    #[schema(value_type = String, required, nullable = false, min_length = 1, max_length = 200)]
    name: Option<String>,
    /// Initial role, see `GET /v1/roles`.
    #[schema(value_type = String, required, nullable = false, example = "operator")]
    role: Option<String>,
    /// When the role expires. Default: never.
    #[schema(value_type = Option<DateTime<Utc>>, example = "2030-01-31T12:00:00Z")]
    expires_at: Option<Timestamp>,
    /// Reason for the role, for the audit log.
    #[schema(min_length = 1, max_length = 500)]
    reason: Option<String>,
}

/// Changes of a user. Members that are omitted stay unchanged.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UserChange, example = json!({"disabled": true}))]
pub(super) struct UserChangeRequest {
    /// Email of the user.
    #[schema(min_length = 3, max_length = 254, pattern = r"^\S+@[^\s@]+$")]
    email: Option<String>,
    /// Display name of the user.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// Whether the user is prevented from signing in. Disabling a user ends their sessions immediately.
    disabled: Option<bool>,
}

/// A user and their permissions.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub(super) struct UserResponse {
    /// Id of the user.
    id: UserId,
    /// Email to sign in with, in lower case.
    #[schema(example = "ada@example.com")]
    email: String,
    /// Display name of the user.
    #[schema(example = "Ada Lovelace")]
    name: String,
    /// Roles granted to the user that are in effect now.
    #[schema(example = json!(["operator"]))]
    roles: Vec<String>,
    /// Permissions in effect now: those of the user's roles and of the roles these inherit, plus the
    /// permissions allowed to the user, minus those denied.
    #[schema(example = json!(["jobs:manage", "jobs:read"]))]
    permissions: Vec<String>,
    /// Whether the user can sign in with a password.
    has_password: bool,
    /// Whether signing in with a password also requires a code.
    has_totp: bool,
    /// Whether the user has signed in through the identity provider.
    has_oidc: bool,
    /// When the user was created.
    created_at: DateTime<Utc>,
    /// When the user was last changed.
    updated_at: DateTime<Utc>,
    /// When the user last signed in.
    #[schema(required)]
    last_sign_in_at: Option<DateTime<Utc>>,
    /// When the user was disabled.
    #[schema(required)]
    disabled_at: Option<DateTime<Utc>>,
    /// Link to sign in with once, within 15 minutes. Only present in the response that created the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "https://jobs.example.com/sign-in/MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYq"
    )]
    sign_in_url: Option<String>,
}

impl From<User> for UserResponse {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            email: user.email,
            name: user.name,
            roles: user.roles,
            permissions: user.permissions,
            has_password: user.has_password,
            has_totp: user.has_totp,
            has_oidc: user.has_oidc,
            created_at: user.created_at,
            updated_at: user.updated_at,
            last_sign_in_at: user.last_sign_in_at,
            disabled_at: user.disabled_at,
            sign_in_url: None,
        }
    }
}

/// A link to sign in with.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SignInLink)]
pub(super) struct SignInLinkResponse {
    /// The link. Only shown once.
    #[schema(
        example = "https://jobs.example.com/sign-in/MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYq"
    )]
    sign_in_url: String,
    /// When the link expires.
    expires_at: DateTime<Utc>,
}

/// Number of sessions that were ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SignedOut)]
pub(super) struct SignedOutResponse {
    /// Number of sessions.
    #[schema(example = 2)]
    pub(super) ended: u64,
}

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
    let scopes = reach::of_user(tx, user, caller.is_platform).await?;
    require_scopes(caller, &scopes)
}

/// Returns an error if the caller is this user.
pub(super) fn require_other_user(caller: &Caller, user: UserId) -> Result<(), Problem> {
    match caller.who {
        Who::Person { user: own, .. } if own == user => Err(Problem::new(
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
    let mut faults = FieldErrors::default();
    let request: NewUserRequest = body.members(&mut faults).unwrap_or_default();
    for (pointer, is_missing) in [
        ("/email", request.email.is_none()),
        ("/name", request.name.is_none()),
        ("/role", request.role.is_none()),
    ] {
        if is_missing {
            faults.add("", pointer, "missing", "is required");
        }
    }
    faults.into_body_result()?;
    let actor = with_reason(caller.actor(), request.reason.as_deref());
    let new = NewUser {
        email: request.email.unwrap_or_default(),
        name: request.name.unwrap_or_default(),
        role: request.role.unwrap_or_default(),
        expires_at: request.expires_at.map(|moment| moment.0),
        reason: request.reason,
    };
    let mut tx = state.begin(&caller).await?;
    let scopes = reach::of_role(&mut tx, &new.role, caller.is_platform).await?;
    require_scopes(&caller, &scopes)?;
    let user = people::create_user(&mut tx, &actor, new).await?;
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
    let users = people::list_users(&mut tx, paging.after, paging.fetch_limit()).await?;
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
    let mut faults = FieldErrors::default();
    let request: UserChangeRequest = body.members(&mut faults).unwrap_or_default();
    faults.into_body_result()?;
    let change = UserChange {
        email: request.email,
        name: request.name,
        disabled: request.disabled,
    };
    let mut tx = state.begin(&caller).await?;
    require_permissions_of(&mut tx, &caller, id).await?;
    let user = people::change_user(&mut tx, caller.actor(), id, change).await?;
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
    people::delete_user(&mut tx, caller.actor(), id).await?;
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
    let ended = session::end_all(&mut tx, id, None).await?;
    let entry = Entry::new("user.sign_out", id).after(serde_json::json!({"ended": ended}));
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    Ok(Json(SignedOutResponse { ended }))
}

/// A role.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Role)]
pub(super) struct RoleResponse {
    /// Name of the role.
    #[schema(example = "operator")]
    name: String,
    /// Purpose of the role.
    #[schema(example = "Runs jobs, backups, trunks and reports; sees administration")]
    description: String,
    /// Roles whose permissions this role includes.
    #[schema(example = json!(["viewer"]))]
    inherits: Vec<String>,
    /// All permissions of the role, including inherited ones.
    #[schema(example = json!(["jobs:manage", "jobs:read"]))]
    permissions: Vec<String>,
    /// Scopes that the role grants in the API.
    #[schema(value_type = Vec<String>, example = json!(["jobs:read", "jobs:write"]))]
    scopes: Vec<Scope>,
}

/// List roles
///
/// Roles are the same for all tenants.
#[utoipa::path(
    get,
    path = "/v1/roles",
    operation_id = "list_roles",
    tag = "people",
    responses((status = 200, description = "All roles, ordered by name", body = List<RoleResponse>))
)]
pub(super) async fn list_roles(
    State(state): State<ApiState>,
    caller: Authorized<scope::UsersManage>,
) -> Result<Json<List<RoleResponse>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let roles = people::list_roles(&mut tx).await?;
    tx.commit().await?;
    let data = roles
        .into_iter()
        .map(|role| RoleResponse {
            scopes: people::permission::all_scopes(&role.permissions, caller.is_platform),
            name: role.name,
            description: role.description,
            inherits: role.inherits,
            permissions: role.permissions,
        })
        .collect();
    Ok(Json(List { data }))
}
