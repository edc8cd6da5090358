//! Route of an endpoint's statistics.
//!
//! Returns succeeded and failed attempts per hour. Never counts deliveries.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use harkara_shared::clock;
use harkara_shared::id::EndpointId;
use harkara_webhooks::{self as webhooks, EndpointHour, EndpointStats, endpoint_stats};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::endpoint_not_found;
use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::problem::Problem;
use crate::query::{PathId, Query};
use crate::time::Timestamp;

/// Start of the period.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::routes) struct EndpointStatsQuery {
    /// Start of the period, rounded down to the hour. Default: 24 hours ago.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
}

/// Statistics of an endpoint's attempts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EndpointStats)]
pub(in crate::routes) struct EndpointStatsResponse {
    /// Number of attempts that succeeded.
    #[schema(example = 1200)]
    succeeded: i64,
    /// Number of attempts that failed.
    #[schema(example = 3)]
    failed: i64,
    /// Median of the response times in milliseconds, as the upper bound of its histogram bucket. Null
    /// without responses.
    #[schema(required, example = 50)]
    p50_ms: Option<u64>,
    /// Percentile of the response times in milliseconds, see `p50_ms`.
    #[schema(required, example = 250)]
    p95_ms: Option<u64>,
    /// Percentile of the response times in milliseconds, see `p50_ms`.
    #[schema(required, example = 500)]
    p99_ms: Option<u64>,
    /// When the latest successful attempt was made.
    #[schema(required)]
    last_success_at: Option<DateTime<Utc>>,
    /// When the latest failed attempt was made.
    #[schema(required)]
    last_failure_at: Option<DateTime<Utc>>,
    /// Hours with attempts, oldest first.
    hours: Vec<EndpointHourResponse>,
}

/// Attempts of one hour.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EndpointHour)]
pub(in crate::routes) struct EndpointHourResponse {
    /// Start of the hour.
    hour: DateTime<Utc>,
    /// Number of attempts that succeeded.
    succeeded: i64,
    /// Number of attempts that failed.
    failed: i64,
}

impl From<EndpointStats> for EndpointStatsResponse {
    fn from(stats: EndpointStats) -> Self {
        let hour = |hour: &EndpointHour| EndpointHourResponse {
            hour: hour.hour,
            succeeded: hour.succeeded,
            failed: hour.failed,
        };
        Self {
            succeeded: stats.succeeded,
            failed: stats.failed,
            p50_ms: stats.percentile(50),
            p95_ms: stats.percentile(95),
            p99_ms: stats.percentile(99),
            last_success_at: stats.last_success_at,
            last_failure_at: stats.last_failure_at,
            hours: stats.hours.iter().map(hour).collect(),
        }
    }
}

/// Get the statistics of an endpoint's attempts
///
/// Available for 30 days.
#[utoipa::path(
    get,
    path = "/v1/webhook-endpoints/{id}/stats",
    operation_id = "get_endpoint_stats",
    tag = "webhooks",
    responses((status = 200, description = "The statistics", body = EndpointStatsResponse))
)]
pub(in crate::routes) async fn get_endpoint_stats(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksRead>,
    PathId(id): PathId<EndpointId>,
    Query(query): Query<EndpointStatsQuery>,
) -> Result<Json<EndpointStatsResponse>, Problem> {
    let day_ago = clock::now() - TimeDelta::hours(24);
    let since = query.since.map_or(day_ago, DateTime::from);
    let mut tx = state.begin(&caller).await?;
    if webhooks::find_endpoint(&mut tx, id).await?.is_none() {
        return Err(endpoint_not_found());
    }
    let stats = endpoint_stats(&mut tx, id, since).await?;
    tx.commit().await?;
    Ok(Json(stats.into()))
}
