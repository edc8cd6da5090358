//! Routes of contracts, for business systems.
//!
//! Creates or changes a tenant, its SLA tier and its endpoint in one call, addressed by the tenant's slug.
//! Never does anything that the routes of tenants and endpoints cannot do.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use harkara_accounts::{
    self as accounts, NewTenant, PLATFORM_SLUG, SlaTier, Tenant, TenantChange, is_slug,
};
use harkara_queue::settings::QueueView;
use harkara_shared::audit::Entry;
use harkara_shared::database::TenantTx;
use harkara_shared::id::TenantId;
use harkara_webhooks::{
    self as webhooks, EndpointChange, NewEndpoint, change_endpoint, create_endpoint, lane,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::queues::public_queues;
use super::tenants::{apply_change, find_tenant};
use crate::ApiState;
use crate::auth::{Authorized, Caller, OrPlatformAdmin, PlatformOnly, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::problem::{Code, Problem};
use crate::query::{BusinessRef, PathId};

/// Period of the job rates of contracts.
const MINUTE: Duration = Duration::from_secs(60);

/// Upper bound on the queues whose jobs are added up for the usage of a contract.
const MAX_COUNTED_QUEUES: u32 = 1000;

/// A contract.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Contract, example = json!({
    "business_id": "acme-trading", "sla_tier": "ENTERPRISE",
    "webhook_url": "https://example.com/webhooks"
}))]
pub(super) struct ContractRequest {
    /// The business, identified by the slug of its tenant. The tenant is created if it does not exist.
    #[schema(value_type = String, required, nullable = false,
        pattern = "^[a-z0-9][a-z0-9-]{0,62}$")]
    business_id: Option<String>,
    /// SLA tier. Limits job starts per minute: FREE 30, PRO 300, ENTERPRISE 3000.
    #[schema(value_type = SlaTier, required, nullable = false)]
    sla_tier: Option<SlaTier>,
    /// URL that receives all events of the tenant.
    #[schema(max_length = 2048)]
    webhook_url: Option<String>,
}

/// A contract and its current usage.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ContractStatus)]
pub(super) struct ContractStatusResponse {
    /// The business, identified by the slug of its tenant.
    #[schema(example = "acme-trading")]
    business_id: String,
    /// Id of the tenant.
    tenant_id: TenantId,
    /// SLA tier.
    sla_tier: SlaTier,
    /// Job starts per minute that are currently allowed; null if unlimited.
    #[schema(required, example = 3000)]
    rate_limit_per_minute: Option<u64>,
    /// URL that receives the tenant's events; null if none was configured.
    #[schema(required, example = "https://example.com/webhooks")]
    webhook_url: Option<String>,
    /// Signing secret of the endpoint. Only present in the response that created the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    webhook_secret: Option<String>,
    /// Current usage.
    usage: ContractUsageResponse,
}

/// Jobs of the tenant by state.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ContractUsage)]
pub(super) struct ContractUsageResponse {
    /// Jobs that are due.
    #[schema(example = 12)]
    ready: i64,
    /// Jobs that are not due yet or wait for a retry.
    #[schema(example = 3)]
    scheduled: i64,
    /// Jobs that are running.
    #[schema(example = 8)]
    running: i64,
    /// Jobs that failed permanently and are still stored.
    #[schema(example = 0)]
    dead: i64,
}

/// Set up a contract
///
/// Creates the tenant or changes its SLA tier, and creates its endpoint or changes the endpoint's URL.
/// Idempotent.
#[utoipa::path(
    post,
    path = "/v1/enterprise/setup",
    operation_id = "set_up_contract",
    tag = "tenants",
    request_body = ContractRequest,
    responses(
        (status = 201, description = "The tenant was created", body = ContractStatusResponse),
        (status = 200, description = "The tenant existed", body = ContractStatusResponse),
        (status = 409, description = "The business is the tenant `platform`"),
    )
)]
pub(super) async fn set_up_contract(
    State(state): State<ApiState>,
    caller: Authorized<PlatformOnly<scope::PlatformAdmin>>,
    body: JsonBody,
) -> Result<(StatusCode, Json<ContractStatusResponse>), Problem> {
    let mut errors = FieldErrors::default();
    let request: ContractRequest = body.members(&mut errors).unwrap_or_default();
    let slug = request.business_id.unwrap_or_default();
    if !is_slug(&slug) {
        let detail =
            "must have 1 to 63 characters of a-z, 0-9 and `-`, and start with a letter or digit";
        errors.add("", "/business_id", "invalid", detail);
    }
    if request.sla_tier.is_none() {
        errors.add("", "/sla_tier", "missing", "is required");
    }
    let sla_tier = request.sla_tier.unwrap_or(SlaTier::Free);
    if let Some(url) = &request.webhook_url {
        let check = new_endpoint(url).check(state.egress());
        let named = |mut error: harkara_kind::FieldError| {
            error.pointer = error.pointer.replace("/url", "/webhook_url");
            error
        };
        errors.extend("", check.into_iter().map(named).collect());
    }
    errors.into_body_result()?;
    if slug == PLATFORM_SLUG {
        let detail = "tenant `platform` has no contract";
        return Err(Problem::new(Code::Conflict, detail));
    }
    let (status, tenant) = match accounts::find_tenant(state.pool(), &slug).await? {
        Some(tenant) => {
            let change = TenantChange {
                sla_tier: Some(sla_tier),
                ..TenantChange::default()
            };
            let tenant = apply_change(&state, &caller, tenant.id, change, "tenant.change").await?;
            (StatusCode::OK, tenant)
        }
        None => {
            let new = NewTenant {
                name: slug.clone(),
                slug,
                sla_tier,
            };
            let tenant = accounts::create_tenant(state.pool(), new, caller.actor()).await?;
            (StatusCode::CREATED, tenant)
        }
    };
    let secret = match request.webhook_url {
        Some(url) => set_contract_endpoint(&state, &caller, &tenant, url).await?,
        None => None,
    };
    let mut response = contract_status(&state, &tenant.slug).await?;
    response.webhook_secret = secret;
    Ok((status, Json(response)))
}

fn new_endpoint(url: &str) -> NewEndpoint {
    NewEndpoint {
        url: url.to_owned(),
        ..NewEndpoint::default()
    }
}

/// Sets the URL of the contract's endpoint. Returns the signing secret if the endpoint was created.
async fn set_contract_endpoint(
    state: &ApiState,
    caller: &Caller,
    tenant: &Tenant,
    url: String,
) -> Result<Option<String>, Problem> {
    let mut tx = TenantTx::begin(state.pool(), tenant.id).await?;
    // The query locks the row, so that of several concurrent set-ups only one creates the endpoint.
    let known = accounts::contract_endpoint(&mut tx).await?;
    let after = json!({"url": url});
    if let Some(id) = known {
        let change = EndpointChange {
            url: Some(url.clone()),
            ..EndpointChange::default()
        };
        if change_endpoint(&mut tx, state.engine(), state.keys(), id, change)
            .await?
            .is_some()
        {
            let note =
                caller.audit_note_in(tenant.id, Entry::new("endpoint.change", id).after(after));
            note.record(&mut tx).await?;
            tx.commit().await?;
            return Ok(None);
        }
    }
    let (endpoint, secret) = create_endpoint(&mut tx, state.keys(), new_endpoint(&url)).await?;
    accounts::set_contract_endpoint(&mut tx, endpoint.id).await?;
    let note = caller.audit_note_in(
        tenant.id,
        Entry::new("endpoint.create", endpoint.id).after(after),
    );
    note.record(&mut tx).await?;
    tx.commit().await?;
    lane::apply_limits(state.engine(), tenant.id, &endpoint).await?;
    Ok(Some(secret.expose()))
}

/// Get the status of a contract
///
/// Only platform administrators can access tenants other than their own.
#[utoipa::path(
    get,
    path = "/v1/enterprise/status/{business_id}",
    operation_id = "get_contract_status",
    tag = "tenants",
    responses((status = 200, description = "The contract and its usage", body = ContractStatusResponse))
)]
pub(super) async fn get_contract_status(
    State(state): State<ApiState>,
    caller: Authorized<OrPlatformAdmin<scope::TenantAdmin>>,
    PathId(business_id): PathId<BusinessRef>,
) -> Result<Json<ContractStatusResponse>, Problem> {
    let tenant = find_tenant(&state, &caller, &business_id).await?;
    Ok(Json(contract_status(&state, &tenant.slug).await?))
}

async fn contract_status(state: &ApiState, slug: &str) -> Result<ContractStatusResponse, Problem> {
    let tenant = accounts::find_tenant(state.pool(), slug).await?;
    let tenant = tenant.ok_or_else(|| Problem::not_found("tenant"))?;
    let engine = state.engine();
    let settings = engine.tenant(tenant.id).await?;
    let public = public_queues();
    let queues = engine
        .queues(
            QueueView::VisibleTo(tenant.id, &public),
            0,
            MAX_COUNTED_QUEUES,
        )
        .await?;
    let ids: Vec<i32> = queues.iter().map(|queue| queue.id).collect();
    let mut usage = ContractUsageResponse::default();
    for counts in engine.queue_counts(&ids, Some(tenant.id)).await? {
        usage.ready += counts.ready;
        usage.scheduled += counts.scheduled;
        usage.running += counts.running;
        usage.dead += counts.dead;
    }
    let mut webhook_url = None;
    if let Some(id) = tenant.contract_endpoint_id {
        let mut tx = TenantTx::begin(state.pool(), tenant.id).await?;
        webhook_url = webhooks::find_endpoint(&mut tx, id)
            .await?
            .map(|endpoint| endpoint.url);
        tx.commit().await?;
    }
    Ok(ContractStatusResponse {
        business_id: tenant.slug,
        tenant_id: tenant.id,
        sla_tier: tenant.sla_tier,
        rate_limit_per_minute: settings.limit.rate.map(|rate| rate.count_in(MINUTE)),
        webhook_url,
        webhook_secret: None,
        usage,
    })
}
