//! Reads and verifies a tenant's audit log.
//!
//! Entries are written by `harkara_shared::audit`. The API returns and the command line prints
//! these types.

use chrono::{DateTime, Utc};
use harkara_shared::anchors::{self, VerifyError, hex};
use harkara_shared::audit::{ActorKind, ChainFault, ChainReport};
use harkara_shared::blob::BlobStore;
use harkara_shared::database::{TenantTx, query_as};
use harkara_shared::id::TenantId;
use harkara_shared::vault::MasterKeys;
use serde::Serialize;
use serde_json::Value;
use sqlx::types::Json as Jsonb;
use utoipa::ToSchema;

#[derive(sqlx::FromRow)]
struct Row {
    seq: i64,
    at: DateTime<Utc>,
    actor_kind: ActorKind,
    actor_id: String,
    actor_name: Option<String>,
    action: String,
    resource: String,
    address: Option<String>,
    user_agent: Option<String>,
    request_id: Option<String>,
    before: Option<Jsonb<Value>>,
    after: Option<Jsonb<Value>>,
    reason: Option<String>,
    hash: Vec<u8>,
}

/// One entry of the audit log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditEntry {
    /// Sequence number in the tenant's chain, starting at 1, without gaps.
    #[schema(example = 42)]
    pub seq: i64,
    /// When the action was recorded.
    pub at: DateTime<Utc>,
    /// The actor.
    pub actor: AuditActor,
    /// Name of the action.
    #[schema(example = "key.revoke")]
    pub action: String,
    /// Id of the resource that was acted on.
    #[schema(example = "key_01h455vb4pex5vsknk084sn02q")]
    pub resource: String,
    /// `X-Request-Id` of the request.
    #[schema(required)]
    pub request_id: Option<String>,
    /// State before the action, without secrets; null if not recorded.
    #[schema(required)]
    pub before: Option<Value>,
    /// State after the action, without secrets; null if not recorded.
    #[schema(required)]
    pub after: Option<Value>,
    /// Reason given for the action, for example in the header `X-Reason`.
    #[schema(required)]
    pub reason: Option<String>,
    /// SHA-256 over this entry and the previous entry's hash, in lowercase hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub hash: String,
}

/// Who acted, and from where.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditActor)]
pub struct AuditActor {
    /// Type of actor.
    #[schema(value_type = String, example = "key")]
    pub kind: ActorKind,
    /// Id of the API key, user or portal link, name of a component of the platform, or the name that an
    /// unauthenticated caller gave.
    #[schema(example = "key_01h455vb4pex5vsknk084sn02q")]
    pub id: String,
    /// Name of the API key or email of the user.
    #[schema(required, example = "billing service")]
    pub name: Option<String>,
    /// IP address of the client.
    #[schema(required, example = "192.0.2.7")]
    pub address: Option<String>,
    /// `User-Agent` of the client.
    #[schema(required)]
    pub user_agent: Option<String>,
}

impl From<Row> for AuditEntry {
    fn from(row: Row) -> Self {
        Self {
            seq: row.seq,
            at: row.at,
            actor: AuditActor {
                kind: row.actor_kind,
                id: row.actor_id,
                name: row.actor_name,
                address: row.address,
                user_agent: row.user_agent,
            },
            action: row.action,
            resource: row.resource,
            request_id: row.request_id,
            before: row.before.map(|json| json.0),
            after: row.after.map(|json| json.0),
            reason: row.reason,
            hash: hex(&row.hash),
        }
    }
}

/// Which entries to list; what is `None` matches all.
#[derive(Debug, Clone, Copy, Default)]
pub struct AuditFilter<'a> {
    /// Id of the actor.
    pub actor: Option<&'a str>,
    /// The action.
    pub action: Option<&'a str>,
    /// Id of what was acted on.
    pub resource: Option<&'a str>,
    /// At or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Before this time.
    pub until: Option<DateTime<Utc>>,
}

/// At most `limit` entries of the transaction's tenant, newest first, with numbers below `before`.
///
/// # Errors
/// When the database refuses.
pub async fn list_audit_entries(
    tx: &mut TenantTx,
    filter: &AuditFilter<'_>,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<AuditEntry>, sqlx::Error> {
    let rows: Vec<Row> = query_as(include_str!("sql/audit_log/list_audit.sql"))
        .bind(before)
        .bind(filter.actor.map(str::to_owned))
        .bind(filter.action.map(str::to_owned))
        .bind(filter.resource.map(str::to_owned))
        .bind(filter.since)
        .bind(filter.until)
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?;
    Ok(rows.into_iter().map(AuditEntry::from).collect())
}

/// Result of verifying an audit log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditCheck)]
pub struct AuditCheck {
    /// Whether no fault was found.
    pub intact: bool,
    /// Number of entries read.
    #[schema(example = 42)]
    pub entries: i64,
    /// Sequence number of the last entry.
    #[schema(example = 42)]
    pub head_seq: i64,
    /// Hash of the last entry; empty if the log has no entries.
    pub head_hash: String,
    /// Time of the newest anchor that was compared; null if there is none.
    #[schema(required)]
    pub anchored_at: Option<DateTime<Utc>>,
    /// Faults found, at most 100.
    #[schema(value_type = Vec<BrokenLinkBody>)]
    pub faults: Vec<ChainFault>,
}

impl From<ChainReport> for AuditCheck {
    fn from(checked: ChainReport) -> Self {
        Self {
            intact: checked.faults.is_empty(),
            entries: checked.entries,
            head_seq: checked.head.seq,
            head_hash: hex(&checked.head.hash),
            anchored_at: checked.anchored_at,
            faults: checked.faults,
        }
    }
}

/// A fault of the chain at one entry.
#[derive(Debug, ToSchema)]
#[schema(as = BrokenLink)]
#[expect(
    dead_code,
    reason = "describes harkara_shared::audit::ChainFault, which does not depend on HTTP"
)]
struct BrokenLinkBody {
    /// Sequence number of the entry.
    #[schema(example = 7)]
    seq: i64,
    /// `missing`: entries before this one are gone. `changed`: this entry or the head was modified.
    /// `truncated`: the chain ends before this entry. `rewritten`: this entry differs from the one anchored
    /// outside the database. `forged`, with `seq` 0: an anchor is damaged or was not written by the
    /// platform.
    #[schema(example = "changed")]
    fault: String,
}

/// Reads a tenant's whole chain and compares it with its head, and with the anchors kept outside of the database.
///
/// # Errors
/// When the database refuses, or the blob store.
pub async fn verify_audit_log(
    tx: &mut TenantTx,
    blobs: Option<&BlobStore>,
    keys: &MasterKeys,
    tenant: TenantId,
) -> Result<AuditCheck, VerifyError> {
    Ok(anchors::verify_chain(tx, blobs, keys, tenant).await?.into())
}
