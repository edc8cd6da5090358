//! The retention of a tenant's event payloads.
//!
//! The payload of a pending delivery is never removed.

use std::time::Duration;

use harkara_shared::database::{TenantTx, query, query_scalar};

use crate::error::Error;

/// Reads how long payloads of events and responses are kept; `None` for as long as the events.
///
/// # Errors
/// When the database refuses.
pub async fn payload_retention(tx: &mut TenantTx) -> Result<Option<Duration>, Error> {
    let seconds: Option<i32> =
        query_scalar("select payload_seconds from app.webhook_settings where tenant_id = $1")
            .bind(tx.tenant())
            .fetch_optional(&mut **tx)
            .await?;
    let seconds = seconds.map(u64::try_from).transpose();
    let seconds = seconds.map_err(|_| Error::Corrupt("the retention of payloads".to_owned()))?;
    Ok(seconds.map(Duration::from_secs))
}

/// Sets how long payloads are kept, in whole seconds, at least an hour.
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

/// Removes the payloads of at most a thousand events past their retention, and the responses to them. Returns how many.
/// An event with a pending delivery keeps its payload.
///
/// # Errors
/// When the database refuses.
pub async fn remove_old_payloads(tx: &mut TenantTx) -> Result<u64, Error> {
    let removed = query(include_str!("sql/settings/remove_old_payloads.sql"))
        .bind(tx.tenant())
        .execute(&mut **tx)
        .await?;
    Ok(removed.rows_affected())
}
