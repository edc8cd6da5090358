//! Room: tenants and their API keys.
//! Takes: a pool whose login works across tenants. Gives: tenants, keys, the scopes a key may have.
//! Never: stores the text of a key, or decides about a request.

mod key;
mod key_tier;
mod quota;
mod scope;
mod tenant;

pub use key::{ApiKey, NewKey, create_key, is_working_key};
pub(crate) use key::{
    FoundKey, KeyChange, PEPPER, add_key, change_key, find_key, has_successor, key, list_keys,
    policies,
};
pub use key_tier::KeyTier;
pub(crate) use quota::{allowance, check_endpoints, check_keys};
pub use scope::{Scope, UnknownScope};
pub use tenant::{
    NewTenant, PLATFORM_SLUG, SlaTier, Tenant, TenantChange, TenantStatus, change_tenant,
    create_tenant, ensure_platform, find_tenant, is_slug,
};
pub(crate) use tenant::{add_tenant, is_name, list_tenants};

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
    /// The tenant is being erased.
    #[error("the tenant is being erased, which cannot be taken back")]
    BeingErased,
    /// As many as the tenant's tier grants are there.
    #[error("the tier `{tier}` grants {most} {what}, and there are as many")]
    Quota {
        /// Of what.
        what: &'static str,
        /// The tier.
        tier: KeyTier,
        /// How many.
        most: u32,
    },
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
