//! Routes of a tenant's limits.
//!
//! Shows the limits of a tenant and changes them for the tenant or the platform. Never lets a tenant change
//! its own contract.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use harkara_accounts::{PLATFORM_SLUG, SlaTier, Tenant};
use harkara_queue::settings::{Change, LimitChange, MAX_WAITING_JOBS, TenantChange, is_key};
use harkara_shared::audit::Entry;
use harkara_shared::id::TenantId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::find_tenant;
use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::json;
use crate::problem::Problem;
use crate::query::{PathId, TenantRef};
use crate::routes::jobs::KEY_RULE;
use crate::routes::limits::{LimitRequest, LimitResponse, NumberReader};

/// Period of the rates of tenants.
const MINUTE: Duration = Duration::from_secs(60);

/// Limits of a tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TenantLimits)]
pub(in crate::routes) struct TenantLimitsResponse {
    /// Id of the tenant.
    tenant_id: TenantId,
    /// SLA tier.
    #[schema(value_type = String, example = "PRO")]
    sla_tier: SlaTier,
    /// Limits that come with the SLA tier; null for the tenant `platform`, which is unlimited.
    #[schema(required)]
    tier: Option<TierResponse>,
    /// Whether the tenant is paused.
    paused: bool,
    /// Weight of the tenant relative to other tenants.
    #[schema(example = 1, minimum = 1, maximum = 1000)]
    weight: u16,
    /// Maximum number of jobs started per minute.
    #[schema(required, example = 300)]
    rate_per_minute: Option<u64>,
    /// Maximum number of starts at once after idle time. At most `rate_per_minute` + `burst` jobs start in
    /// any minute.
    #[schema(required, example = 30)]
    burst: Option<u32>,
    /// Maximum number of jobs running at once.
    #[schema(required, example = 50)]
    max_running: Option<u32>,
    /// Number of jobs running now; null if `max_running` is null.
    #[schema(required, example = 12)]
    running: Option<u32>,
    /// Maximum number of waiting jobs, scheduled and ready together. Further jobs are rejected with 429.
    #[schema(required, example = 1000000)]
    max_waiting: Option<u32>,
    /// Number of jobs waiting now; null if `max_waiting` is null.
    #[schema(required, example = 1200)]
    waiting: Option<u64>,
    /// Limits that jobs can refer to, by key.
    limits: BTreeMap<String, LimitResponse>,
}

/// Limits that come with an SLA tier.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tier)]
pub(in crate::routes) struct TierResponse {
    /// Maximum number of jobs started per minute.
    #[schema(example = 300)]
    rate_per_minute: u64,
    /// Maximum number of starts at once after idle time.
    #[schema(example = 30)]
    burst: u32,
    /// Maximum number of waiting jobs of a new tenant.
    #[schema(example = 1000000)]
    max_waiting: u32,
}

/// Changes of a tenant's limits. Members that are omitted stay unchanged; null removes them. All members
/// except `limits` belong to the contract and can only be changed by the platform.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewTenantLimits, example = json!({
    "limits": {"crm": {"rate": 100, "per": "1m", "max_running": 5}, "old": null}
}))]
pub(in crate::routes) struct TenantLimitsRequest {
    /// Maximum number of jobs started per minute.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    rate_per_minute: Change<i64>,
    /// Maximum number of starts at once after idle time. Default: a tenth of the rate, at least 1. Null
    /// restores the default.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    burst: Change<i64>,
    /// Maximum number of jobs running at once.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    max_running: Change<i64>,
    /// Maximum number of waiting jobs, scheduled and ready together. Jobs that follow from existing ones,
    /// such as retries and schedules, are never rejected. To allow no waiting jobs, pause the callers that
    /// enqueue.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000000)]
    #[serde(default)]
    max_waiting: Change<i64>,
    /// Weight of the tenant relative to other tenants. Null restores the default of 1.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    #[serde(default)]
    weight: Change<i64>,
    /// Limits by key, at most 1,000. Null removes a limit.
    #[schema(value_type = Option<BTreeMap<String, LimitRequest>>)]
    limits: Option<BTreeMap<String, Option<Box<RawValue>>>>,
}

impl TenantLimitsRequest {
    fn touches_contract(&self) -> bool {
        [
            self.rate_per_minute,
            self.burst,
            self.max_running,
            self.max_waiting,
            self.weight,
        ]
        .iter()
        .any(|change| *change != Change::Keep)
    }

    fn read(self, errors: &mut FieldErrors) -> TenantChange {
        let mut limits = BTreeMap::new();
        for (key, text) in self.limits.unwrap_or_default() {
            let pointer = format!("/limits{}", json::pointer_token(&key));
            if !is_key(&key) {
                errors.add("", &pointer, "invalid_key", KEY_RULE);
                continue;
            }
            let change = match text {
                None => LimitChange::removal(),
                Some(text) => json::decode::<LimitRequest>(text.get(), &pointer, errors)
                    .unwrap_or_default()
                    .read(&pointer, errors),
            };
            limits.insert(key, change);
        }
        let mut numbers = NumberReader { prefix: "", errors };
        TenantChange {
            weight: numbers.weight(self.weight),
            paused: None,
            max_waiting: numbers.read("max_waiting", self.max_waiting, MAX_WAITING_JOBS),
            limit: numbers.limit(
                ("rate_per_minute", self.rate_per_minute),
                MINUTE,
                self.burst,
                self.max_running,
            ),
            limits,
        }
    }
}

/// Get the limits of a tenant
///
/// Only platform administrators can access tenants other than their own.
#[utoipa::path(
    get,
    path = "/v1/tenants/{id}/limits",
    operation_id = "get_tenant_limits",
    tag = "tenants",
    responses((status = 200, description = "The limits", body = TenantLimitsResponse))
)]
pub(in crate::routes) async fn get_tenant_limits(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsRead>,
    PathId(id): PathId<TenantRef>,
) -> Result<Json<TenantLimitsResponse>, Problem> {
    let tenant = find_tenant(&state, &caller, &id).await?;
    limits_response(&state, tenant).await
}

/// Change the limits of a tenant
///
/// Takes effect with the next claim. Only platform administrators can change tenants other than their own,
/// or change members that belong to the contract.
#[utoipa::path(
    put,
    path = "/v1/tenants/{id}/limits",
    operation_id = "change_tenant_limits",
    tag = "tenants",
    request_body = TenantLimitsRequest,
    responses((status = 200, description = "The changed limits", body = TenantLimitsResponse))
)]
pub(in crate::routes) async fn change_tenant_limits(
    State(state): State<ApiState>,
    caller: Authorized<scope::LimitsManage>,
    PathId(id): PathId<TenantRef>,
    body: JsonBody,
) -> Result<Json<TenantLimitsResponse>, Problem> {
    let tenant = find_tenant(&state, &caller, &id).await?;
    let mut errors = FieldErrors::default();
    let request: TenantLimitsRequest = body.members(&mut errors).unwrap_or_default();
    if request.touches_contract() {
        caller.require_admin()?;
    }
    let change = request.read(&mut errors);
    errors.into_body_result()?;
    let entry = Entry::new("tenant.limits", tenant.id)
        .before(&load_limits(&state, &tenant).await?)
        .after(body.value());
    let engine = state
        .engine()
        .with_audit(caller.audit_note_in(tenant.id, entry));
    engine.set_tenant(tenant.id, &change).await?;
    limits_response(&state, tenant).await
}

pub(super) async fn limits_response(
    state: &ApiState,
    tenant: Tenant,
) -> Result<Json<TenantLimitsResponse>, Problem> {
    Ok(Json(load_limits(state, &tenant).await?))
}

async fn load_limits(state: &ApiState, tenant: &Tenant) -> Result<TenantLimitsResponse, Problem> {
    let settings = state.engine().tenant(tenant.id).await?;
    let contract = tenant.sla_tier.rate();
    let limit = settings.limit;
    Ok(TenantLimitsResponse {
        tenant_id: tenant.id,
        sla_tier: tenant.sla_tier,
        tier: (tenant.slug != PLATFORM_SLUG).then(|| TierResponse {
            rate_per_minute: contract.count_in(MINUTE),
            burst: contract.burst,
            max_waiting: tenant.sla_tier.max_waiting(),
        }),
        paused: settings.paused,
        weight: settings.weight,
        rate_per_minute: limit.rate.map(|rate| rate.count_in(MINUTE)),
        burst: limit.rate.map(|rate| rate.burst),
        max_running: limit.max_running,
        running: limit.max_running.map(|_| limit.running),
        max_waiting: settings.max_waiting,
        waiting: settings.max_waiting.map(|_| settings.waiting),
        limits: settings
            .limits
            .into_iter()
            .map(|(key, limit)| (key, limit.into()))
            .collect(),
    })
}
