//! The kind `maintenance.access_expiry`: records expired access in the audit log and removes old sessions.
//!
//! It revokes nothing: every check of access compares the expiry with the current time.

use std::time::Duration;

use harkara_kind::JobKind;
use harkara_kind::Services;
use harkara_kind::database_verdict;
use harkara_queue::{Run, Verdict};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{query, query_as};
use harkara_shared::id::{ApiKeyId, GrantId, OverrideId, TenantId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::types::Json;
use utoipa::ToSchema;

/// Maximum number of rows recorded, or removed, by one statement.
const BATCH_ROWS: i64 = 200;

/// - Changes: records in the audit logs which API keys, grants of roles and permissions of single users have
///   expired, once each; removes sessions and sign-in links a day after their end, and outcomes stored for
///   an `Idempotency-Key` when they expire.
/// - Twice: the second run finds nothing more to record or remove.
/// - Calls: nothing.
/// - Dead: no access is extended; the audit log is late until the next run, five minutes later.
#[derive(Debug)]
pub struct MaintenanceAccessExpiry;

/// Payload of `maintenance.access_expiry`: none.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {}

impl JobKind for MaintenanceAccessExpiry {
    const KIND: &'static str = "maintenance.access_expiry";
    const QUEUE: &'static str = "maintenance";
    const MAX_ATTEMPTS: u16 = 3;
    const TIMEOUT: Duration = Duration::from_secs(10 * 60);
    const PLATFORM_ONLY: bool = true;
    type Services = Services;
    type Args = Args;

    async fn run(_: Args, _: Run, services: &Services) -> Verdict {
        match expire(services.engine.pool()).await {
            Ok(result) => Verdict::Done {
                result: Some(result),
                follow_ups: Vec::new(),
            },
            Err(error) => database_verdict(&error),
        }
    }
}

async fn expire(pool: &PgPool) -> Result<Value, sqlx::Error> {
    Ok(json!({
        "keys": record_expired_keys(pool).await?,
        "grants": record_expired_grants(pool).await?,
        "permissions": record_expired_permissions(pool).await?,
        "sessions": remove(pool, include_str!("../sql/maintenance_access_expiry/remove_ended_sessions.sql")).await?,
        "sign_in_links": remove(pool, include_str!("../sql/maintenance_access_expiry/remove_old_links.sql")).await?,
        "answers": remove(pool, include_str!("../sql/maintenance_access_expiry/remove_old_outcomes.sql")).await?,
    }))
}

#[derive(sqlx::FromRow)]
struct ExpiredKey {
    tenant_id: TenantId,
    id: ApiKeyId,
    before: Json<Value>,
}

#[derive(sqlx::FromRow)]
struct ExpiredAccess<I> {
    tenant_id: TenantId,
    id: I,
    user_id: UserId,
    before: Json<Value>,
}

impl<I> ExpiredAccess<I> {
    /// The entry's `before`: the values, and the user they applied to.
    fn before(&mut self) -> Value {
        let mut before = self.before.0.take();
        before["user_id"] = json!(self.user_id);
        before
    }
}

async fn record_expired_keys(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let mut recorded = 0;
    loop {
        let mut tx = pool.begin().await?;
        let expired: Vec<ExpiredKey> = query_as(include_str!(
            "../sql/maintenance_access_expiry/record_expired_keys.sql"
        ))
        .bind(BATCH_ROWS)
        .fetch_all(&mut *tx)
        .await?;
        let entries = expired.into_iter().map(|key| {
            let entry = Entry::new("key.expire", key.id).before(key.before.0);
            (key.tenant_id, entry)
        });
        let more = record(tx, entries.collect()).await?;
        recorded += more;
        if more == 0 {
            return Ok(recorded);
        }
    }
}

async fn record_expired_grants(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let mut recorded = 0;
    loop {
        let mut tx = pool.begin().await?;
        let expired: Vec<ExpiredAccess<GrantId>> = query_as(include_str!(
            "../sql/maintenance_access_expiry/record_expired_grants.sql"
        ))
        .bind(BATCH_ROWS)
        .fetch_all(&mut *tx)
        .await?;
        let entries = expired.into_iter().map(|mut grant| {
            let entry = Entry::new("grant.expire", grant.id).before(grant.before());
            (grant.tenant_id, entry)
        });
        let more = record(tx, entries.collect()).await?;
        recorded += more;
        if more == 0 {
            return Ok(recorded);
        }
    }
}

async fn record_expired_permissions(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let mut recorded = 0;
    loop {
        let mut tx = pool.begin().await?;
        let expired: Vec<ExpiredAccess<OverrideId>> = query_as(include_str!(
            "../sql/maintenance_access_expiry/record_expired_permissions.sql"
        ))
        .bind(BATCH_ROWS)
        .fetch_all(&mut *tx)
        .await?;
        let entries = expired.into_iter().map(|mut permission| {
            let entry = Entry::new("permission.expire", permission.id).before(permission.before());
            (permission.tenant_id, entry)
        });
        let more = record(tx, entries.collect()).await?;
        recorded += more;
        if more == 0 {
            return Ok(recorded);
        }
    }
}

/// Adds the entries in the transaction that marked the expired rows. The statements return them in the order of their
/// tenants, in which all writers lock the heads of the audit chains.
async fn record(
    mut tx: sqlx::Transaction<'static, sqlx::Postgres>,
    entries: Vec<(TenantId, Entry)>,
) -> Result<u64, sqlx::Error> {
    let actor = Actor::system(MaintenanceAccessExpiry::KIND);
    let mut recorded = 0;
    for (tenant, entry) in entries {
        audit::record(&mut tx, tenant, &actor, &entry).await?;
        recorded += 1;
    }
    tx.commit().await?;
    Ok(recorded)
}

async fn remove(pool: &PgPool, statement: &'static str) -> Result<u64, sqlx::Error> {
    let mut total = 0;
    loop {
        let removed = query(statement).bind(BATCH_ROWS).execute(pool).await?;
        total += removed.rows_affected();
        if removed.rows_affected() == 0 {
            return Ok(total);
        }
    }
}
