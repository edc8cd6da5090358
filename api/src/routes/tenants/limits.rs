//! Room: routes of what tenants may use.
//! Takes: a caller's request. Gives: a tenant's limits, and the changes that the tenant or the
//! platform makes to them. Never: lets a tenant change its own contract.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use harkara_queue::settings::{Change, LimitChange, MAX_WAITING_JOBS, TenantChange, is_key};
use harkara_shared::audit::Entry;
use harkara_shared::id::TenantId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::find_tenant;
use crate::ApiState;
use crate::access::{PLATFORM_SLUG, Scope, SlaTier, Tenant};
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::faults::Faults;
use crate::json;
use crate::problem::Problem;
use crate::query::PathId;
use crate::routes::jobs::KEY_RULE;
use crate::routes::limits::{LimitRequest, LimitResponse, NumberReader};

/// Rates of tenants are counted in this time.
const MINUTE: Duration = Duration::from_secs(60);

/// What a tenant may use.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TenantLimits)]
pub(in crate::routes) struct TenantLimitsResponse {
    /// Whose it is.
    #[schema(value_type = String, example = "ten_01h455vb4pex5vsknk084sn02q")]
    tenant_id: TenantId,
    /// Its contract.
    #[schema(value_type = String, example = "PRO")]
    sla_tier: SlaTier,
    /// What the contract grants; null for the tenant `platform`, which nothing limits.
    #[schema(required)]
    tier: Option<TierResponse>,
    /// Whether none of its jobs start.
    paused: bool,
    /// Its share beside other tenants.
    #[schema(example = 1, minimum = 1, maximum = 1000)]
    weight: u16,
    /// Jobs starting in a minute.
    #[schema(required, example = 300)]
    rate_per_minute: Option<u64>,
    /// Starts at once after a rest. In any minute at most `rate_per_minute` and `burst` start.
    #[schema(required, example = 30)]
    burst: Option<u32>,
    /// Jobs running at once.
    #[schema(required, example = 50)]
    max_running: Option<u32>,
    /// How many run now; null when `max_running` is.
    #[schema(required, example = 12)]
    running: Option<u32>,
    /// Jobs waiting at once, scheduled and ready together: more are refused with 429.
    #[schema(required, example = 1000000)]
    max_waiting: Option<u32>,
    /// How many wait now; null when `max_waiting` is.
    #[schema(required, example = 1200)]
    waiting: Option<u64>,
    /// The limits that jobs may name, by key.
    limits: BTreeMap<String, LimitResponse>,
}

/// What a contract grants.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tier)]
pub(in crate::routes) struct TierResponse {
    /// Jobs starting in a minute.
    #[schema(example = 300)]
    rate_per_minute: u64,
    /// Starts at once after a rest.
    #[schema(example = 30)]
    burst: u32,
    /// Jobs waiting at once, as a new tenant has it.
    #[schema(example = 1000000)]
    max_waiting: u32,
}

/// What is to change. Members that are not there stay, null removes them. All but `limits` belong to the
/// contract, and only the platform changes them.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewTenantLimits, example = json!({
    "limits": {"crm": {"rate": 100, "per": "1m", "max_running": 5}, "old": null}
}))]
pub(in crate::routes) struct TenantLimitsRequest {
    /// Jobs starting in a minute.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    rate_per_minute: Change<i64>,
    /// Starts at once after a rest; a tenth of the rate, at least 1, when null or never given.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    burst: Change<i64>,
    /// Jobs running at once.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    max_running: Change<i64>,
    /// Jobs waiting at once, scheduled and ready together; what follows from jobs that are there, such
    /// as retries and schedules, is not refused. To let none wait, pause whoever enqueues.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000000)]
    #[serde(default)]
    max_waiting: Change<i64>,
    /// Its share beside other tenants; 1 when null.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    #[serde(default)]
    weight: Change<i64>,
    /// Limits by key, at most 1000; null removes one.
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

    fn read(self, faults: &mut Faults) -> TenantChange {
        let mut limits = BTreeMap::new();
        for (key, text) in self.limits.unwrap_or_default() {
            let pointer = format!("/limits{}", json::token(&key));
            if !is_key(&key) {
                faults.add("", &pointer, "invalid_key", KEY_RULE);
                continue;
            }
            let change = match text {
                None => LimitChange::removal(),
                Some(text) => json::decode::<LimitRequest>(text.get(), &pointer, faults)
                    .unwrap_or_default()
                    .read(&pointer, faults),
            };
            limits.insert(key, change);
        }
        let mut numbers = NumberReader { prefix: "", faults };
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

/// Show what a tenant may use
///
/// Needs the scope `jobs:read`, and for another tenant than one's own also `platform:admin`.
#[utoipa::path(
    get,
    path = "/v1/tenants/{id}/limits",
    operation_id = "get_tenant_limits",
    tag = "tenants",
    params(("id" = String, Path, description = "The tenant's id or slug",
        example = "ten_01h455vb4pex5vsknk084sn02q")),
    responses((status = 200, description = "The limits", body = TenantLimitsResponse))
)]
pub(in crate::routes) async fn get_tenant_limits(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<String>,
) -> Result<Json<TenantLimitsResponse>, Problem> {
    caller.require(Scope::JobsRead)?;
    let tenant = find_tenant(&state, &caller, &id).await?;
    limits_response(&state, tenant).await
}

/// Change what a tenant may use
///
/// From the next claim on. Needs the scope `limits:manage`; for another tenant than one's own, and for
/// what belongs to the contract, also `platform:admin`.
#[utoipa::path(
    put,
    path = "/v1/tenants/{id}/limits",
    operation_id = "change_tenant_limits",
    tag = "tenants",
    params(("id" = String, Path, description = "The tenant's id or slug",
        example = "ten_01h455vb4pex5vsknk084sn02q")),
    request_body = TenantLimitsRequest,
    responses((status = 200, description = "The limits as they are now", body = TenantLimitsResponse))
)]
pub(in crate::routes) async fn change_tenant_limits(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<String>,
    body: JsonBody,
) -> Result<Json<TenantLimitsResponse>, Problem> {
    caller.require(Scope::LimitsManage)?;
    let tenant = find_tenant(&state, &caller, &id).await?;
    let mut faults = Faults::default();
    let request: TenantLimitsRequest = body.members(&mut faults).unwrap_or_default();
    if request.touches_contract() {
        caller.require_admin()?;
    }
    let change = request.read(&mut faults);
    faults.none_in_body()?;
    let entry = Entry::new("tenant.limits", tenant.id)
        .before(&load_limits(&state, &tenant).await?)
        .after(body.value());
    let engine = state.engine().with_audit(caller.note_in(tenant.id, entry));
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
