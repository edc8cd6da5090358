//! The signing keys of endpoints: creates, rotates and lists them.
//!
//! Keys are stored sealed.

use std::collections::HashMap;
use std::time::Duration;

use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::EndpointId;
use harkara_shared::signature::SigningKey;
use harkara_shared::vault::MasterKeys;
use sqlx::types::Uuid;

use crate::error::Error;

/// Default time that a replaced key keeps signing.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 60 * 60);
/// Maximum time that a replaced key keeps signing.
pub const MAX_GRACE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Maximum number of replaced keys that keep signing.
const MAX_OLD_KEYS: i64 = 10;

fn context(id: EndpointId) -> String {
    format!("app.endpoint_secrets/{id}")
}

/// Adds a signing key. The latest key of each algorithm is the current one.
pub(super) async fn add(
    tx: &mut TenantTx,
    keys: &MasterKeys,
    id: EndpointId,
    key: &SigningKey,
) -> Result<(), Error> {
    let sealed = keys.seal(key.expose().as_bytes(), &context(id))?;
    query(include_str!("sql/secret/create_endpoint_secret.sql"))
        .bind(tx.tenant())
        .bind(id)
        .bind(Uuid::now_v7())
        .bind(&sealed)
        .bind(key.algorithm())
        .bind(key.public())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Replaces the current key of `new`'s algorithm, or adds `new` if there is none. The old key keeps signing for `grace`.
/// Returns whether the endpoint exists.
///
/// # Errors
/// [`Error::Conflict`] when the maximum number of replaced keys is still signing; others when the database refuses or the
/// key cannot be sealed.
pub async fn rotate_signing_key(
    tx: &mut TenantTx,
    keys: &MasterKeys,
    id: EndpointId,
    new: &SigningKey,
    grace: Duration,
) -> Result<bool, Error> {
    // Locks the endpoint: two concurrent rotations would leave two current keys.
    let exists: Option<bool> = query_scalar(
        "select true from app.webhook_endpoints where tenant_id = $1 and id = $2 for update",
    )
    .bind(tx.tenant())
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    if exists.is_none() {
        return Ok(false);
    }
    let old: i64 = query_scalar(include_str!("sql/secret/end_endpoint_secret.sql"))
        .bind(tx.tenant())
        .bind(id)
        .bind(new.algorithm())
        .bind(grace.as_secs_f64())
        .fetch_one(&mut **tx)
        .await?;
    if old > MAX_OLD_KEYS {
        return Err(Error::Conflict(format!(
            "{MAX_OLD_KEYS} replaced keys are still signing: wait until one expires, or rotate with a grace of 0s to end them"
        )));
    }
    add(tx, keys, id, new).await?;
    Ok(true)
}

/// Reads an endpoint's current keys: the secret, and the key pair if it has one.
///
/// # Errors
/// When the database refuses or the master key that sealed a key is missing.
pub async fn current_signing_keys(
    tx: &mut TenantTx,
    keys: &MasterKeys,
    id: EndpointId,
) -> Result<Vec<SigningKey>, Error> {
    let mut keys_by_endpoint = signing_keys(tx, keys, &[id]).await?;
    let mut current = keys_by_endpoint.remove(&id).unwrap_or_default();
    let mut seen = Vec::new();
    current.retain(|key| {
        let is_first = !seen.contains(&key.algorithm());
        seen.push(key.algorithm());
        is_first
    });
    Ok(current)
}

#[derive(sqlx::FromRow)]
struct Row {
    endpoint_id: EndpointId,
    sealed: Vec<u8>,
}

/// Reads the signing keys of each endpoint, current ones first.
pub(super) async fn signing_keys(
    tx: &mut TenantTx,
    keys: &MasterKeys,
    ids: &[EndpointId],
) -> Result<HashMap<EndpointId, Vec<SigningKey>>, Error> {
    let rows: Vec<Row> = query_as(include_str!("sql/secret/list_endpoint_secrets.sql"))
        .bind(tx.tenant())
        .bind(ids)
        .fetch_all(&mut **tx)
        .await?;
    let mut keys_by_endpoint: HashMap<EndpointId, Vec<SigningKey>> = HashMap::new();
    for row in rows {
        let id = row.endpoint_id;
        let text = keys.open(&row.sealed, &context(id))?;
        let key = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| SigningKey::parse(text).ok())
            .ok_or_else(|| Error::Corrupt(format!("a key of {id}")))?;
        keys_by_endpoint.entry(id).or_default().push(key);
    }
    Ok(keys_by_endpoint)
}
