//! Route that erases a tenant.
//!
//! Enqueues the job that erases a canceled tenant, after its slug was repeated as confirmation. Never
//! erases anything itself.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use harkara_accounts::{PLATFORM_SLUG, TenantStatus};
use harkara_jobs::catalogue::Kind;
use harkara_platform::kinds::tenant_erase::{Args, TenantErase};
use harkara_queue::Quota;
use harkara_queue::job::Unique;
use harkara_shared::audit::{self, Entry};
use harkara_shared::id::JobId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::to_raw_value;
use utoipa::ToSchema;

use super::find_tenant;
use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::problem::{Code, Problem};
use crate::query::{PathId, TenantRef};
use crate::request_context::TraceContext;

/// Confirmation of an erasure.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TenantErasure, example = json!({"confirm": "acme-trading"}))]
pub(in crate::routes) struct TenantErasureRequest {
    /// Slug of the tenant, as confirmation.
    #[schema(value_type = String, required, nullable = false)]
    confirm: Option<String>,
}

/// The job that erases a tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TenantErasureJob)]
pub(in crate::routes) struct TenantErasureResponse {
    /// Id of the job, of kind `tenant.erase` in the tenant `platform`.
    job_id: JobId,
}

/// Erase a tenant
///
/// Permanently removes everything that belongs to the tenant, including its jobs, keys, users and audit
/// log. The audit log of the tenant `platform` records the erasure. The tenant must be `canceled` and
/// cannot be changed afterwards. While the job is unfinished, a repeated request returns the same job. Only
/// for keys and users of the tenant `platform`; users must have confirmed their identity recently
/// (`POST /v1/session/confirm`).
#[utoipa::path(
    post,
    path = "/v1/tenants/{id}/erase",
    operation_id = "erase_tenant",
    tag = "tenants",
    request_body = TenantErasureRequest,
    responses(
        (status = 202, description = "The job that was enqueued", body = TenantErasureResponse,
            headers(("Location" = String, description = "Path of the job"))),
        (status = 409, description = "The tenant is not canceled, or is the tenant `platform`"),
    )
)]
pub(in crate::routes) async fn erase_tenant(
    State(state): State<ApiState>,
    caller: Authorized<scope::PlatformAdmin>,
    PathId(id): PathId<TenantRef>,
    TraceContext(trace): TraceContext,
    body: JsonBody,
) -> Result<Response, Problem> {
    let tenant = find_tenant(&state, &caller, &id).await?;
    caller.require_platform()?;
    caller.require_confirmed()?;
    let mut errors = FieldErrors::default();
    let request: Option<TenantErasureRequest> = body.members(&mut errors);
    if let Some(request) = request {
        match request.confirm {
            None => errors.add("", "/confirm", "missing", "is required: the tenant's slug"),
            Some(confirm) if confirm != tenant.slug => {
                errors.add("", "/confirm", "invalid", "is required: the tenant's slug");
            }
            Some(_) => {}
        }
    }
    errors.into_body_result()?;
    if tenant.slug == PLATFORM_SLUG {
        let detail = "tenant `platform` cannot be erased";
        return Err(Problem::new(Code::Conflict, detail));
    }
    if tenant.status != TenantStatus::Canceled {
        let detail = format!(
            "tenant is {}; only a canceled tenant can be erased",
            tenant.status
        );
        return Err(Problem::new(Code::Conflict, detail));
    }
    let args = Args {
        tenant_id: tenant.id,
    };
    let mut job = Kind::of::<TenantErase>().job(to_raw_value(&args).map_err(Problem::internal)?);
    job.trace = trace;
    job.unique = Some(Unique {
        key: format!("erase:{}", tenant.id),
        hold: None,
    });
    let platform = caller.home_tenant();
    let mut tx = state.begin_across(&caller).await?;
    if !harkara_accounts::request_erasure(&mut tx, tenant.id).await? {
        let detail = "tenant is no longer canceled";
        return Err(Problem::new(Code::Conflict, detail));
    }
    let job_id = state
        .engine()
        .enqueue(&mut tx, platform, job, Quota::Skip)
        .await?
        .id();
    let entry =
        Entry::new("tenant.erase", tenant.id).after(json!({"slug": tenant.slug, "job_id": job_id}));
    audit::record(&mut tx, platform, caller.actor(), &entry).await?;
    tx.commit().await?;
    let location = [(LOCATION, format!("/v1/jobs/{job_id}"))];
    Ok((
        StatusCode::ACCEPTED,
        location,
        Json(TenantErasureResponse { job_id }),
    )
        .into_response())
}
