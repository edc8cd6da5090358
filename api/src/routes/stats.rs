//! Route of statistics.
//!
//! Returns what happened to the caller's jobs in each step of a period, from stored counters. Never counts
//! jobs and never shows another tenant's numbers.

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
use crate::auth::{Authorized, scope};
use crate::field_errors::FieldErrors;
use crate::problem::Problem;
use crate::query::Query;
use crate::time::Timestamp;

/// Period shown by default.
const DEFAULT_PERIOD: Duration = Duration::from_secs(60 * 60);

/// Period and filters of statistics.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StatsQuery {
    /// Start of the period. Default: one hour before `until`. Minutes are stored for 48 hours, hours for 90
    /// days.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// End of the period. Default: now.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// Length of a step: whole minutes that divide an hour, or whole hours that divide a day. Default: a
    /// step that yields about 100 points. At most 1,500 points are returned.
    #[param(example = "5m", inline)]
    step: Option<HumanDuration>,
    /// Only jobs in this queue.
    #[param(example = "http")]
    queue: Option<String>,
    /// Only jobs of this kind.
    #[param(example = "http.request")]
    kind: Option<String>,
}

/// Statistics of the tenant's jobs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Stats)]
pub(super) struct StatsResponse {
    /// Start of the first step.
    since: DateTime<Utc>,
    /// End of the last step.
    until: DateTime<Utc>,
    /// Length of a step. Steps are aligned to midnight UTC.
    step: HumanDuration,
    /// Upper bounds of the buckets in milliseconds. The last bucket has no bound.
    bounds_ms: [u32; BUCKETS - 1],
    /// One point per step, oldest first, without gaps. The last step may be incomplete.
    data: Vec<StatsPointResponse>,
}

/// What happened in one step.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StatsPoint)]
pub(super) struct StatsPointResponse {
    /// Start of the step.
    at: DateTime<Utc>,
    /// Jobs enqueued.
    #[schema(example = 120)]
    enqueued: i64,
    /// Runs started.
    #[schema(example = 121)]
    started: i64,
    /// Jobs that succeeded.
    #[schema(example = 119)]
    succeeded: i64,
    /// Runs that failed and are retried.
    #[schema(example = 1)]
    retried: i64,
    /// Jobs that failed permanently.
    #[schema(example = 0)]
    dead: i64,
    /// Jobs that were cancelled.
    #[schema(example = 0)]
    cancelled: i64,
    /// Time between due and start, of the runs that started.
    wait: DurationsResponse,
    /// Duration of the runs that ended.
    run: DurationsResponse,
}

/// Distribution of durations in milliseconds. Durations are counted in buckets: a quantile is interpolated
/// within its bucket. Durations above one hour are shown as one hour.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DurationHistogram)]
pub(super) struct DurationsResponse {
    /// Median; null if there are no values.
    #[schema(required, example = 3.5)]
    p50: Option<f64>,
    /// 95th percentile.
    #[schema(required, example = 12.0)]
    p95: Option<f64>,
    /// 99th percentile.
    #[schema(required, example = 19.0)]
    p99: Option<f64>,
    /// Number of values per bucket, see `bounds_ms`.
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

/// Get statistics
///
/// What happened to the tenant's jobs, per step. Exact and up to date.
#[utoipa::path(
    get,
    path = "/v1/stats",
    operation_id = "get_stats",
    tag = "queues",
    responses((status = 200, description = "The statistics", body = StatsResponse))
)]
pub(super) async fn get_stats(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsRead>,
    Query(query): Query<StatsQuery>,
) -> Result<Json<StatsResponse>, Problem> {
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
            StatsRangeError::TooManyPoints(_) => ("/step", "out_of_range"),
            StatsRangeError::Empty | StatsRangeError::NotRetained(_) => ("/since", "out_of_range"),
        };
        let mut errors = FieldErrors::default();
        errors.add("", pointer, code, error.to_string());
        errors.into_query_result()?;
        // `into_query_result` returned the error above.
        Err(Problem::internal(error))
    })
}
