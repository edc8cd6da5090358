//! Routes of the audit log.
//!
//! Lists a tenant's entries, newest first, and verifies its hash chain. Never writes an entry and never
//! shows one of another tenant.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use harkara_shared::anchors::{self, VerifyError, hex};
use harkara_shared::audit::{ActorKind, ChainFault, ChainReport};
use harkara_shared::database::{TenantTx, query_as};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json as Jsonb;
use utoipa::{IntoParams, ToSchema};

use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::paging::{Page, Paged};
use crate::problem::Problem;
use crate::time::Timestamp;

/// Filters of the audit log. All filters that are given must match.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Only entries by this actor: the id of an API key, user or portal link, or a component of the
    /// platform.
    #[param(example = "key_01h455vb4pex5vsknk084sn02q")]
    actor: Option<String>,
    /// Only entries of this action.
    #[param(example = "key.revoke")]
    action: Option<String>,
    /// Only entries about the resource with this id.
    #[param(example = "ep_01h455vb4pex5vsknk084sn02q")]
    resource: Option<String>,
    /// Only entries recorded at or after this time.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Only entries recorded before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct EntryRow {
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
pub(super) struct AuditEntryResponse {
    /// Sequence number in the tenant's chain, starting at 1, without gaps.
    #[schema(example = 42)]
    seq: i64,
    /// When the action was recorded.
    at: DateTime<Utc>,
    /// The actor.
    actor: AuditActorResponse,
    /// Name of the action.
    #[schema(example = "key.revoke")]
    action: String,
    /// Id of the resource that was acted on.
    #[schema(example = "key_01h455vb4pex5vsknk084sn02q")]
    resource: String,
    /// `X-Request-Id` of the request.
    #[schema(required)]
    request_id: Option<String>,
    /// State before the action, without secrets; null if not recorded.
    #[schema(required)]
    before: Option<Value>,
    /// State after the action, without secrets; null if not recorded.
    #[schema(required)]
    after: Option<Value>,
    /// Reason given for the action, for example in the header `X-Reason`.
    #[schema(required)]
    reason: Option<String>,
    /// SHA-256 over this entry and the previous entry's hash, in lowercase hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    hash: String,
}

/// Who acted, and from where.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditActor)]
pub(super) struct AuditActorResponse {
    /// Type of actor.
    #[schema(value_type = String, example = "key")]
    kind: ActorKind,
    /// Id of the API key, user or portal link, name of a component of the platform, or the name that an
    /// unauthenticated caller gave.
    #[schema(example = "key_01h455vb4pex5vsknk084sn02q")]
    id: String,
    /// Name of the API key or email of the user.
    #[schema(required, example = "billing service")]
    name: Option<String>,
    /// IP address of the client.
    #[schema(required, example = "192.0.2.7")]
    address: Option<String>,
    /// `User-Agent` of the client.
    #[schema(required)]
    user_agent: Option<String>,
}

impl From<EntryRow> for AuditEntryResponse {
    fn from(row: EntryRow) -> Self {
        Self {
            seq: row.seq,
            at: row.at,
            actor: AuditActorResponse {
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

/// List the audit log, newest first
#[utoipa::path(
    get,
    path = "/v1/audit-logs",
    operation_id = "list_audit_log",
    tag = "audit",
    responses((status = 200, description = "A page of entries", body = Page<AuditEntryResponse>))
)]
pub(super) async fn list_audit_log(
    State(state): State<ApiState>,
    caller: Authorized<scope::AuditRead>,
    Paged { filters, paging }: Paged<AuditQuery, i64>,
) -> Result<Json<Page<AuditEntryResponse>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let rows: Vec<EntryRow> = query_as(include_str!("../sql/list_audit.sql"))
        .bind(paging.after)
        .bind(&filters.actor)
        .bind(&filters.action)
        .bind(&filters.resource)
        .bind(filters.since.map(|moment| moment.0))
        .bind(filters.until.map(|moment| moment.0))
        .bind(i64::from(paging.fetch_limit()))
        .fetch_all(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(paging.page(rows, |row| row.seq, AuditEntryResponse::from))
}

/// Reads the newest entries of the transaction's tenant, at most `limit`, that match these filters.
pub(super) async fn newest_entries(
    tx: &mut TenantTx,
    [actor, action, resource]: [Option<&str>; 3],
    limit: u32,
) -> Result<Vec<AuditEntryResponse>, sqlx::Error> {
    let rows: Vec<EntryRow> = query_as(include_str!("../sql/list_audit.sql"))
        .bind(None::<i64>)
        .bind(actor)
        .bind(action)
        .bind(resource)
        .bind(None::<DateTime<Utc>>)
        .bind(None::<DateTime<Utc>>)
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?;
    Ok(rows.into_iter().map(AuditEntryResponse::from).collect())
}

/// Result of verifying an audit log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditCheck)]
pub(super) struct ChainCheckResponse {
    /// Whether no fault was found.
    intact: bool,
    /// Number of entries read.
    #[schema(example = 42)]
    entries: i64,
    /// Sequence number of the last entry.
    #[schema(example = 42)]
    head_seq: i64,
    /// Hash of the last entry; empty if the log has no entries.
    head_hash: String,
    /// Time of the newest anchor that was compared; null if there is none.
    #[schema(required)]
    anchored_at: Option<DateTime<Utc>>,
    /// Faults found, at most 100.
    #[schema(value_type = Vec<ChainFaultBody>)]
    faults: Vec<ChainFault>,
}

impl From<ChainReport> for ChainCheckResponse {
    fn from(report: ChainReport) -> Self {
        Self {
            intact: report.faults.is_empty(),
            entries: report.entries,
            head_seq: report.head.seq,
            head_hash: hex(&report.head.hash),
            anchored_at: report.anchored_at,
            faults: report.faults,
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
pub(super) struct ChainFaultBody {
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

/// Verify the audit log
///
/// Reads the tenant's whole chain and compares it with its head and with the anchors stored outside the
/// database.
#[utoipa::path(
    get,
    path = "/v1/audit-logs/verify",
    operation_id = "verify_audit_log",
    tag = "audit",
    responses((status = 200, description = "Result of the verification", body = ChainCheckResponse))
)]
pub(super) async fn verify_audit_log(
    State(state): State<ApiState>,
    caller: Authorized<scope::AuditRead>,
) -> Result<Json<ChainCheckResponse>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let report = anchors::verify_chain(&mut tx, state.blobs(), state.keys(), caller.tenant)
        .await
        .map_err(|error| match error {
            VerifyError::Database(error) => error.into(),
            VerifyError::Anchor(error) => Problem::internal(error),
        })?;
    tx.commit().await?;
    Ok(Json(report.into()))
}
