//! Creates, finds and changes tenants.
//!
//! A new tenant gets the limits of its contract. Resources of tenants are not read here.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use harkara_queue::Engine;
use harkara_queue::settings::{self, Change, LimitChange};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{EndpointId, TenantId};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use crate::error::Error;
use crate::key_tier::KeyTier;
use crate::sla_tier::SlaTier;

/// Slug of the built-in tenant, whose keys can act for other tenants.
pub const PLATFORM_SLUG: &str = "platform";

/// Billing status of a tenant. With `active`, `trialing` and `past_due`, everything works. With `pending_payment`,
/// the tenant can only read, and existing jobs run. With `suspended` and `canceled`, it can only read, and no job
/// starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum TenantStatus {
    /// Paying; everything works.
    Active,
    /// In a trial period; as `active`.
    Trialing,
    /// A payment is overdue; as `active`, until an operator suspends the tenant.
    PastDue,
    /// Can only read; jobs do not start.
    Suspended,
    /// Has not paid yet; can only read, and existing jobs run.
    PendingPayment,
    /// The contract has ended; as `suspended`, and the tenant can be erased.
    Canceled,
}

impl TenantStatus {
    /// All statuses.
    pub const ALL: [Self; 6] = [
        Self::Active,
        Self::Trialing,
        Self::PastDue,
        Self::Suspended,
        Self::PendingPayment,
        Self::Canceled,
    ];

    /// The name as the API and the database spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Trialing => "trialing",
            Self::PastDue => "past_due",
            Self::Suspended => "suspended",
            Self::PendingPayment => "pending_payment",
            Self::Canceled => "canceled",
        }
    }

    /// Whether the tenant can change anything, enqueueing jobs included.
    #[must_use]
    pub const fn may_write(self) -> bool {
        matches!(self, Self::Active | Self::Trialing | Self::PastDue)
    }

    /// Whether the tenant's jobs start.
    #[must_use]
    pub const fn may_run(self) -> bool {
        !matches!(self, Self::Suspended | Self::Canceled)
    }
}

impl std::fmt::Display for TenantStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TenantStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a status: expected one of {names}"))
    }
}

/// A tenant to create.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Its name in commands and headers: see [`is_slug`].
    pub slug: String,
    /// Display name, 1 to 200 characters.
    pub name: String,
    /// Its contract, which sets its limits.
    pub sla_tier: SlaTier,
}

/// A tenant: the owner of jobs, keys and resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Tenant {
    /// `ten_…`
    pub id: TenantId,
    /// Its name in commands and headers.
    pub slug: String,
    /// Display name.
    pub name: String,
    /// Its contract, which sets its limits.
    pub sla_tier: SlaTier,
    /// Billing status, which limits what it can do.
    pub status: TenantStatus,
    /// Whether the operator paused it, whatever its status.
    pub paused: bool,
    /// The endpoint that its contract was set up with.
    pub contract_endpoint_id: Option<EndpointId>,
    /// Whether it is being erased, which cannot be undone.
    pub erasing: bool,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

impl Tenant {
    /// Whether its jobs start: its status allows it and the operator has not paused it.
    #[must_use]
    pub fn runs(&self) -> bool {
        !self.paused && self.status.may_run()
    }
}

/// Whether `text` is a valid slug: 1 to 63 of a-z, 0-9 and `-`, starting with a letter or digit. No slug has the
/// form of a tenant's id.
#[must_use]
pub fn is_slug(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Creates a tenant, with the limits of its contract.
///
/// # Errors
/// [`Error::InvalidSlug`], [`Error::InvalidName`], [`Error::SlugTaken`], or when the database
/// refuses.
pub async fn create_tenant(pool: &PgPool, new: NewTenant, by: &Actor) -> Result<Tenant, Error> {
    let mut tx = pool.begin().await?;
    let tenant = add_tenant(&mut tx, new, by).await?;
    tx.commit().await?;
    Ok(tenant)
}

/// Creates a tenant in a transaction whose login works across tenants.
///
/// # Errors
/// As [`create_tenant`].
pub async fn add_tenant(
    connection: &mut PgConnection,
    new: NewTenant,
    by: &Actor,
) -> Result<Tenant, Error> {
    if !is_slug(&new.slug) {
        return Err(Error::InvalidSlug(new.slug));
    }
    if new.slug == PLATFORM_SLUG {
        return Err(Error::SlugTaken(new.slug));
    }
    let Some(tenant) = insert(&mut *connection, &new).await? else {
        return Err(Error::SlugTaken(new.slug));
    };
    let tier = tenant.sla_tier;
    settings::set_tier_limits(&mut *connection, tenant.id, tier.rate(), tier.max_waiting()).await?;
    let entry = Entry::new("tenant.create", tenant.id).after(&tenant);
    audit::record(connection, tenant.id, by, &entry).await?;
    Ok(tenant)
}

/// Lists tenants, newest first, older than `before`.
///
/// # Errors
/// When the database refuses.
pub async fn list_tenants(
    pool: &PgPool,
    before: Option<TenantId>,
    limit: u32,
) -> Result<Vec<Tenant>, sqlx::Error> {
    query_as(include_str!("sql/tenant/list_tenants.sql"))
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
}

/// A change of a tenant. Members that are `None` keep their value.
#[derive(Debug, Clone, Default)]
pub struct TenantChange {
    /// Display name.
    pub name: Option<String>,
    /// Its contract, which sets its limits.
    pub sla_tier: Option<SlaTier>,
    /// Billing status, which limits what it can do.
    pub status: Option<TenantStatus>,
    /// Whether the operator paused it.
    pub paused: Option<bool>,
}

/// Changes a tenant and applies its new limits to the queue; `None` when it does not exist. If the process dies in
/// between, the queue may have the new limits and the tenant its old values: make the change again.
///
/// # Errors
/// [`Error::BeingErased`], or when the database refuses.
pub async fn change_tenant(
    engine: &Engine,
    id: TenantId,
    change: TenantChange,
    action: &'static str,
    by: &Actor,
) -> Result<Option<Tenant>, Error> {
    // One change at a time per process: each holds a connection while the engine takes another.
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = TURN.lock().await;
    let mut tx = engine.pool().begin().await?;
    // Locks the tenant, so that concurrent changes see each other's result.
    let before: Option<Tenant> = query_as(include_str!("sql/tenant/lock_tenant.sql"))
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(before) = before else {
        return Ok(None);
    };
    if before.erasing {
        return Err(Error::BeingErased);
    }
    let after: Tenant = query_as(include_str!("sql/tenant/change_tenant.sql"))
        .bind(id)
        .bind(change.name)
        .bind(change.sla_tier)
        .bind(change.status)
        .bind(change.paused)
        .fetch_one(&mut *tx)
        .await?;
    let mut applied = settings::TenantChange::default();
    if KeyTier::of_contract(after.sla_tier) < KeyTier::of_contract(before.sla_tier) {
        query(include_str!("sql/tenant/lower_keys.sql"))
            .bind(id)
            .bind(KeyTier::of_contract(after.sla_tier))
            .execute(&mut *tx)
            .await?;
    }
    if before.sla_tier != after.sla_tier {
        applied.limit = LimitChange::rate(after.sla_tier.rate());
        applied.max_waiting = Change::Set(after.sla_tier.max_waiting());
    }
    if before.runs() != after.runs() {
        applied.paused = Some(!after.runs());
    }
    if applied != settings::TenantChange::default() {
        engine.set_tenant(id, &applied).await?;
    }
    // After `set_tenant`: the engine uses another transaction. A concurrent change of limits holds the locks that
    // it waits for, and itself waits for the end of the audit chain.
    let entry = Entry::new(action, id).before(&before).after(&after);
    audit::record(&mut tx, id, by, &entry).await?;
    tx.commit().await?;
    Ok(Some(after))
}

/// Finds a tenant by id (`ten_…`) or slug.
///
/// # Errors
/// When the database refuses.
pub async fn find_tenant(pool: &PgPool, id_or_slug: &str) -> Result<Option<Tenant>, Error> {
    let id: Option<TenantId> = id_or_slug.parse().ok();
    let slug = Some(id_or_slug).filter(|text| is_slug(text));
    if id.is_none() && slug.is_none() {
        return Ok(None);
    }
    Ok(query_as(include_str!("sql/tenant/find_tenant.sql"))
        .bind(id)
        .bind(slug)
        .fetch_optional(pool)
        .await?)
}

/// Marks a canceled tenant for erasure. `false` when it is not canceled.
///
/// # Errors
/// When the database refuses.
pub async fn request_erasure(
    connection: &mut PgConnection,
    id: TenantId,
) -> Result<bool, sqlx::Error> {
    let accepted: Option<bool> = query_scalar(include_str!("sql/tenant/request_erasure.sql"))
        .bind(id)
        .fetch_optional(connection)
        .await?;
    Ok(accepted.is_some())
}

/// The endpoint that the contract of the transaction's tenant was set up with, locked until the transaction ends.
///
/// # Errors
/// When the database refuses.
pub async fn contract_endpoint(tx: &mut TenantTx) -> Result<Option<EndpointId>, sqlx::Error> {
    query_scalar(include_str!("sql/tenant/get_contract_endpoint.sql"))
        .fetch_one(&mut **tx)
        .await
}

/// Records which endpoint the contract of the transaction's tenant was set up with.
///
/// # Errors
/// When the database refuses.
pub async fn set_contract_endpoint(
    tx: &mut TenantTx,
    endpoint: EndpointId,
) -> Result<(), sqlx::Error> {
    query(include_str!("sql/tenant/set_contract_endpoint.sql"))
        .bind(endpoint)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The built-in tenant, created if it does not exist. It has no limits. Many processes can call this at once.
///
/// # Errors
/// When the database refuses.
pub async fn ensure_platform(pool: &PgPool) -> Result<Tenant, Error> {
    let new = NewTenant {
        slug: PLATFORM_SLUG.to_owned(),
        name: "Platform".to_owned(),
        sla_tier: SlaTier::Enterprise,
    };
    match insert(&mut *pool.acquire().await?, &new).await? {
        Some(tenant) => Ok(tenant),
        None => find_tenant(pool, PLATFORM_SLUG)
            .await?
            .ok_or(Error::NoSuchTenant),
    }
}

/// Inserts a tenant; `None` when its slug is taken.
async fn insert(connection: &mut PgConnection, new: &NewTenant) -> Result<Option<Tenant>, Error> {
    if !is_name(&new.name) {
        return Err(Error::InvalidName);
    }
    Ok(query_as(include_str!("sql/tenant/create_tenant.sql"))
        .bind(TenantId::new())
        .bind(&new.slug)
        .bind(&new.name)
        .bind(new.sla_tier)
        .fetch_optional(connection)
        .await?)
}

/// Whether `text` is a valid display name: 1 to 200 characters, no NUL.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=200).contains(&text.chars().count()) && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_short_and_plain() {
        let longest = "a".repeat(63);
        for slug in ["a", "acme", "4u", "acme-2", "a-", longest.as_str()] {
            assert!(is_slug(slug), "{slug}");
        }
        let id = TenantId::new().to_string();
        for text in [
            "",
            "-a",
            "Acme",
            "a_b",
            "a.b",
            "a b",
            "é",
            &"a".repeat(64),
            id.as_str(),
        ] {
            assert!(!is_slug(text), "{text}");
        }
    }
}
