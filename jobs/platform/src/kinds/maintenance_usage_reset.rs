//! The kind `maintenance.usage_reset`: closes past months of usage.
//!
//! It never changes the current month.

use std::time::Duration;

use harkara_kind::JobKind;
use harkara_kind::Services;
use harkara_kind::database_verdict;
use harkara_queue::{Run, Verdict};
use harkara_shared::database::query;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgPool;
use utoipa::ToSchema;

/// - Changes: marks past months of usage as closed; removes usage of single keys after 24
///   months, and counters of request limits whose quota is full again. The quotas of the new month need no
///   change: a counter of an earlier month counts as zero.
/// - Twice: the second run finds nothing to close or remove.
/// - Calls: nothing.
/// - Dead: past months look open, and the tables grow until the next month's run; look at its error.
#[derive(Debug)]
pub struct MaintenanceUsageReset;

/// Payload of `maintenance.usage_reset`: none.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {}

impl JobKind for MaintenanceUsageReset {
    const KIND: &'static str = "maintenance.usage_reset";
    const QUEUE: &'static str = "maintenance";
    const MAX_ATTEMPTS: u16 = 5;
    const TIMEOUT: Duration = Duration::from_secs(10 * 60);
    const PLATFORM_ONLY: bool = true;
    type Services = Services;
    type Args = Args;

    async fn run(_: Args, _: Run, services: &Services) -> Verdict {
        match reset(&services.pool).await {
            Ok(result) => Verdict::Done {
                result: Some(result),
                follow_ups: Vec::new(),
            },
            Err(error) => database_verdict(&error),
        }
    }
}

/// Closes past months of all tenants and removes old rows.
async fn reset(pool: &PgPool) -> Result<Value, sqlx::Error> {
    let closed = query(include_str!(
        "../sql/maintenance_usage_reset/close_usage.sql"
    ))
    .execute(pool)
    .await?;
    let removed = query(include_str!(
        "../sql/maintenance_usage_reset/remove_old_usage.sql"
    ))
    .execute(pool)
    .await?;
    let counters = remove_idle_counters(pool).await?;
    Ok(json!({
        "closed": closed.rows_affected(),
        "removed": removed.rows_affected(),
        "counters": counters,
    }))
}

/// Removes counters of request limits that are back at their full quota. Returns how many.
pub(super) async fn remove_idle_counters(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let mut counters = 0;
    loop {
        let removed = query(include_str!(
            "../sql/maintenance_usage_reset/remove_idle_counters.sql"
        ))
        .execute(pool)
        .await?
        .rows_affected();
        counters += removed;
        if removed == 0 {
            return Ok(counters);
        }
    }
}
