//! Representation of API keys.

use chrono::{DateTime, Utc};
use harkara_accounts::{ApiKey, KeyTier};
use harkara_shared::id::{ApiKeyId, TenantId};
use serde::Serialize;
use utoipa::ToSchema;

/// An API key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(in crate::routes) struct ApiKeyResponse {
    /// Id of the API key.
    pub(super) id: ApiKeyId,
    /// Id of the tenant that owns the key.
    pub(super) tenant_id: TenantId,
    /// Display name of the key.
    #[schema(example = "billing service")]
    pub(super) name: String,
    /// The first and last characters of the key, to recognize it by.
    #[schema(example = "hk_kyjVWzwZ…Q0dYp")]
    pub(super) hint: String,
    /// Scopes of the key.
    #[schema(example = json!(["jobs:read", "jobs:write"]))]
    pub(super) scopes: Vec<String>,
    /// Tier, which sets the request limits.
    pub(super) tier: KeyTier,
    /// IP networks that may use the key; all if empty.
    #[schema(example = json!(["192.0.2.0/24"]))]
    pub(super) addresses: Vec<String>,
    /// Id of the user or API key that created the key.
    #[schema(required, example = "usr_01h455vb4pex5vsknk084sn02q")]
    pub(super) created_by: Option<String>,
    /// When the request was started.
    pub(super) created_at: DateTime<Utc>,
    /// When the key expires.
    #[schema(required)]
    pub(super) expires_at: Option<DateTime<Utc>>,
    /// When the key was revoked.
    #[schema(required)]
    pub(super) revoked_at: Option<DateTime<Utc>>,
    /// When the key was last used, to the minute.
    #[schema(required)]
    pub(super) last_used_at: Option<DateTime<Utc>>,
    /// Id of the key that this key replaced by rotation.
    #[schema(required)]
    pub(super) rotated_from: Option<ApiKeyId>,
    /// The key itself. Only present in the response that created it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "hk_kyjVWzwZ6XO4yxeFVgqAy14zAmvSm6VwOWXV47660Q0dYp")]
    pub(super) key: Option<String>,
}

impl From<ApiKey> for ApiKeyResponse {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            tenant_id: key.tenant_id,
            name: key.name,
            hint: format!("hk_{}…{}", key.public_id, key.last4),
            scopes: key.scopes,
            tier: key.tier,
            addresses: key.addresses,
            created_by: key.created_by,
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
            rotated_from: key.rotated_from,
            key: None,
        }
    }
}
