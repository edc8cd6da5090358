//! Room: tenants.
//! Takes: a pool. Gives: tenants made, with the limit of their contract, and found.
//! Never: reads what belongs to a tenant.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::Engine;
use harkara_queue::settings::{self, Change, LimitChange, Rate};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{query, query_as};
use harkara_shared::id::{EndpointId, TenantId};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use super::{Error, KeyTier};

/// Slug of the built-in tenant, whose keys may act for others.
pub const PLATFORM_SLUG: &str = "platform";

/// How many job starts a minute a tenant's contract grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[sqlx(type_name = "text", rename_all = "UPPERCASE")]
pub enum SlaTier {
    /// The smallest.
    Free,
    /// For those who rely on it.
    Pro,
    /// The largest.
    Enterprise,
}

impl SlaTier {
    /// All tiers, from the smallest.
    pub const ALL: [Self; 3] = [Self::Free, Self::Pro, Self::Enterprise];

    /// The tier's name, in capitals.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "FREE",
            Self::Pro => "PRO",
            Self::Enterprise => "ENTERPRISE",
        }
    }

    /// How many job starts the contract grants: the one place that knows.
    #[must_use]
    pub const fn rate(self) -> Rate {
        let count = match self {
            Self::Free => 30,
            Self::Pro => 300,
            Self::Enterprise => 3000,
        };
        Rate {
            count,
            per: Duration::from_secs(60),
            burst: Rate::default_burst(count),
        }
    }
}

impl SlaTier {
    /// How many jobs of a new tenant may wait, unless the platform says otherwise.
    #[must_use]
    pub const fn max_waiting(self) -> u32 {
        match self {
            Self::Free => 100_000,
            Self::Pro => 1_000_000,
            Self::Enterprise => 10_000_000,
        }
    }
}

impl FromStr for SlaTier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a tier: expected FREE, PRO or ENTERPRISE"))
    }
}

/// Where a tenant stands with its bills, and what that permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum TenantStatus {
    /// All is well.
    Active,
    /// It tries the platform out: as `active`.
    Trialing,
    /// A bill is overdue: as `active`, for as long as the platform is patient.
    PastDue,
    /// It reads, and nothing else; its jobs do not start.
    Suspended,
    /// It has not paid yet: it reads, jobs that are there run, and nothing new is taken.
    PendingPayment,
    /// It has left: as `suspended`, and it may be erased.
    Canceled,
}

impl TenantStatus {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Active,
        Self::Trialing,
        Self::PastDue,
        Self::Suspended,
        Self::PendingPayment,
        Self::Canceled,
    ];

    /// The status' name.
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

    /// Whether it may change anything, enqueue jobs included.
    #[must_use]
    pub const fn may_write(self) -> bool {
        matches!(self, Self::Active | Self::Trialing | Self::PastDue)
    }

    /// Whether its jobs start.
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

/// A tenant that is wanted.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// What it is called in commands and headers: see [`is_slug`].
    pub slug: String,
    /// What people call it, 1 to 200 characters.
    pub name: String,
    /// Its contract.
    pub sla_tier: SlaTier,
}

/// Who owns jobs, keys and resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Tenant {
    /// Id.
    pub id: TenantId,
    /// What it is called in commands and headers.
    pub slug: String,
    /// What people call it.
    pub name: String,
    /// Its contract.
    pub sla_tier: SlaTier,
    /// Where it stands with its bills.
    pub status: TenantStatus,
    /// Whether the operator has paused it, whatever its status.
    pub paused: bool,
    /// The endpoint that its contract was set up with.
    pub contract_endpoint_id: Option<EndpointId>,
    /// Whether it is being erased, which cannot be taken back.
    pub erasing: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Tenant {
    /// Whether its jobs start.
    #[must_use]
    pub fn runs(&self) -> bool {
        !self.paused && self.status.may_run()
    }
}

/// Whether `text` may be a slug: 1 to 63 of a-z, 0-9 and `-`, the first a letter or digit. No slug
/// looks like a tenant's id.
#[must_use]
pub fn is_slug(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Makes a tenant, whose jobs start as often as its tier says.
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

/// The same in a transaction of the engine's role.
///
/// # Errors
/// As [`create_tenant`].
pub(crate) async fn add_tenant(
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

/// Tenants, newest first, before the one with this id.
pub(crate) async fn list_tenants(
    pool: &PgPool,
    before: Option<TenantId>,
    limit: u32,
) -> Result<Vec<Tenant>, sqlx::Error> {
    query_as(include_str!("../sql/list_tenants.sql"))
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
}

/// What is to become of a tenant; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct TenantChange {
    /// What people call it.
    pub name: Option<String>,
    /// Its contract.
    pub sla_tier: Option<SlaTier>,
    /// Where it stands with its bills.
    pub status: Option<TenantStatus>,
    /// Whether the operator pauses it.
    pub paused: Option<bool>,
}

/// Changes a tenant and tells the engine what follows from it; `None` when it is not there. Should the
/// process die in between, the engine knows what the tenant does not say yet: the change is to be asked
/// for again.
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
    // One at a time in a process: each holds a connection while the engine takes another one.
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = TURN.lock().await;
    let mut tx = engine.pool().begin().await?;
    // Changes of one tenant take turns: each sees what the last one left.
    let before: Option<Tenant> = query_as(include_str!("../sql/lock_tenant.sql"))
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(before) = before else {
        return Ok(None);
    };
    if before.erasing {
        return Err(Error::BeingErased);
    }
    let after: Tenant = query_as(include_str!("../sql/change_tenant.sql"))
        .bind(id)
        .bind(change.name)
        .bind(change.sla_tier)
        .bind(change.status)
        .bind(change.paused)
        .fetch_one(&mut *tx)
        .await?;
    let mut told = settings::TenantChange::default();
    if KeyTier::of_contract(after.sla_tier) < KeyTier::of_contract(before.sla_tier) {
        query(include_str!("../sql/lower_keys.sql"))
            .bind(id)
            .bind(KeyTier::of_contract(after.sla_tier))
            .execute(&mut *tx)
            .await?;
    }
    if before.sla_tier != after.sla_tier {
        told.limit = LimitChange::rate(after.sla_tier.rate());
        told.max_waiting = Change::Set(after.sla_tier.max_waiting());
    }
    if before.runs() != after.runs() {
        told.paused = Some(!after.runs());
    }
    if told != settings::TenantChange::default() {
        engine.set_tenant(id, &told).await?;
    }
    // Not before: the engine changes it in a transaction of its own, and whoever changes limits meanwhile
    // holds what that one waits for, and waits for the end of the chain.
    let entry = Entry::new(action, id).before(&before).after(&after);
    audit::record(&mut tx, id, by, &entry).await?;
    tx.commit().await?;
    Ok(Some(after))
}

/// The tenant with this id (`ten_…`) or slug.
///
/// # Errors
/// When the database refuses.
pub async fn find_tenant(pool: &PgPool, id_or_slug: &str) -> Result<Option<Tenant>, Error> {
    let id: Option<TenantId> = id_or_slug.parse().ok();
    let slug = Some(id_or_slug).filter(|text| is_slug(text));
    if id.is_none() && slug.is_none() {
        return Ok(None);
    }
    Ok(query_as(include_str!("../sql/find_tenant.sql"))
        .bind(id)
        .bind(slug)
        .fetch_optional(pool)
        .await?)
}

/// The built-in tenant, made if it is not there yet. Nothing limits it. Safe to call from many processes at once.
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

/// The tenant, or `None` when its slug is taken.
async fn insert(connection: &mut PgConnection, new: &NewTenant) -> Result<Option<Tenant>, Error> {
    if !is_name(&new.name) {
        return Err(Error::InvalidName);
    }
    Ok(query_as(include_str!("../sql/create_tenant.sql"))
        .bind(TenantId::new())
        .bind(&new.slug)
        .bind(&new.name)
        .bind(new.sla_tier)
        .fetch_optional(connection)
        .await?)
}

pub(crate) fn is_name(text: &str) -> bool {
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
