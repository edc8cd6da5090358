//! The retention of a tenant's event payloads.
//!
//! The payload of a pending delivery is never removed.

use std::time::Duration;

use harkara_shared::database::{TenantTx, query, query_scalar};

use crate::error::Error;

/// How long payloads of events and answers are kept where that is less than the events themselves; `None`
/// for as long as they.
///
/// # Errors
/// When the database refuses.
pub async fn payload_retention(tx: &mut TenantTx) -> Result<Option<Duration>, Error> {
    let seconds: Option<i32> =
        query_scalar("select payload_seconds from app.webhook_settings where tenant_id = $1")
            .bind(tx.tenant())
            .fetch_optional(&mut **tx)
            .await?;
    Ok(seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or_default())))
}

/// Sets it; in whole seconds, an hour at least.
///
/// # Errors
/// When the database refuses.
pub async fn set_payload_retention(tx: &mut TenantTx, keep: Option<Duration>) -> Result<(), Error> {
    let statement = match keep {
        None => query("delete from app.webhook_settings where tenant_id = $1").bind(tx.tenant()),
        Some(keep) => query(include_str!("sql/settings/set_payload_retention.sql"))
            .bind(tx.tenant())
            .bind(i32::try_from(keep.as_secs()).unwrap_or(i32::MAX)),
    };
    statement.execute(&mut **tx).await?;
    Ok(())
}

/// Removes the payloads of at most a thousand events that are older than they are to be kept, with the
/// answers to them, and answers how many. An event with a delivery on its way keeps its own.
///
/// # Errors
/// When the database refuses.
pub async fn forget_payloads(tx: &mut TenantTx) -> Result<u64, Error> {
    let removed = query(include_str!("sql/settings/remove_old_payloads.sql"))
        .bind(tx.tenant())
        .execute(&mut **tx)
        .await?;
    Ok(removed.rows_affected())
}
