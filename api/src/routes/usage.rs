//! Route of API usage.
//!
//! Returns the number of requests of the tenant's keys per month, and the policies that limit them. Never
//! counts requests of users or rejected requests.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Months, NaiveDate, Utc};
use harkara_accounts::Policy;
use harkara_accounts::{self as accounts, KeyTier};
use harkara_shared::clock;
use harkara_shared::database::query_as;
use harkara_shared::id::ApiKeyId;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;
use sqlx::FromRow;
use sqlx::types::Json as Stored;
use utoipa::{IntoParams, ToSchema};

use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::problem::Problem;
use crate::query::Query;
use crate::usage;

/// Maximum number of months, including the current one.
const MAX_MONTHS: u32 = 13;

/// Number of months from 1 to [`MAX_MONTHS`].
#[derive(Debug, Clone, Copy)]
pub(super) struct MonthCount(u32);

impl Default for MonthCount {
    fn default() -> Self {
        Self(MAX_MONTHS)
    }
}

impl<'de> Deserialize<'de> for MonthCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .ok()
            .filter(|months| (1..=MAX_MONTHS).contains(months))
            .map(Self)
            .ok_or_else(|| {
                D::Error::custom(format!("must be an integer between 1 and {MAX_MONTHS}"))
            })
    }
}

/// Period of usage.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageQuery {
    /// Number of months, including the current one: 1 to 13. Default 13.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 13, example = 3)]
    #[serde(default)]
    months: MonthCount,
}

/// Requests per month, in total and per key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Usage)]
pub(super) struct UsageResponse {
    /// Months (UTC) with requests, newest first; the current month is always included. Up to a second
    /// behind.
    data: Vec<MonthUsageResponse>,
    /// Keys that are valid or were used in these months, busiest first; at most 1,000.
    keys: Vec<KeyUsageResponse>,
}

/// Usage in one month.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageMonth)]
pub(super) struct MonthUsageResponse {
    /// First day of the month.
    #[schema(example = "2026-11-01")]
    month: NaiveDate,
    /// Number of requests that were allowed.
    #[schema(example = 4211)]
    requests: i64,
    /// When the month was closed; omitted while it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_at: Option<DateTime<Utc>>,
}

/// Usage and limits of a key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageKey)]
pub(super) struct KeyUsageResponse {
    /// Id of the API key.
    id: ApiKeyId,
    /// Display name of the key.
    #[schema(example = "shop")]
    name: String,
    /// Tier, which sets the request limits.
    tier: KeyTier,
    /// Policies that limit the key's requests: those of its tier, or its own.
    policies: Vec<Policy>,
    /// When the key was last used, to the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<DateTime<Utc>>,
    /// Months in which the key was used, newest first.
    months: Vec<MonthUsageResponse>,
}

#[derive(Debug, FromRow)]
struct MonthRow {
    month: NaiveDate,
    requests: i64,
    closed_at: Option<DateTime<Utc>>,
}

#[derive(Debug, FromRow)]
struct KeyRow {
    id: ApiKeyId,
    name: String,
    tier: KeyTier,
    limits: Option<Stored<Value>>,
    last_used_at: Option<DateTime<Utc>>,
    months: Option<Vec<NaiveDate>>,
    requests: Option<Vec<i64>>,
}

impl From<MonthRow> for MonthUsageResponse {
    fn from(row: MonthRow) -> Self {
        Self {
            month: row.month,
            requests: row.requests,
            closed_at: row.closed_at,
        }
    }
}

impl From<KeyRow> for KeyUsageResponse {
    fn from(row: KeyRow) -> Self {
        let limits = row.limits.as_ref().map(|limits| &limits.0);
        let months = row.months.unwrap_or_default().into_iter();
        let months = months.zip(row.requests.unwrap_or_default());
        Self {
            id: row.id,
            name: row.name,
            tier: row.tier,
            policies: accounts::policies(row.tier, limits).all().to_vec(),
            last_used_at: row.last_used_at,
            months: months
                .map(|(month, requests)| MonthUsageResponse {
                    month,
                    requests,
                    closed_at: None,
                })
                .collect(),
        }
    }
}

/// Get usage
///
/// Number of requests of the tenant's keys per month (UTC), and the policies that limit each key.
#[utoipa::path(
    get,
    path = "/v1/usage",
    operation_id = "get_usage",
    tag = "tenants",
    responses((status = 200, description = "Requests per month", body = UsageResponse))
)]
pub(super) async fn get_usage(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsReadOrTenantAdmin>,
    Query(query): Query<UsageQuery>,
) -> Result<Json<UsageResponse>, Problem> {
    let this_month = usage::month(clock::now());
    let since = this_month - Months::new(query.months.0 - 1);
    let mut tx = state.begin(&caller).await?;
    let months: Vec<MonthRow> = query_as(include_str!("../sql/usage_months.sql"))
        .bind(since)
        .fetch_all(&mut *tx)
        .await?;
    let keys: Vec<KeyRow> = query_as(include_str!("../sql/usage_keys.sql"))
        .bind(since)
        .fetch_all(&mut *tx)
        .await?;
    tx.commit().await?;
    let mut data: Vec<MonthUsageResponse> =
        months.into_iter().map(MonthUsageResponse::from).collect();
    if data.first().is_none_or(|newest| newest.month < this_month) {
        let nothing = MonthUsageResponse {
            month: this_month,
            requests: 0,
            closed_at: None,
        };
        data.insert(0, nothing);
    }
    Ok(Json(UsageResponse {
        data,
        keys: keys.into_iter().map(KeyUsageResponse::from).collect(),
    }))
}
