//! Users: who they are, how they sign in, and what they can do now.
//!
//! Functions take a tenant's transaction, or a pool whose login works across tenants. A user's rights are
//! read for every request and never cached.

pub mod effective_permissions;
mod grant;
mod link;
mod override_;
pub mod password;
pub mod permission;
pub mod provider;
mod role;
pub mod session;
pub mod sign_in;
mod token;
mod totp;
mod user;

use harkara_shared::vault::VaultError;

pub use harkara_shared::id::{GrantId, OverrideId};

pub use grant::{Grant, NewGrant, grant_role, list_grants, revoke_grant};
pub use link::{DEFAULT_LIFE, SignInLink, create_link};
pub use link::{find_link, use_link};
pub use override_::{Effect, NewOverride, Override, add_override, list_overrides, revoke_override};
pub use role::list_roles;
pub use token::Token;
pub use totp::Authenticator;
pub use user::{NewUser, User, create_user, find_user_by_email, is_email, list_users};
pub use user::{UserChange, change_user, delete_user, find_user, normal_email};

/// Why a user, grant or session cannot be created or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not an email address.
    #[error("email must have 3 to 254 characters with an `@` between others")]
    Email,
    /// Another user of the tenant has the email.
    #[error("email `{0}` is taken")]
    EmailTaken(String),
    /// The name is empty or too long.
    #[error("name must have 1 to 200 characters")]
    Name,
    /// The password is too short or too long.
    #[error("password must have 12 to 128 characters")]
    Password,
    /// The role does not exist.
    #[error("unknown role `{0}`")]
    NoSuchRole(String),
    /// The permission does not exist.
    #[error("unknown permission `{0}`")]
    NoSuchPermission(String),
    /// The end is in the past or before the start.
    #[error("`expires_at` must be in the future and after `not_before`")]
    Times,
    /// The reason is empty or too long.
    #[error("reason must have 1 to 500 characters")]
    Reason,
    /// The user does not exist.
    #[error("user not found")]
    NoSuchUser,
    /// No admin who can sign in would be left.
    #[error("tenant would have no admin who can sign in")]
    LastAdmin,
    /// More passwords are being verified than the machine can handle.
    #[error("too many sign-ins at once")]
    Busy,
    /// A secret cannot be sealed or opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A bug.
    #[error("{0}")]
    Internal(String),
    /// The database refused or cannot be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
