//! Route of an API key's own request limits.
//!
//! The platform sets or removes them. Never lets a tenant change its own limits.

use axum::Json;
use axum::extract::State;
use harkara_accounts::{self as accounts, set_key_limits};
use harkara_accounts::{Policies, Policy};
use harkara_shared::audit::Entry;
use harkara_shared::id::ApiKeyId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::ApiState;
use crate::auth::{Authorized, PlatformOnly, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::problem::Problem;
use crate::query::PathId;

/// Request limits of an API key.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyLimitsChange, example = json!({"policies": [
    {"name": "minute", "strategy": "leaky_bucket", "quota": 600, "burst": 20, "window": "1m"},
    {"name": "month", "strategy": "calendar_month", "quota": 500000}
]}))]
pub(in crate::routes) struct KeyLimitsRequest {
    /// At most 8 policies, all of which apply to every request. Null restores the policies of the key's
    /// tier.
    #[schema(max_items = 8)]
    policies: Option<Vec<Policy>>,
}

/// Request limits of an API key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KeyLimits)]
pub(in crate::routes) struct KeyLimitsResponse {
    /// Whether the policies are the key's own rather than those of its tier.
    own: bool,
    /// The policies, all of which apply to every request.
    policies: Vec<Policy>,
}

/// Set the request limits of an API key
///
/// The policies replace those of the key's tier, everywhere within a second. Counters continue for policies
/// whose name, strategy and window are unchanged. A key created by rotation keeps the limits. Only for
/// callers of the tenant `platform`, acting for the key's tenant.
#[utoipa::path(
    put,
    path = "/v1/api-keys/{id}/limits",
    operation_id = "set_api_key_limits",
    tag = "keys",
    request_body = KeyLimitsRequest,
    responses((status = 200, description = "The request limits of the key", body = KeyLimitsResponse))
)]
pub(in crate::routes) async fn set_api_key_limits(
    State(state): State<ApiState>,
    caller: Authorized<PlatformOnly<scope::PlatformAdmin>>,
    PathId(id): PathId<ApiKeyId>,
    body: JsonBody,
) -> Result<Json<KeyLimitsResponse>, Problem> {
    let mut errors = FieldErrors::default();
    let request: KeyLimitsRequest = body.members(&mut errors).unwrap_or_default();
    if let Some(Err(wrong)) = request.policies.clone().map(Policies::new) {
        let pointer = format!("/policies/{}/{}", wrong.index, wrong.member);
        errors.add("", &pointer, "invalid", wrong.reason);
    }
    errors.into_body_result()?;
    let limits = request.policies.as_ref().map(|policies| json!(policies));
    let mut tx = state.begin(&caller).await?;
    let changed = set_key_limits(&mut tx, id, limits.as_ref()).await?;
    let changed = changed.ok_or_else(|| Problem::not_found("key"))?;
    let entry = Entry::new("key.limits", id)
        .before(json!({"limits": changed.before}))
        .after(json!({"limits": limits}));
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    state.keyring().forget(&changed.public_id).await;
    Ok(Json(KeyLimitsResponse {
        own: limits.is_some(),
        policies: accounts::policies(changed.tier, limits.as_ref())
            .all()
            .to_vec(),
    }))
}
