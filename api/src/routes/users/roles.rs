//! Route of roles.
//!
//! Lists the roles with their permissions and scopes. Roles are the same for all tenants.

use axum::Json;
use axum::extract::State;
use harkara_accounts::Scope;
use harkara_accounts::users;
use serde::Serialize;
use utoipa::ToSchema;

use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::paging::List;
use crate::problem::Problem;

/// A role.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Role)]
pub(in crate::routes) struct RoleResponse {
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
pub(in crate::routes) async fn list_roles(
    State(state): State<ApiState>,
    caller: Authorized<scope::UsersManage>,
) -> Result<Json<List<RoleResponse>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let roles = users::list_roles(&mut tx).await?;
    tx.commit().await?;
    let data = roles
        .into_iter()
        .map(|role| RoleResponse {
            scopes: users::permission::all_scopes(&role.permissions, caller.in_platform_tenant),
            name: role.name,
            description: role.description,
            inherits: role.inherits,
            permissions: role.permissions,
        })
        .collect();
    Ok(Json(List { data }))
}
