//! Room: tenants and their API keys.
//! Takes: a pool whose login works across tenants. Gives: tenants, keys, the scopes a key may have.
//! Never: stores the text of a key, or decides about a request.

mod key;
mod scope;
mod tenant;

pub use key::{ApiKey, KeyTier, NewKey, create_key, is_working_key};
pub(crate) use key::{FoundKey, PEPPER, find_key};
pub use scope::{Scope, UnknownScope};
pub use tenant::{
    NewTenant, PLATFORM_SLUG, SlaTier, Tenant, create_tenant, ensure_platform, find_tenant, is_slug,
};

/// Why a tenant or a key cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text cannot be a slug.
    #[error(
        "`{0}` cannot be a slug: expected 1 to 63 of a-z, 0-9 and `-`, the first a letter or digit"
    )]
    InvalidSlug(String),
    /// Another tenant has the slug, or it is the built-in one's.
    #[error("the slug `{0}` is taken")]
    SlugTaken(String),
    /// A name is empty or too long.
    #[error("a name has 1 to 200 characters")]
    InvalidName,
    /// The key's tenant is not there.
    #[error("there is no such tenant")]
    NoSuchTenant,
    /// A key must expire in the future, if at all.
    #[error("the key would have expired already")]
    AlreadyExpired,
    /// The master keys cannot hash a key, because there are none.
    #[error("there is no master key")]
    NoMasterKey,
    /// The engine could not take the tenant's limit.
    #[error(transparent)]
    Settings(#[from] harkara_queue::settings::SettingsError),
    /// The database refused or is not there.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
