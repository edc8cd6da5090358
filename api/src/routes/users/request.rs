//! Requests that create and change users.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::time::Timestamp;

/// A user to create.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewUser, example = json!({
    "email": "ada@example.com", "name": "Ada Lovelace", "role": "operator"
}))]
pub(in crate::routes) struct NewUserRequest {
    /// Email to sign in with, case-insensitive. Unique within the tenant.
    #[schema(value_type = String, required, nullable = false, min_length = 3, max_length = 254,
        pattern = r"^\S+@[^\s@]+$")]
    pub(super) email: Option<String>,
    /// Display name of the user.
    #[schema(value_type = String, required, nullable = false, min_length = 1, max_length = 200)]
    pub(super) name: Option<String>,
    /// Initial role, see `GET /v1/roles`.
    #[schema(value_type = String, required, nullable = false, example = "operator")]
    pub(super) role: Option<String>,
    /// When the role expires. Default: never.
    #[schema(value_type = Option<DateTime<Utc>>, example = "2030-01-31T12:00:00Z")]
    pub(super) expires_at: Option<Timestamp>,
    /// Reason for the role, for the audit log.
    #[schema(min_length = 1, max_length = 500)]
    pub(super) reason: Option<String>,
}

/// Changes of a user. Members that are omitted stay unchanged.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UserChange, example = json!({"disabled": true}))]
pub(in crate::routes) struct UserChangeRequest {
    /// Email of the user.
    #[schema(min_length = 3, max_length = 254, pattern = r"^\S+@[^\s@]+$")]
    pub(super) email: Option<String>,
    /// Display name of the user.
    #[schema(min_length = 1, max_length = 200)]
    pub(super) name: Option<String>,
    /// Whether the user is prevented from signing in. Disabling a user ends their sessions immediately.
    pub(super) disabled: Option<bool>,
}
