//! Room: the route of statistics.
//! Takes: a time and a step. Gives: what happened to the caller's jobs in each step.
//! Never: counts jobs, or shows one tenant another's numbers.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use harkara_queue::read::stats::{
    BUCKET_BOUNDS_MS, BUCKETS, DurationHistogram, StatsFilter, StatsPoint, StatsRange,
    StatsRangeError, stats,
};
use harkara_shared::clock;
use harkara_shared::duration::HumanDuration;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::ApiState;
use crate::access::Scope;
use crate::auth::Caller;
use crate::faults::Faults;
use crate::problem::Problem;
use crate::query::Query;
use crate::time::Moment;

/// What is shown when no time is given.
const DEFAULT_PERIOD: Duration = Duration::from_secs(60 * 60);

/// Which time to tell of, and whose jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StatsQuery {
    /// From this time; an hour before `until` if it is not given. Minutes are known for 48 hours, hours
    /// for 90 days.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Moment>,
    /// Until this time; now if it is not given.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Moment>,
    /// How long a step is: whole minutes that divide an hour, or whole hours that divide a day. Without
    /// it, a step that makes about a hundred points. At most 1500 points are answered.
    #[param(value_type = Option<String>, example = "5m")]
    step: Option<HumanDuration>,
    /// Of jobs in this queue.
    #[param(example = "http")]
    queue: Option<String>,
    /// Of jobs of this kind.
    #[param(example = "http.request")]
    kind: Option<String>,
}

/// What happened to the caller's jobs, step by step.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Stats)]
pub(super) struct StatsResponse {
    /// When the first step begins.
    since: DateTime<Utc>,
    /// When the last step ends.
    until: DateTime<Utc>,
    /// How long a step is. Steps are counted from midnight UTC.
    #[schema(value_type = String, example = "1m")]
    step: HumanDuration,
    /// The upper bounds in milliseconds of the classes of `buckets`, but for the last class, which has
    /// none.
    bounds_ms: [u32; BUCKETS - 1],
    /// One point a step, oldest first, without gaps. The last may not be over.
    data: Vec<StatsPointResponse>,
}

/// What happened in one step.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StatsPoint)]
pub(super) struct StatsPointResponse {
    /// When the step begins.
    at: DateTime<Utc>,
    /// Jobs enqueued.
    #[schema(example = 120)]
    enqueued: i64,
    /// Runs begun.
    #[schema(example = 121)]
    started: i64,
    /// Jobs that succeeded.
    #[schema(example = 119)]
    succeeded: i64,
    /// Runs that failed and will be made again.
    #[schema(example = 1)]
    retried: i64,
    /// Jobs that were given up.
    #[schema(example = 0)]
    dead: i64,
    /// Jobs that were cancelled.
    #[schema(example = 0)]
    cancelled: i64,
    /// How long those that started had been due.
    wait: DurationsResponse,
    /// How long those that ended had run.
    run: DurationsResponse,
}

/// How many took how long, in milliseconds. Counted by classes: a quantile is exact to its class, within
/// which values are taken to be spread evenly. More than an hour is shown as an hour.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DurationHistogram)]
pub(super) struct DurationsResponse {
    /// Half took no longer; null when there were none.
    #[schema(required, example = 3.5)]
    p50: Option<f64>,
    /// 95 in 100 took no longer.
    #[schema(required, example = 12.0)]
    p95: Option<f64>,
    /// 99 in 100 took no longer.
    #[schema(required, example = 19.0)]
    p99: Option<f64>,
    /// How many fell into each class: see `bounds_ms`.
    buckets: [i64; BUCKETS],
}

impl From<DurationHistogram> for DurationsResponse {
    fn from(durations: DurationHistogram) -> Self {
        let rounded = |quantile| {
            let value = durations.quantile(quantile)?;
            Some((value * 1000.0).round() / 1000.0)
        };
        Self {
            p50: rounded(0.5),
            p95: rounded(0.95),
            p99: rounded(0.99),
            buckets: durations.0,
        }
    }
}

impl From<StatsPoint> for StatsPointResponse {
    fn from(point: StatsPoint) -> Self {
        Self {
            at: point.at,
            enqueued: point.enqueued,
            started: point.started,
            succeeded: point.succeeded,
            retried: point.retried,
            dead: point.died,
            cancelled: point.cancelled,
            wait: point.waits.into(),
            run: point.runs.into(),
        }
    }
}

/// Show statistics
///
/// What happened to the tenant's jobs, step by step, exactly and up to now. Needs the scope `jobs:read`.
#[utoipa::path(
    get,
    path = "/v1/stats",
    operation_id = "get_stats",
    tag = "queues",
    params(StatsQuery),
    responses((status = 200, description = "A series of points", body = StatsResponse))
)]
pub(super) async fn get_stats(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<StatsQuery>,
) -> Result<Json<StatsResponse>, Problem> {
    caller.require(Scope::JobsRead)?;
    let span = read_span(&query)?;
    let filter = StatsFilter {
        queue: query.queue,
        kind: query.kind,
    };
    let mut tx = state.begin(&caller).await?;
    let points = stats(&mut tx, caller.tenant, span, &filter).await?;
    tx.commit().await?;
    Ok(Json(StatsResponse {
        since: span.from(),
        until: span.until(),
        step: HumanDuration(span.step()),
        bounds_ms: BUCKET_BOUNDS_MS,
        data: points.into_iter().map(StatsPointResponse::from).collect(),
    }))
}

fn read_span(query: &StatsQuery) -> Result<StatsRange, Problem> {
    let now = clock::now();
    let until = query.until.map_or(now, |moment| moment.0);
    let since = match query.since {
        Some(moment) => moment.0,
        None => until - DEFAULT_PERIOD,
    };
    let step = match query.step {
        Some(step) => step.0,
        None => StatsRange::default_step((now - since).to_std().unwrap_or_default()),
    };
    StatsRange::new(since, until, step, now).or_else(|error| {
        let (pointer, code) = match error {
            StatsRangeError::Step => ("/step", "invalid"),
            StatsRangeError::Many(_) => ("/step", "out_of_range"),
            StatsRangeError::Empty | StatsRangeError::Forgotten(_) => ("/since", "out_of_range"),
        };
        let mut faults = Faults::default();
        faults.add("", pointer, code, error.to_string());
        faults.none_in_query()?;
        // There is a fault.
        Err(Problem::internal(error))
    })
}
