//! Room: routes of a tenant's lanes.
//! Takes: a caller's request. Gives: lanes, how they stand and what is to hold for them.
//! Never: reaches a lane of another tenant.

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
use super::super::page::{Page, to_read};
use super::{PageQuery, SECOND, require_visible};
use crate::ApiState;
use crate::access::Scope;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::cursor::{List, number_at, place_of};
use crate::faults::Faults;
use crate::json;
use crate::problem::Problem;
use crate::query::{Flag, PathId, PathKey, Query};

/// A lane: jobs of one tenant in one queue that share a fate. Jobs of one key that name other limits are
/// told by themselves.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Lane)]
pub(crate) struct LaneResponse {
    /// Key; empty for the lane of jobs that name none.
    #[schema(example = "customer-42")]
    key: String,
    /// Whether its jobs run strictly one after another (`ordering_key`).
    ordered: bool,
    /// Its share beside the tenant's other lanes.
    #[schema(example = 1, minimum = 1, maximum = 1000)]
    weight: u16,
    /// Whether somebody has stopped it.
    paused: bool,
    /// Until when it rests, because the other side asked for it or the breaker is open.
    #[schema(required)]
    parked_until: Option<DateTime<Utc>>,
    /// When it stops by itself.
    #[schema(required)]
    breaker: Option<BreakerResponse>,
    /// Whether it has.
    breaker_state: BreakerStateName,
    /// Failures within the breaker's window, and until it closes those that opened it and those of trials.
    /// Counted while there is a breaker.
    #[schema(example = 0)]
    failures: u32,
    /// Jobs running at once.
    #[schema(required, example = 4)]
    max_running: Option<u32>,
    /// How many run now; null when `max_running` is.
    #[schema(required, example = 2)]
    running: Option<u32>,
    /// Jobs starting in a second.
    #[schema(required, example = 20)]
    rate_per_second: Option<u64>,
    /// Starts at once after a rest.
    #[schema(required, example = 2)]
    burst: Option<u32>,
    /// The limits its jobs name.
    limits: Vec<LimitUseResponse>,
}

/// When a lane stops by itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Breaker)]
pub(crate) struct BreakerResponse {
    /// Fewest runs of a window that open it. With a share of 100: failures in a row.
    #[schema(example = 10)]
    failures: u32,
    /// How many percent of them must have failed.
    #[schema(example = 70)]
    share: u8,
    /// How long a window lasts. It begins with a failure.
    #[schema(value_type = String, example = "5m")]
    window: HumanDuration,
    /// How long it rests until one job is tried.
    #[schema(value_type = String, example = "30s")]
    rest: HumanDuration,
}

/// A limit that a job names.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LimitUse)]
pub(crate) struct LimitUseResponse {
    /// Its key.
    #[schema(example = "crm")]
    key: String,
    /// How many starts one start counts for.
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

/// `open`: no job starts until the rest is over; `half_open`: one runs, to see.
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
            limits: lane.named.into_iter().map(LimitUseResponse::from).collect(),
        }
    }
}

/// What is to change of a lane. Members that are not there stay, null removes them.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewLaneSettings, example = json!({
    "rate_per_second": 20, "breaker": {"failures": 10, "share": 70, "window": "5m", "rest": "30s"}
}))]
pub(crate) struct LaneChangeRequest {
    /// Its share beside the tenant's other lanes; 1 when null.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    #[serde(default)]
    weight: Change<i64>,
    /// Whether its jobs wait.
    paused: Option<bool>,
    /// Null has a resting lane go on at once; nothing else can be said here.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    parked_until: Change<IgnoredAny>,
    /// Jobs running at once.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    max_running: Change<i64>,
    /// Jobs starting in a second.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    rate_per_second: Change<i64>,
    /// Starts at once after a rest; a tenth of the rate, at least 1, when null or never given.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    burst: Change<i64>,
    /// When it stops by itself.
    #[schema(value_type = Option<BreakerRequest>)]
    #[serde(default)]
    breaker: Change<Box<RawValue>>,
}

/// When a lane stops by itself. `failures` and `rest` must be there.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewBreaker)]
pub(crate) struct BreakerRequest {
    /// Fewest runs of a window that open it. With a share of 100: failures in a row.
    #[schema(value_type = u32, required, minimum = 1, maximum = 1000000, example = 10)]
    #[serde(default)]
    failures: Change<i64>,
    /// How many percent of them must have failed; 100 when null or not there. With 100 each success ends
    /// the window.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100, example = 70)]
    #[serde(default)]
    share: Change<i64>,
    /// How long a window lasts, `1s` to `24h`; `5m` when null or not there. It begins with a failure.
    #[schema(value_type = Option<String>, example = "5m")]
    window: Option<HumanDuration>,
    /// How long it rests until one job is tried, `1s` to `24h`.
    #[schema(value_type = String, required, example = "30s")]
    rest: Option<HumanDuration>,
}

impl LaneChangeRequest {
    fn read(self, faults: &mut Faults) -> LaneChange {
        if matches!(self.parked_until, Change::Set(_)) {
            faults.add("", "/parked_until", "invalid", "must be null");
        }
        let breaker = match self.breaker {
            Change::Keep => Change::Keep,
            Change::Remove => Change::Remove,
            Change::Set(text) => read_breaker(text.get(), faults).map_or(Change::Keep, Change::Set),
        };
        let mut numbers = NumberReader { prefix: "", faults };
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

/// Windows and rests that make sense.
const BREAKER_DURATIONS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

fn read_breaker(text: &str, faults: &mut Faults) -> Option<Breaker> {
    let prefix = "/breaker";
    let request: BreakerRequest = json::decode(text, prefix, faults)?;
    let mut numbers = NumberReader { prefix, faults };
    let failures = numbers.read("failures", request.failures, MAX_LIMIT_VALUE);
    let share = numbers.read("share", request.share, 100).value();
    if !matches!(request.failures, Change::Set(_)) {
        faults.add(prefix, "/failures", "missing", "must be there");
    }
    if request.rest.is_none() {
        faults.add(prefix, "/rest", "missing", "must be there");
    }
    for (name, span) in [("/window", request.window), ("/rest", request.rest)] {
        if span.is_some_and(|HumanDuration(span)| !BREAKER_DURATIONS.contains(&span)) {
            faults.add(prefix, name, "out_of_range", "must be from 1s to 24h");
        }
    }
    let usual = Breaker::consecutive(failures.value()?, request.rest?.0);
    Some(Breaker {
        share: share.map_or(usual.share, |share| {
            u8::try_from(share).unwrap_or(usual.share)
        }),
        window: request.window.map_or(usual.window, |window| window.0),
        ..usual
    })
}

/// List a queue's lanes, oldest first
///
/// Only those of the caller's tenant. Needs the scope `jobs:read`.
#[utoipa::path(
    get,
    path = "/v1/queues/{name}/lanes",
    operation_id = "list_lanes",
    tag = "queues",
    params(
        ("name" = String, Path, description = "The queue's name", example = "http"),
        PageQuery
    ),
    responses((status = 200, description = "A page of lanes", body = Page<LaneResponse>))
)]
pub(crate) async fn list_lanes(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(name): PathId<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<LaneResponse>>, Problem> {
    caller.require(Scope::JobsRead)?;
    require_visible(&state, &caller, &name).await?;
    let list = List::of("/v1/queues/lanes", caller.tenant, &name);
    let after = match &query.cursor {
        Some(cursor) => number_at(state.cursors().read(list, cursor)?),
        None => 0,
    };
    let lanes = state
        .engine()
        .lanes(caller.tenant, &name, after, to_read(query.limit))
        .await?;
    Ok(Json(Page::of(
        lanes,
        query.limit,
        state.cursors(),
        list,
        |lane| place_of(lane.id),
        LaneResponse::from,
    )))
}

/// Change the lane of jobs that name none
///
/// As for a lane with a key. Needs the scope `queues:manage`.
#[utoipa::path(
    put,
    path = "/v1/queues/{name}/lanes",
    operation_id = "change_default_lane",
    tag = "queues",
    params(("name" = String, Path, description = "The queue's name", example = "http")),
    request_body = LaneChangeRequest,
    responses((status = 200, description = "The lane as it is now", body = LaneResponse))
)]
pub(crate) async fn change_default_lane(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(name): PathId<String>,
    body: JsonBody,
) -> Result<Json<LaneResponse>, Problem> {
    apply_lane_change(&state, &caller, &name, &Lane::Default, &body).await
}

/// Which of the lanes of a key.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LaneQuery {
    /// Whether it is the lane of jobs with this `ordering_key`.
    #[serde(default)]
    #[param(value_type = Option<bool>, default = false)]
    ordered: Flag,
}

/// Change a lane
///
/// From the next claim on. A lane that is not there is made. Needs the scope `queues:manage`.
#[utoipa::path(
    put,
    path = "/v1/queues/{name}/lanes/{key}",
    operation_id = "change_lane",
    tag = "queues",
    params(
        ("name" = String, Path, description = "The queue's name", example = "http"),
        ("key" = String, Path, description = "The lane's key", example = "customer-42"),
        LaneQuery
    ),
    request_body = LaneChangeRequest,
    responses((status = 200, description = "The lane as it is now", body = LaneResponse))
)]
pub(crate) async fn change_lane(
    State(state): State<ApiState>,
    caller: Caller,
    PathKey(name, key): PathKey,
    Query(query): Query<LaneQuery>,
    body: JsonBody,
) -> Result<Json<LaneResponse>, Problem> {
    caller.require(Scope::QueuesManage)?;
    if !is_key(&key) {
        return Err(Problem::not_found("lane"));
    }
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
    caller.require(Scope::QueuesManage)?;
    require_visible(state, caller, queue).await?;
    let mut faults = Faults::default();
    let request: LaneChangeRequest = body.members(&mut faults).unwrap_or_default();
    let change = request.read(&mut faults);
    faults.none_in_body()?;
    let resource = format!("{queue}/{}", lane.key());
    let entry = Entry::new("lane.change", resource).after(body.value());
    let engine = state.engine().with_audit(caller.note(entry));
    engine.set_lane(caller.tenant, queue, lane, &change).await?;
    let mut lanes = engine.lane(caller.tenant, queue, lane).await?.into_iter();
    lanes
        .next()
        .map(|lane| Json(lane.into()))
        .ok_or_else(|| Problem::not_found("lane"))
}
