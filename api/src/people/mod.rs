//! Room: people.
//! Takes: a tenant's transaction, or a pool whose login works across tenants. Gives: people, how they
//! prove who they are, what they may do at this moment.
//! Never: knows HTTP beyond a cookie; believes for longer than one request what somebody may do.

pub(crate) mod cookie;
mod grant;
mod link;
pub(crate) mod oidc;
mod override_;
pub(crate) mod password;
pub(crate) mod permission;
pub(crate) mod reach;
mod role;
pub(crate) mod session;
pub(crate) mod sign_in;
pub(crate) mod throttle;
mod token;
mod totp;
mod user;

use harkara_shared::vault::VaultError;

pub(crate) use grant::{Grant, NewGrant, grant_role, list_grants, revoke_grant};
pub use link::{DEFAULT_LIFE, SignInLink, create_link};
pub(crate) use link::{find_link, use_link};
pub(crate) use override_::{
    Effect, NewOverride, Override, add_override, list_overrides, revoke_override,
};
pub(crate) use role::list_roles;
pub use token::Token;
pub(crate) use totp::Authenticator;
pub use user::{NewUser, User, create_user, find_user_by_email, is_email, list_users};
pub(crate) use user::{UserChange, change_user, delete_user, find_user};

pub(crate) use harkara_shared::id::{GrantId, OverrideId};

/// Why something about a person cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text cannot be an email address.
    #[error("an email address has 3 to 254 characters and an @ between others")]
    Email,
    /// Somebody else of the tenant has the address.
    #[error("the email `{0}` is taken")]
    EmailTaken(String),
    /// A name is empty or too long.
    #[error("a name has 1 to 200 characters")]
    Name,
    /// A password is too short or too long.
    #[error("a password has 12 to 128 characters")]
    Password,
    /// There is no such role.
    #[error("there is no role `{0}`")]
    NoSuchRole(String),
    /// There is no such permission.
    #[error("there is no permission `{0}`")]
    NoSuchPermission(String),
    /// A grant would end before it begins, or has ended already.
    #[error("it must end in the future, and after it begins")]
    Times,
    /// A reason is empty or too long.
    #[error("a reason has 1 to 500 characters")]
    Reason,
    /// The person is not there.
    #[error("there is no such user")]
    NoSuchUser,
    /// Nobody would be left to look after the tenant.
    #[error("it would leave the tenant without an admin who can sign in")]
    LastAdmin,
    /// More people sign in at once than the machine can hash passwords for.
    #[error("too many people sign in at once")]
    Busy,
    /// A secret cannot be sealed or opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
    /// The database refused or is not there.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
