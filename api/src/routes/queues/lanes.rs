//! Routes of a tenant's lanes.
//!
//! Lists lanes with their state and changes their settings. Never reaches a lane of another tenant.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use harkara_queue::job::{Lane, LimitUse};
use harkara_queue::settings::{
    Breaker, BreakerState, Change, LaneChange, LaneSettings, MAX_LIMIT_VALUE, is_key,
};
use harkara_shared::audit::Entry;
use harkara_shared::duration::HumanDuration;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::super::limits::NumberReader;
use super::{SECOND, require_visible};
use crate::ApiState;
use crate::auth::{Authorized, Caller, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::json;
use crate::paging::{Page, Paging};
use crate::problem::Problem;
use crate::query::{Flag, LaneKey, PathId, PathPair, Query, QueueName};

/// A lane: jobs of one tenant and queue that share limits, order and breaker. Jobs with the same key but
/// different `limits` form separate lanes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Lane)]
pub(crate) struct LaneResponse {
    /// Key of the lane; empty for the lane of jobs without a key.
    #[schema(example = "customer-42")]
    key: String,
    /// Whether the jobs run strictly one after another (`ordering_key`).
    ordered: bool,
    /// Weight of the lane relative to the tenant's other lanes.
    #[schema(example = 1, minimum = 1, maximum = 1000)]
    weight: u16,
    /// Whether the lane is paused.
    paused: bool,
    /// Until when no job starts, because the receiver requested a delay or the breaker is open.
    #[schema(required)]
    parked_until: Option<DateTime<Utc>>,
    /// When the breaker opens; null if the lane has none.
    #[schema(required)]
    breaker: Option<BreakerResponse>,
    /// State of the breaker.
    breaker_state: BreakerStateName,
    /// Failures within the breaker's window; while it is not closed, the failures that opened it and those
    /// of trial runs. Counted only if the lane has a breaker.
    #[schema(example = 0)]
    failures: u32,
    /// Maximum number of jobs running at once.
    #[schema(required, example = 4)]
    max_running: Option<u32>,
    /// Number of jobs running now; null if `max_running` is null.
    #[schema(required, example = 2)]
    running: Option<u32>,
    /// Maximum number of jobs started per second.
    #[schema(required, example = 20)]
    rate_per_second: Option<u64>,
    /// Maximum number of starts at once after idle time.
    #[schema(required, example = 2)]
    burst: Option<u32>,
    /// Limits that the lane's jobs refer to.
    limits: Vec<LimitUseResponse>,
}

/// Circuit breaker of a lane.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Breaker)]
pub(crate) struct BreakerResponse {
    /// Minimum number of runs in a window before the breaker can open. With a `share` of 100: the number of
    /// consecutive failures.
    #[schema(example = 10)]
    failures: u32,
    /// Percentage of runs that must have failed.
    #[schema(example = 70)]
    share: u8,
    /// Length of a window. A window begins with a failure.
    window: HumanDuration,
    /// How long the lane is parked before one job is tried.
    rest: HumanDuration,
}

/// A limit that jobs refer to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LimitUse)]
pub(crate) struct LimitUseResponse {
    /// Key of the limit.
    #[schema(example = "crm")]
    key: String,
    /// Number of starts that each start of the job counts as.
    #[schema(example = 1)]
    cost: u16,
}

impl From<LimitUse> for LimitUseResponse {
    fn from(limit: LimitUse) -> Self {
        Self {
            key: limit.key,
            cost: limit.cost,
        }
    }
}

/// State of a breaker. `open`: no job starts until the rest period is over. `half_open`: one job runs as a
/// trial.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BreakerState)]
pub(crate) enum BreakerStateName {
    Closed,
    Open,
    HalfOpen,
}

impl From<LaneSettings> for LaneResponse {
    fn from(lane: LaneSettings) -> Self {
        Self {
            key: lane.key,
            ordered: lane.ordered,
            weight: lane.weight,
            paused: lane.paused,
            parked_until: lane.parked_until,
            breaker: lane.breaker.map(|breaker| BreakerResponse {
                failures: breaker.failures,
                share: breaker.share,
                window: breaker.window.into(),
                rest: breaker.rest.into(),
            }),
            breaker_state: match lane.breaker_state {
                BreakerState::Closed => BreakerStateName::Closed,
                BreakerState::Open => BreakerStateName::Open,
                BreakerState::HalfOpen => BreakerStateName::HalfOpen,
            },
            failures: lane.failures,
            max_running: lane.limit.max_running,
            running: lane.limit.max_running.map(|_| lane.limit.running),
            rate_per_second: lane.limit.rate.map(|rate| rate.count_in(SECOND)),
            burst: lane.limit.rate.map(|rate| rate.burst),
            limits: lane
                .named_limits
                .into_iter()
                .map(LimitUseResponse::from)
                .collect(),
        }
    }
}

/// Changes of a lane. Members that are omitted stay unchanged; null removes them.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewLaneSettings, example = json!({
    "rate_per_second": 20, "breaker": {"failures": 10, "share": 70, "window": "5m", "rest": "30s"}
}))]
pub(crate) struct LaneChangeRequest {
    /// Weight of the lane relative to the tenant's other lanes. Null restores the default of 1.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    #[serde(default)]
    weight: Change<i64>,
    /// Whether the lane is paused.
    paused: Option<bool>,
    /// Null ends the parking of the lane. No other value is allowed.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    parked_until: Change<IgnoredAny>,
    /// Maximum number of jobs running at once.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    max_running: Change<i64>,
    /// Maximum number of jobs started per second.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    rate_per_second: Change<i64>,
    /// Maximum number of starts at once after idle time. Default: a tenth of the rate, at least 1. Null
    /// restores the default.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    burst: Change<i64>,
    /// When the breaker opens; null if the lane has none.
    #[schema(value_type = Option<BreakerRequest>)]
    #[serde(default)]
    breaker: Change<Box<RawValue>>,
}

/// Circuit breaker of a lane. `failures` and `rest` are required.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewBreaker)]
pub(crate) struct BreakerRequest {
    /// Minimum number of runs in a window before the breaker can open. With a `share` of 100: the number of
    /// consecutive failures.
    #[schema(value_type = u32, required, minimum = 1, maximum = 1000000, example = 10)]
    #[serde(default)]
    failures: Change<i64>,
    /// Percentage of runs that must have failed. Default 100, which counts consecutive failures: each
    /// success ends the window.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100, example = 70)]
    #[serde(default)]
    share: Change<i64>,
    /// Length of a window, `1s` to `24h`. Default `5m`. A window begins with a failure.
    window: Option<HumanDuration>,
    /// How long the lane is parked before one job is tried, `1s` to `24h`.
    #[schema(value_type = HumanDuration, required)]
    rest: Option<HumanDuration>,
}

impl LaneChangeRequest {
    fn read(self, errors: &mut FieldErrors) -> LaneChange {
        if matches!(self.parked_until, Change::Set(_)) {
            errors.add("", "/parked_until", "invalid", "must be null");
        }
        let breaker = match self.breaker {
            Change::Keep => Change::Keep,
            Change::Remove => Change::Remove,
            Change::Set(text) => read_breaker(text.get(), errors).map_or(Change::Keep, Change::Set),
        };
        let mut numbers = NumberReader { prefix: "", errors };
        LaneChange {
            weight: numbers.weight(self.weight),
            paused: self.paused,
            unpark: matches!(self.parked_until, Change::Remove),
            breaker,
            limit: numbers.limit(
                ("rate_per_second", self.rate_per_second),
                SECOND,
                self.burst,
                self.max_running,
            ),
        }
    }
}

/// Allowed range of windows and rest periods.
const BREAKER_DURATIONS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

fn read_breaker(text: &str, errors: &mut FieldErrors) -> Option<Breaker> {
    let prefix = "/breaker";
    let request: BreakerRequest = json::decode(text, prefix, errors)?;
    let mut numbers = NumberReader { prefix, errors };
    let failures = numbers.read("failures", request.failures, MAX_LIMIT_VALUE);
    let share = numbers.read("share", request.share, 100).value();
    if !matches!(request.failures, Change::Set(_)) {
        errors.add(prefix, "/failures", "missing", "is required");
    }
    if request.rest.is_none() {
        errors.add(prefix, "/rest", "missing", "is required");
    }
    for (name, span) in [("/window", request.window), ("/rest", request.rest)] {
        if span.is_some_and(|HumanDuration(span)| !BREAKER_DURATIONS.contains(&span)) {
            errors.add(
                prefix,
                name,
                "out_of_range",
                "must be between `1s` and `24h`",
            );
        }
    }
    let default = Breaker::consecutive(failures.value()?, request.rest?.0);
    Some(Breaker {
        share: share.map_or(default.share, |share| {
            u8::try_from(share).unwrap_or(default.share)
        }),
        window: request.window.map_or(default.window, |window| window.0),
        ..default
    })
}

/// List the lanes of a queue, oldest first
///
/// Only lanes of the caller's tenant.
#[utoipa::path(
    get,
    path = "/v1/queues/{name}/lanes",
    operation_id = "list_lanes",
    tag = "queues",
    responses((status = 200, description = "A page of lanes", body = Page<LaneResponse>))
)]
pub(crate) async fn list_lanes(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsRead>,
    PathId(name): PathId<QueueName>,
    paging: Paging<i64>,
) -> Result<Json<Page<LaneResponse>>, Problem> {
    require_visible(&state, &caller, &name).await?;
    let lanes = state
        .engine()
        .lanes(
            caller.tenant,
            &name,
            paging.after.unwrap_or_default(),
            paging.fetch_limit(),
        )
        .await?;
    Ok(paging.page(lanes, |lane| lane.id, LaneResponse::from))
}

/// Change the lane of jobs without a key
///
/// As for a lane with a key.
#[utoipa::path(
    put,
    path = "/v1/queues/{name}/lanes",
    operation_id = "change_default_lane",
    tag = "queues",
    request_body = LaneChangeRequest,
    responses((status = 200, description = "The changed lane", body = LaneResponse))
)]
pub(crate) async fn change_default_lane(
    State(state): State<ApiState>,
    caller: Authorized<scope::QueuesManage>,
    PathId(name): PathId<QueueName>,
    body: JsonBody,
) -> Result<Json<LaneResponse>, Problem> {
    apply_lane_change(&state, &caller, &name, &Lane::Default, &body).await
}

/// Selects between the two lanes of a key.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LaneQuery {
    /// Whether to change the lane of jobs with this `ordering_key`.
    #[serde(default)]
    #[param(value_type = Option<bool>, default = false)]
    ordered: Flag,
}

/// Change a lane
///
/// Takes effect with the next claim. A lane that does not exist is created.
#[utoipa::path(
    put,
    path = "/v1/queues/{name}/lanes/{key}",
    operation_id = "change_lane",
    tag = "queues",
    request_body = LaneChangeRequest,
    responses((status = 200, description = "The changed lane", body = LaneResponse))
)]
pub(crate) async fn change_lane(
    State(state): State<ApiState>,
    caller: Authorized<scope::QueuesManage>,
    PathPair(name, key): PathPair<QueueName, LaneKey>,
    Query(query): Query<LaneQuery>,
    body: JsonBody,
) -> Result<Json<LaneResponse>, Problem> {
    if !is_key(&key) {
        return Err(Problem::not_found("lane"));
    }
    let LaneKey(key) = key;
    let lane = match query.ordered {
        Flag(true) => Lane::Ordered(key),
        Flag(false) => Lane::Named(key),
    };
    apply_lane_change(&state, &caller, &name, &lane, &body).await
}

async fn apply_lane_change(
    state: &ApiState,
    caller: &Caller,
    queue: &str,
    lane: &Lane,
    body: &JsonBody,
) -> Result<Json<LaneResponse>, Problem> {
    require_visible(state, caller, queue).await?;
    let mut errors = FieldErrors::default();
    let request: LaneChangeRequest = body.members(&mut errors).unwrap_or_default();
    let change = request.read(&mut errors);
    errors.into_body_result()?;
    let resource = format!("{queue}/{}", lane.key());
    let entry = Entry::new("lane.change", resource).after(body.value());
    let engine = state.engine().with_audit(caller.audit_note(entry));
    engine.set_lane(caller.tenant, queue, lane, &change).await?;
    let mut lanes = engine.lane(caller.tenant, queue, lane).await?.into_iter();
    lanes
        .next()
        .map(|lane| Json(lane.into()))
        .ok_or_else(|| Problem::not_found("lane"))
}
