//! Representation of users.

use chrono::{DateTime, Utc};
use harkara_accounts::users::User;
use harkara_shared::id::UserId;
use serde::Serialize;
use utoipa::ToSchema;

/// A user and their permissions.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub(in crate::routes) struct UserResponse {
    /// Id of the user.
    pub(super) id: UserId,
    /// Email to sign in with, in lower case.
    #[schema(example = "ada@example.com")]
    pub(super) email: String,
    /// Display name of the user.
    #[schema(example = "Ada Lovelace")]
    pub(super) name: String,
    /// Roles granted to the user that are in effect now.
    #[schema(example = json!(["operator"]))]
    pub(super) roles: Vec<String>,
    /// Permissions in effect now: those of the user's roles and of the roles these inherit, plus the
    /// permissions allowed to the user, minus those denied.
    #[schema(example = json!(["jobs:manage", "jobs:read"]))]
    pub(super) permissions: Vec<String>,
    /// Whether the user can sign in with a password.
    pub(super) has_password: bool,
    /// Whether signing in with a password also requires a code.
    pub(super) has_totp: bool,
    /// Whether the user has signed in through the identity provider.
    pub(super) has_oidc: bool,
    /// When the user was created.
    pub(super) created_at: DateTime<Utc>,
    /// When the user was last changed.
    pub(super) updated_at: DateTime<Utc>,
    /// When the user last signed in.
    #[schema(required)]
    pub(super) last_sign_in_at: Option<DateTime<Utc>>,
    /// When the user was disabled.
    #[schema(required)]
    pub(super) disabled_at: Option<DateTime<Utc>>,
    /// Link to sign in with once, within 15 minutes. Only present in the response that created the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "https://jobs.example.com/sign-in/MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYq"
    )]
    pub(super) sign_in_url: Option<String>,
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
pub(in crate::routes) struct SignInLinkResponse {
    /// The link. Only shown once.
    #[schema(
        example = "https://jobs.example.com/sign-in/MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYq"
    )]
    pub(super) sign_in_url: String,
    /// When the link expires.
    pub(super) expires_at: DateTime<Utc>,
}

/// Number of sessions that were ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SignedOut)]
pub(in crate::routes) struct SignedOutResponse {
    /// Number of sessions.
    #[schema(example = 2)]
    pub(in crate::routes) ended: u64,
}
