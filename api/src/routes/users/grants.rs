//! Routes of roles granted to users.
//!
//! Creates, lists and revokes grants. Never lets a caller grant permissions that the caller lacks, or grant
//! roles to themselves.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use harkara_accounts::users::{
    self, Grant, GrantId, NewGrant, effective_permissions, find_user, grant_role,
};
use harkara_shared::id::UserId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    require_other_user, require_permissions_of, require_scopes, user_not_found, with_reason,
};
use crate::ApiState;
use crate::auth::{Authorized, Confirmed, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::paging::List;
use crate::problem::Problem;
use crate::query::{PathId, PathPair};
use crate::time::Timestamp;

/// A grant to create.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewGrant, example = json!({
    "role": "admin", "expires_at": "2030-01-31T12:00:00Z", "reason": "substitutes for Bob"
}))]
pub(crate) struct GrantRequest {
    /// Role to grant, see `GET /v1/roles`.
    #[schema(value_type = String, required, nullable = false, example = "operator")]
    role: Option<String>,
    /// When it takes effect. Default: immediately.
    #[schema(value_type = Option<DateTime<Utc>>)]
    not_before: Option<Timestamp>,
    /// When it expires. Default: never.
    #[schema(value_type = Option<DateTime<Utc>>)]
    expires_at: Option<Timestamp>,
    /// Reason for the audit log.
    #[schema(value_type = String, required, nullable = false, min_length = 1, max_length = 500)]
    reason: Option<String>,
}

/// A role granted to a user.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Grant)]
pub(crate) struct GrantResponse {
    /// Id of the grant.
    id: GrantId,
    /// Name of the role.
    #[schema(example = "operator")]
    role: String,
    /// When it takes effect.
    not_before: DateTime<Utc>,
    /// When it expires; null for never.
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
    /// Id of the user or API key that granted it.
    #[schema(example = "usr_01h455vb4pex5vsknk084sn02q")]
    granted_by: String,
    /// Reason given, if any.
    #[schema(required)]
    reason: Option<String>,
    /// When it was granted.
    created_at: DateTime<Utc>,
    /// When the key was revoked.
    #[schema(required)]
    revoked_at: Option<DateTime<Utc>>,
}

impl From<Grant> for GrantResponse {
    fn from(grant: Grant) -> Self {
        Self {
            id: grant.id,
            role: grant.role,
            not_before: grant.not_before,
            expires_at: grant.expires_at,
            granted_by: grant.granted_by,
            reason: grant.reason,
            created_at: grant.created_at,
            revoked_at: grant.revoked_at,
        }
    }
}

/// List the roles granted to a user, newest first
///
/// Includes future, expired and revoked grants. Returns the latest 1,000.
#[utoipa::path(
    get,
    path = "/v1/users/{id}/grants",
    operation_id = "list_grants",
    tag = "people",
    responses((status = 200, description = "The grants", body = List<GrantResponse>))
)]
pub(crate) async fn list_grants(
    State(state): State<ApiState>,
    caller: Authorized<scope::UsersManage>,
    PathId(id): PathId<UserId>,
) -> Result<Json<List<GrantResponse>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    find_user(&mut tx, id).await?.ok_or_else(user_not_found)?;
    let grants = users::list_grants(&mut tx, id).await?;
    tx.commit().await?;
    let data = grants.into_iter().map(GrantResponse::from).collect();
    Ok(Json(List { data }))
}

/// Grant a role to a user
///
/// Takes effect with the user's next request, or at `not_before`. Callers cannot grant roles to themselves.
/// The caller must have all scopes that come with the role.
#[utoipa::path(
    post,
    path = "/v1/users/{id}/grants",
    operation_id = "create_grant",
    tag = "people",
    request_body = GrantRequest,
    responses((status = 201, description = "The grant", body = GrantResponse))
)]
pub(crate) async fn create_grant(
    State(state): State<ApiState>,
    caller: Authorized<Confirmed<scope::UsersManage>>,
    PathId(id): PathId<UserId>,
    body: JsonBody,
) -> Result<(StatusCode, Json<GrantResponse>), Problem> {
    let mut errors = FieldErrors::default();
    let request: GrantRequest = body.members(&mut errors).unwrap_or_default();
    if request.role.is_none() {
        errors.add("", "/role", "missing", "is required");
    }
    if request.reason.is_none() {
        errors.add("", "/reason", "missing", "is required");
    }
    errors.into_body_result()?;
    let actor = with_reason(caller.actor(), request.reason.as_deref());
    let new = NewGrant {
        role: request.role.unwrap_or_default(),
        not_before: request.not_before.map(|moment| moment.0),
        expires_at: request.expires_at.map(|moment| moment.0),
        reason: request.reason,
    };
    let mut tx = state.begin(&caller).await?;
    find_user(&mut tx, id).await?.ok_or_else(user_not_found)?;
    require_other_user(&caller, id)?;
    let scopes =
        effective_permissions::of_role(&mut tx, &new.role, caller.in_platform_tenant).await?;
    require_scopes(&caller, &scopes)?;
    let grant = grant_role(&mut tx, &actor, id, new).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(grant.into())))
}

/// Revoke a granted role
///
/// Takes effect with the user's next request. The caller must have all scopes of the user.
#[utoipa::path(
    delete,
    path = "/v1/users/{id}/grants/{grant_id}",
    operation_id = "revoke_grant",
    tag = "people",
    responses(
        (status = 204, description = "The grant was revoked"),
        (status = 409, description = "The tenant would have no administrator left")
    )
)]
pub(crate) async fn revoke_grant(
    State(state): State<ApiState>,
    caller: Authorized<scope::UsersManage>,
    PathPair(id, grant): PathPair<UserId, GrantId>,
) -> Result<StatusCode, Problem> {
    let mut tx = state.begin(&caller).await?;
    require_permissions_of(&mut tx, &caller, id).await?;
    let revoked = users::revoke_grant(&mut tx, caller.actor(), id, grant).await?;
    revoked.ok_or_else(|| Problem::not_found("grant"))?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
