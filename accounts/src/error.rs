//! Why a tenant or a key cannot be made or changed.

use crate::key_tier::KeyTier;

/// Why a tenant or a key cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not a valid slug.
    #[error(
        "`{0}` cannot be a slug: expected 1 to 63 of a-z, 0-9 and `-`, the first a letter or digit"
    )]
    InvalidSlug(String),
    /// Another tenant has the slug, or it belongs to the built-in tenant.
    #[error("slug `{0}` is taken")]
    SlugTaken(String),
    /// The name is empty or too long.
    #[error("name must have 1 to 200 characters")]
    InvalidName,
    /// The key's tenant does not exist.
    #[error("tenant not found")]
    NoSuchTenant,
    /// The expiry is in the past.
    #[error("`expires_at` must be in the future")]
    AlreadyExpired,
    /// The tenant is being erased.
    #[error("tenant is being erased, which cannot be undone")]
    BeingErased,
    /// The tenant has as many as its tier allows.
    #[error("tier `{tier}` allows {most} {what}; the tenant already has as many")]
    Quota {
        /// What is limited, in the plural.
        what: &'static str,
        /// The tier that sets the quota.
        tier: KeyTier,
        /// The quota.
        most: u32,
    },
    /// No master key is configured, so that a key cannot be hashed.
    #[error("no master key is configured")]
    NoMasterKey,
    /// The queue refused the tenant's limits.
    #[error(transparent)]
    Settings(#[from] harkara_queue::settings::SettingsError),
    /// The database refused or cannot be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
