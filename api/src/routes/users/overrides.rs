//! Routes of permissions allowed or denied to single users.
//!
//! Creates, lists and revokes overrides. Never lets a caller allow permissions that the caller lacks, or
//! allow permissions to themselves.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use harkara_accounts::users::permission::scopes;
use harkara_accounts::users::{
    Effect, NewOverride, Override, OverrideId, add_override, find_user, list_overrides,
    revoke_override,
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

/// A permission to allow or deny to a user.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewUserPermission, example = json!({
    "permission": "reports:manage", "effect": "deny", "reason": "until the audit is over"
}))]
pub(crate) struct OverrideRequest {
    /// Name of the permission, see `GET /v1/roles`.
    #[schema(value_type = String, required, nullable = false, example = "reports:manage")]
    permission: Option<String>,
    /// Whether the permission is allowed or denied. A denial takes precedence over allowances and roles.
    #[schema(value_type = Effect, required, nullable = false)]
    effect: Option<Effect>,
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

/// A permission allowed or denied to a user.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UserPermission)]
pub(crate) struct OverrideResponse {
    /// Id of the override.
    id: OverrideId,
    /// Name of the permission.
    #[schema(example = "reports:manage")]
    permission: String,
    /// Whether the permission is allowed or denied.
    effect: Effect,
    /// When it takes effect.
    not_before: DateTime<Utc>,
    /// When it expires; null for never.
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
    /// Id of the user or API key that created it.
    #[schema(example = "usr_01h455vb4pex5vsknk084sn02q")]
    granted_by: String,
    /// Reason given, if any.
    #[schema(required)]
    reason: Option<String>,
    /// When the request was started.
    created_at: DateTime<Utc>,
    /// When the key was revoked.
    #[schema(required)]
    revoked_at: Option<DateTime<Utc>>,
}

impl From<Override> for OverrideResponse {
    fn from(one: Override) -> Self {
        Self {
            id: one.id,
            permission: one.permission,
            effect: one.effect,
            not_before: one.not_before,
            expires_at: one.expires_at,
            granted_by: one.granted_by,
            reason: one.reason,
            created_at: one.created_at,
            revoked_at: one.revoked_at,
        }
    }
}

/// List the permissions allowed and denied to a user, newest first
///
/// Includes future, expired and revoked ones. Returns the latest 1,000.
#[utoipa::path(
    get,
    path = "/v1/users/{id}/permissions",
    operation_id = "list_user_permissions",
    tag = "people",
    responses((status = 200, description = "The allowed and denied permissions", body = List<OverrideResponse>))
)]
pub(crate) async fn list_user_permissions(
    State(state): State<ApiState>,
    caller: Authorized<scope::UsersManage>,
    PathId(id): PathId<UserId>,
) -> Result<Json<List<OverrideResponse>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    find_user(&mut tx, id).await?.ok_or_else(user_not_found)?;
    let overrides = list_overrides(&mut tx, id).await?;
    tx.commit().await?;
    let data = overrides.into_iter().map(OverrideResponse::from).collect();
    Ok(Json(List { data }))
}

/// Allow or deny a permission to a user
///
/// Takes effect with the user's next request, or at `not_before`. Callers cannot allow permissions to
/// themselves. To allow a permission, the caller must have all scopes that come with it; to deny one, all
/// scopes of the user.
#[utoipa::path(
    post,
    path = "/v1/users/{id}/permissions",
    operation_id = "create_user_permission",
    tag = "people",
    request_body = OverrideRequest,
    responses(
        (status = 201, description = "The allowed or denied permission", body = OverrideResponse),
        (status = 409, description = "The tenant would have no administrator left")
    )
)]
pub(crate) async fn create_user_permission(
    State(state): State<ApiState>,
    caller: Authorized<Confirmed<scope::UsersManage>>,
    PathId(id): PathId<UserId>,
    body: JsonBody,
) -> Result<(StatusCode, Json<OverrideResponse>), Problem> {
    let mut errors = FieldErrors::default();
    let request: OverrideRequest = body.members(&mut errors).unwrap_or_default();
    for (pointer, is_missing) in [
        ("/permission", request.permission.is_none()),
        ("/effect", request.effect.is_none()),
        ("/reason", request.reason.is_none()),
    ] {
        if is_missing {
            errors.add("", pointer, "missing", "is required");
        }
    }
    errors.into_body_result()?;
    let actor = with_reason(caller.actor(), request.reason.as_deref());
    let new = NewOverride {
        permission: request.permission.unwrap_or_default(),
        effect: request.effect.unwrap_or(Effect::Deny),
        not_before: request.not_before.map(|moment| moment.0),
        expires_at: request.expires_at.map(|moment| moment.0),
        reason: request.reason,
    };
    let mut tx = state.begin(&caller).await?;
    find_user(&mut tx, id).await?.ok_or_else(user_not_found)?;
    match new.effect {
        Effect::Allow => {
            require_other_user(&caller, id)?;
            require_scopes(&caller, scopes(&new.permission, caller.in_platform_tenant))?;
        }
        Effect::Deny => require_permissions_of(&mut tx, &caller, id).await?,
    }
    let created = add_override(&mut tx, &actor, id, new).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(created.into())))
}

/// Revoke an allowed or denied permission
///
/// Takes effect with the user's next request. Callers cannot revoke denials of their own. The caller must
/// have all scopes that come with the permission and all scopes of the user.
#[utoipa::path(
    delete,
    path = "/v1/users/{id}/permissions/{permission_id}",
    operation_id = "revoke_user_permission",
    tag = "people",
    responses(
        (status = 204, description = "The permission was revoked"),
        (status = 409, description = "The tenant would have no administrator left")
    )
)]
pub(crate) async fn revoke_user_permission(
    State(state): State<ApiState>,
    caller: Authorized<scope::UsersManage>,
    PathPair(id, one): PathPair<UserId, OverrideId>,
) -> Result<StatusCode, Problem> {
    let mut tx = state.begin(&caller).await?;
    let revoked = revoke_override(&mut tx, caller.actor(), id, one).await?;
    let revoked = revoked.ok_or_else(|| Problem::not_found("permission of the user"))?;
    // If a check fails, the transaction is rolled back.
    if revoked.effect == Effect::Deny {
        require_other_user(&caller, id)?;
        require_scopes(
            &caller,
            scopes(&revoked.permission, caller.in_platform_tenant),
        )?;
    }
    require_permissions_of(&mut tx, &caller, id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
