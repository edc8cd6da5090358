//! Room: routes of the limits that a key has of its own.
//! Takes: policies, from the platform. Gives: what limits the key from then on.
//! Never: lets a tenant loosen its own limits.

use axum::Json;
use axum::extract::State;
use harkara_shared::audit::Entry;
use harkara_shared::database::query_as;
use harkara_shared::id::ApiKeyId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::FromRow;
use sqlx::types::Json as Stored;
use utoipa::ToSchema;

use crate::ApiState;
use crate::access::{self, KeyTier, Scope};
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::faults::Faults;
use crate::limits::{Policies, Policy};
use crate::problem::Problem;
use crate::query::PathId;

/// What is to limit a key.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyLimitsChange, example = json!({"policies": [
    {"name": "minute", "strategy": "leaky_bucket", "quota": 600, "burst": 20, "window": "1m"},
    {"name": "month", "strategy": "calendar_month", "quota": 500000}
]}))]
pub(in crate::routes) struct KeyLimitsRequest {
    /// At most 8, all of which a request must pass; null for the tier's.
    #[schema(max_items = 8)]
    policies: Option<Vec<Policy>>,
}

/// What limits a key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KeyLimits)]
pub(in crate::routes) struct KeyLimitsResponse {
    /// Whether they are the key's own, rather than the tier's.
    own: bool,
    /// The policies, all of which a request must pass.
    policies: Vec<Policy>,
}

#[derive(Debug, FromRow)]
struct ChangedKey {
    public_id: String,
    tier: KeyTier,
    before: Option<Stored<Value>>,
}

/// Set what limits a key's requests
///
/// They hold instead of the tier's, within a second everywhere. Counters of policies whose name, strategy
/// and window stay the same go on, and a key that takes this one's place has them, too. For the platform,
/// which acts for the key's tenant. Needs the scope `platform:admin`.
#[utoipa::path(
    put,
    path = "/v1/api-keys/{id}/limits",
    operation_id = "set_api_key_limits",
    tag = "keys",
    params(("id" = String, Path, description = "The key's id",
        example = "key_01h455vb4pex5vsknk084sn02q")),
    request_body = KeyLimitsRequest,
    responses((status = 200, description = "What limits the key now", body = KeyLimitsResponse))
)]
pub(in crate::routes) async fn set_api_key_limits(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<ApiKeyId>,
    body: JsonBody,
) -> Result<Json<KeyLimitsResponse>, Problem> {
    caller.require(Scope::PlatformAdmin)?;
    caller.require_platform()?;
    let mut faults = Faults::default();
    let request: KeyLimitsRequest = body.members(&mut faults).unwrap_or_default();
    if let Some(Err(wrong)) = request.policies.clone().map(Policies::new) {
        let pointer = format!("/policies/{}/{}", wrong.index, wrong.member);
        faults.add("", &pointer, "invalid", wrong.reason);
    }
    faults.none_in_body()?;
    let limits = request.policies.as_ref().map(|policies| json!(policies));
    let mut tx = state.begin(&caller).await?;
    let changed: Option<ChangedKey> = query_as(include_str!("../../sql/set_key_limits.sql"))
        .bind(id)
        .bind(limits.as_ref().map(Stored))
        .fetch_optional(&mut *tx)
        .await?;
    let changed = changed.ok_or_else(|| Problem::not_found("key"))?;
    let entry = Entry::new("key.limits", id)
        .before(json!({"limits": changed.before.as_ref().map(|before| &before.0)}))
        .after(json!({"limits": limits}));
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    state.keyring().forget(&changed.public_id).await;
    Ok(Json(KeyLimitsResponse {
        own: limits.is_some(),
        policies: access::policies(changed.tier, limits.as_ref())
            .all()
            .to_vec(),
    }))
}
