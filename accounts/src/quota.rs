//! Quotas on the number of a tenant's API keys and webhook endpoints.
//!
//! Takes a transaction of the tenant and returns [`Error::Quota`] when the quota is reached. What the
//! platform itself creates for a tenant is not limited.

use harkara_shared::database::{TenantTx, query_as};
use harkara_shared::database::{query, query_scalar};

use crate::error::Error;
use crate::key_tier::KeyTier;
use crate::sla_tier::SlaTier;

/// The tier that sets a tenant's quotas: that of its contract, or of its best key if that is higher.
///
/// # Errors
/// When the database refuses.
pub async fn allowance(tx: &mut TenantTx) -> Result<KeyTier, sqlx::Error> {
    let (contract, best): (SlaTier, Vec<KeyTier>) =
        query_as(include_str!("sql/quota/tenant_tiers.sql"))
            .bind(tx.tenant())
            .fetch_one(&mut **tx)
            .await?;
    let contract = KeyTier::of_contract(contract);
    Ok(best.into_iter().fold(contract, KeyTier::max))
}

/// Checks that the tenant can have one more key. A revoked or expired key still counts for a day.
///
/// # Errors
/// [`Error::Quota`], or when the database refuses.
pub async fn check_keys(tx: &mut TenantTx) -> Result<(), Error> {
    check(
        tx,
        "keys",
        KeyTier::most_keys,
        include_str!("sql/quota/count_keys.sql"),
    )
    .await
}

/// Checks that the tenant can have one more webhook endpoint.
///
/// # Errors
/// [`Error::Quota`], or when the database refuses.
pub async fn check_endpoints(tx: &mut TenantTx) -> Result<(), Error> {
    check(
        tx,
        "webhook endpoints",
        KeyTier::most_endpoints,
        "select count(*) from app.webhook_endpoints",
    )
    .await
}

async fn check(
    tx: &mut TenantTx,
    what: &'static str,
    most: impl Fn(KeyTier) -> Option<u32>,
    count: &'static str,
) -> Result<(), Error> {
    let tier = allowance(tx).await?;
    let Some(most) = most(tier) else {
        return Ok(());
    };
    // Serializes concurrent creations, so that each counts what the one before created.
    query("select pg_advisory_xact_lock(hashtextextended('quota of ' || $1::text, 0))")
        .bind(tx.tenant().as_uuid())
        .execute(&mut **tx)
        .await?;
    let existing: i64 = query_scalar(count).fetch_one(&mut **tx).await?;
    if existing < i64::from(most) {
        Ok(())
    } else {
        Err(Error::Quota { what, tier, most })
    }
}
