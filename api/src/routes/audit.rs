//! Routes of the audit log.
//!
//! Lists a tenant's entries, newest first, and verifies its hash chain. Never writes an entry and never
//! shows one of another tenant.

use axum::Json;
use axum::extract::State;
use harkara_accounts::audit_log::{self, AuditCheck, AuditEntry, AuditFilter, list_audit_entries};
use harkara_shared::anchors::VerifyError;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

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

/// List the audit log, newest first
#[utoipa::path(
    get,
    path = "/v1/audit-logs",
    operation_id = "list_audit_log",
    tag = "audit",
    responses((status = 200, description = "A page of entries", body = Page<AuditEntry>))
)]
pub(super) async fn list_audit_log(
    State(state): State<ApiState>,
    caller: Authorized<scope::AuditRead>,
    Paged { filters, paging }: Paged<AuditQuery, i64>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let filter = AuditFilter {
        actor: filters.actor.as_deref(),
        action: filters.action.as_deref(),
        resource: filters.resource.as_deref(),
        since: filters.since.map(|time| time.0),
        until: filters.until.map(|time| time.0),
    };
    let rows = list_audit_entries(&mut tx, &filter, paging.after, paging.fetch_limit()).await?;
    tx.commit().await?;
    Ok(paging.page(rows, |entry| entry.seq, |entry| entry))
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
    responses((status = 200, description = "Result of the verification", body = AuditCheck))
)]
pub(super) async fn verify_audit_log(
    State(state): State<ApiState>,
    caller: Authorized<scope::AuditRead>,
) -> Result<Json<AuditCheck>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let report = audit_log::verify_audit_log(&mut tx, state.blobs(), state.keys(), caller.tenant)
        .await
        .map_err(|error| match error {
            VerifyError::Database(error) => error.into(),
            VerifyError::Anchor(error) => Problem::internal(error),
        })?;
    tx.commit().await?;
    Ok(Json(report))
}
