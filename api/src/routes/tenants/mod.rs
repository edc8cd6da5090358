//! Routes of tenants.
//!
//! Creates, lists, shows, changes, pauses and resumes tenants. Never lets a tenant change its own contract,
//! and applies every change to the engine as well.

pub(super) mod erase;
pub(super) mod export;
pub(super) mod limits;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use harkara_accounts::{
    self as accounts, NewTenant, PLATFORM_SLUG, SlaTier, Tenant, TenantChange, TenantStatus,
    is_name, is_slug,
};
use harkara_shared::id::TenantId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::limits::TenantLimitsResponse;
use crate::ApiState;
use crate::auth::{Authorized, Caller, OrPlatformAdmin, PlatformOnly, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::paging::{Page, Paging};
use crate::problem::{Code, Problem};
use crate::query::{PathId, TenantRef};

/// A tenant to create.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewTenant, example = json!({
    "name": "Acme Trading", "slug": "acme-trading", "sla_tier": "PRO"
}))]
pub(super) struct NewTenantRequest {
    /// Display name of the tenant.
    #[schema(value_type = String, required, nullable = false, min_length = 1, max_length = 200,
        pattern = r"^[^\u0000]*$")]
    name: Option<String>,
    /// Slug of the tenant, as used in commands and headers.
    #[schema(value_type = String, required, nullable = false,
        pattern = "^[a-z0-9][a-z0-9-]{0,62}$")]
    slug: Option<String>,
    /// SLA tier. Limits job starts per minute: FREE 30, PRO 300, ENTERPRISE 3000. Default FREE.
    sla_tier: Option<SlaTier>,
}

/// Changes of a tenant. Members that are omitted stay unchanged.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TenantChange, example = json!({"status": "past_due"}))]
pub(super) struct TenantChangeRequest {
    /// Display name of the tenant. The tenant itself can change it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\u0000]*$")]
    name: Option<String>,
    /// SLA tier. Sets the rate, the burst and `max_waiting` to those of the new tier.
    sla_tier: Option<SlaTier>,
    /// Billing status. `active`, `trialing` and `past_due` allow everything. `pending_payment` allows
    /// reading, and existing jobs run. `suspended` and `canceled` allow reading, and no job starts.
    status: Option<TenantStatus>,
}

/// A tenant: the owner of jobs, keys and other resources.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tenant)]
pub(super) struct TenantResponse {
    /// Id of the tenant.
    id: TenantId,
    /// Slug of the tenant, as used in commands and headers.
    #[schema(example = "acme-trading")]
    slug: String,
    /// Display name of the tenant.
    #[schema(example = "Acme Trading")]
    name: String,
    /// SLA tier.
    sla_tier: SlaTier,
    /// Billing status of the tenant.
    status: TenantStatus,
    /// Whether the operator has paused the tenant.
    paused: bool,
    /// When the request was started.
    created_at: DateTime<Utc>,
}

impl From<Tenant> for TenantResponse {
    fn from(tenant: Tenant) -> Self {
        Self {
            id: tenant.id,
            slug: tenant.slug,
            name: tenant.name,
            sla_tier: tenant.sla_tier,
            status: tenant.status,
            paused: tenant.paused,
            created_at: tenant.created_at,
        }
    }
}

/// Create a tenant
#[utoipa::path(
    post,
    path = "/v1/tenants",
    operation_id = "create_tenant",
    tag = "tenants",
    request_body = NewTenantRequest,
    responses(
        (status = 201, description = "The tenant", body = TenantResponse,
            headers(("Location" = String, description = "Path of the tenant"))),
        (status = 409, description = "The slug is used by another tenant"),
    )
)]
pub(super) async fn create_tenant(
    State(state): State<ApiState>,
    caller: Authorized<PlatformOnly<scope::PlatformAdmin>>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let mut errors = FieldErrors::default();
    let request: NewTenantRequest = body.members(&mut errors).unwrap_or_default();
    for (pointer, is_missing) in [
        ("/name", request.name.is_none()),
        ("/slug", request.slug.is_none()),
    ] {
        if is_missing {
            errors.add("", pointer, "missing", "is required");
        }
    }
    validate_name(request.name.as_deref(), &mut errors);
    if request.slug.as_deref().is_some_and(|slug| !is_slug(slug)) {
        let detail =
            "must have 1 to 63 characters of a-z, 0-9 and `-`, and start with a letter or digit";
        errors.add("", "/slug", "invalid", detail);
    }
    errors.into_body_result()?;
    let new = NewTenant {
        slug: request.slug.unwrap_or_default(),
        name: request.name.unwrap_or_default(),
        sla_tier: request.sla_tier.unwrap_or(SlaTier::Free),
    };
    let mut tx = state.begin_across(&caller).await?;
    let tenant = accounts::add_tenant(&mut tx, new, caller.actor()).await?;
    tx.commit().await?;
    let location = [(LOCATION, format!("/v1/tenants/{}", tenant.id))];
    Ok((
        StatusCode::CREATED,
        location,
        Json(TenantResponse::from(tenant)),
    )
        .into_response())
}

fn validate_name(name: Option<&str>, errors: &mut FieldErrors) {
    if name.is_some_and(|name| !is_name(name)) {
        errors.add("", "/name", "invalid", "must have 1 to 200 characters");
    }
}

/// List tenants, newest first
///
/// Callers without `platform:admin` see only their own tenant.
#[utoipa::path(
    get,
    path = "/v1/tenants",
    operation_id = "list_tenants",
    tag = "tenants",
    responses((status = 200, description = "A page of tenants", body = Page<TenantResponse>))
)]
pub(super) async fn list_tenants(
    State(state): State<ApiState>,
    caller: Authorized<OrPlatformAdmin<scope::TenantAdmin>>,
    paging: Paging<TenantId>,
) -> Result<Json<Page<TenantResponse>>, Problem> {
    let tenants = if caller.is_platform_admin() {
        accounts::list_tenants(state.pool(), paging.after, paging.fetch_limit()).await?
    } else {
        let own = accounts::find_tenant(state.pool(), &caller.tenant.to_string()).await?;
        own.into_iter().filter(|_| paging.after.is_none()).collect()
    };
    Ok(paging.page(tenants, |tenant| tenant.id, TenantResponse::from))
}

/// Get a tenant
///
/// Only platform administrators can access tenants other than their own.
#[utoipa::path(
    get,
    path = "/v1/tenants/{id}",
    operation_id = "get_tenant",
    tag = "tenants",
    responses((status = 200, description = "The tenant", body = TenantResponse))
)]
pub(super) async fn get_tenant(
    State(state): State<ApiState>,
    caller: Authorized<OrPlatformAdmin<scope::TenantAdmin>>,
    PathId(id): PathId<TenantRef>,
) -> Result<Json<TenantResponse>, Problem> {
    Ok(Json(find_tenant(&state, &caller, &id).await?.into()))
}

/// Change a tenant
///
/// Only platform administrators can change tenants other than their own, or change `sla_tier` and `status`.
#[utoipa::path(
    patch,
    path = "/v1/tenants/{id}",
    operation_id = "change_tenant",
    tag = "tenants",
    request_body = TenantChangeRequest,
    responses(
        (status = 200, description = "The changed tenant", body = TenantResponse),
        (status = 409, description = "The tenant is `platform`, which has no contract"),
    )
)]
pub(super) async fn change_tenant(
    State(state): State<ApiState>,
    caller: Authorized<OrPlatformAdmin<scope::TenantAdmin>>,
    PathId(id): PathId<TenantRef>,
    body: JsonBody,
) -> Result<Json<TenantResponse>, Problem> {
    let tenant = find_tenant(&state, &caller, &id).await?;
    let mut errors = FieldErrors::default();
    let request: TenantChangeRequest = body.members(&mut errors).unwrap_or_default();
    if request.sla_tier.is_some() || request.status.is_some() {
        caller.require_admin()?;
        if tenant.slug == PLATFORM_SLUG {
            let detail = "tenant `platform` has no contract and no billing status";
            return Err(Problem::new(Code::Conflict, detail));
        }
    }
    validate_name(request.name.as_deref(), &mut errors);
    errors.into_body_result()?;
    let change = TenantChange {
        name: request.name,
        sla_tier: request.sla_tier,
        status: request.status,
        ..TenantChange::default()
    };
    let tenant = apply_change(&state, &caller, tenant.id, change, "tenant.change").await?;
    Ok(Json(tenant.into()))
}

/// Pause a tenant
///
/// No further jobs of the tenant start. Running jobs continue.
#[utoipa::path(
    post,
    path = "/v1/tenants/{id}/pause",
    operation_id = "pause_tenant",
    tag = "tenants",
    responses((status = 200, description = "The changed limits", body = TenantLimitsResponse))
)]
pub(super) async fn pause_tenant(
    State(state): State<ApiState>,
    caller: Authorized<scope::PlatformAdmin>,
    PathId(id): PathId<TenantRef>,
) -> Result<Json<TenantLimitsResponse>, Problem> {
    set_paused(&state, &caller, &id, true).await
}

/// Resume a tenant
///
/// The tenant's jobs start again if its status allows it.
#[utoipa::path(
    post,
    path = "/v1/tenants/{id}/resume",
    operation_id = "resume_tenant",
    tag = "tenants",
    responses((status = 200, description = "The changed limits", body = TenantLimitsResponse))
)]
pub(super) async fn resume_tenant(
    State(state): State<ApiState>,
    caller: Authorized<scope::PlatformAdmin>,
    PathId(id): PathId<TenantRef>,
) -> Result<Json<TenantLimitsResponse>, Problem> {
    set_paused(&state, &caller, &id, false).await
}

async fn set_paused(
    state: &ApiState,
    caller: &Caller,
    id: &str,
    paused: bool,
) -> Result<Json<TenantLimitsResponse>, Problem> {
    let tenant = find_tenant(state, caller, id).await?;
    caller.require_platform()?;
    let change = TenantChange {
        paused: Some(paused),
        ..TenantChange::default()
    };
    let action = if paused {
        "tenant.pause"
    } else {
        "tenant.resume"
    };
    let tenant = apply_change(state, caller, tenant.id, change, action).await?;
    limits::limits_response(state, tenant).await
}

/// Changes a tenant with the caller as actor.
pub(super) async fn apply_change(
    state: &ApiState,
    caller: &Caller,
    id: TenantId,
    change: TenantChange,
    action: &'static str,
) -> Result<Tenant, Problem> {
    let tenant =
        accounts::change_tenant(state.engine(), id, change, action, caller.actor()).await?;
    tenant.ok_or_else(|| Problem::not_found("tenant"))
}

/// Finds a tenant that the caller may see: its own, or any tenant for a platform administrator. To other
/// callers a foreign tenant is reported as not found.
pub(super) async fn find_tenant(
    state: &ApiState,
    caller: &Caller,
    id: &str,
) -> Result<Tenant, Problem> {
    let tenant = accounts::find_tenant(state.pool(), id).await?;
    tenant
        .filter(|tenant| tenant.id == caller.tenant || caller.is_platform_admin())
        .ok_or_else(|| Problem::not_found("tenant"))
}
