//! Room: how many things a tenant may have.
//! Takes: a transaction of the tenant. Gives: leave to make one more, or [`Error::Quota`].
//! Never: bounds what the platform itself makes for a tenant.

use harkara_shared::database::{TenantTx, query_as};
use harkara_shared::database::{query, query_scalar};

use super::{Error, KeyTier, SlaTier};

/// The tier that a tenant's quotas go by: what its contract grants, or more if it was given a better key.
pub(crate) async fn allowance(tx: &mut TenantTx) -> Result<KeyTier, sqlx::Error> {
    let (contract, best): (SlaTier, Vec<KeyTier>) =
        query_as(include_str!("../sql/tenant_tiers.sql"))
            .bind(tx.tenant())
            .fetch_one(&mut **tx)
            .await?;
    let contract = KeyTier::of_contract(contract);
    Ok(best.into_iter().fold(contract, KeyTier::max))
}

/// Goes on if the tenant may have one more key. One that has ended counts for a day.
///
/// # Errors
/// [`Error::Quota`], or when the database refuses.
pub(crate) async fn check_keys(tx: &mut TenantTx) -> Result<(), Error> {
    check(
        tx,
        "keys",
        KeyTier::most_keys,
        include_str!("../sql/count_keys.sql"),
    )
    .await
}

/// Goes on if the tenant may have one more webhook endpoint.
///
/// # Errors
/// [`Error::Quota`], or when the database refuses.
pub(crate) async fn check_endpoints(tx: &mut TenantTx) -> Result<(), Error> {
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
    // Those who make something at the same time take turns, so that each counts what the last one made.
    query("select pg_advisory_xact_lock(hashtextextended('quota of ' || $1::text, 0))")
        .bind(tx.tenant().as_uuid())
        .execute(&mut **tx)
        .await?;
    let there: i64 = query_scalar(count).fetch_one(&mut **tx).await?;
    if there < i64::from(most) {
        Ok(())
    } else {
        Err(Error::Quota { what, tier, most })
    }
}
