//! The kind `maintenance.retention`: removes jobs, events and statistics past their retention.
//!
//! It never removes a job that has not finished.

use std::time::Duration;

use harkara_kind::{CleanupError, JobKind, database_verdict};
use harkara_queue::job::JobError;
use harkara_queue::{Removed, Run, Verdict};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::kinds::maintenance_usage_reset::remove_idle_counters;
use crate::services::Services;

/// - Changes: removes succeeded and cancelled jobs after 7 days; dead jobs, attempts, and events with their deliveries
///   after 30 days; payloads of events earlier if their tenant has set a shorter retention; statistics by minute after 2
///   days and by hour after 90; counters of request limits whose quota is full again. Applies endpoints' limits to their
///   lanes again.
/// - Twice: the second run finds nothing to remove.
/// - Calls: nothing.
/// - Dead: the tables grow until the next day's run; look at its error.
#[derive(Debug)]
pub struct Retention;

/// Payload of `maintenance.retention`: none.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {}

impl JobKind for Retention {
    const KIND: &'static str = "maintenance.retention";
    const QUEUE: &'static str = "maintenance";
    const MAX_ATTEMPTS: u16 = 5;
    const TIMEOUT: Duration = Duration::from_secs(30 * 60);
    const PLATFORM_ONLY: bool = true;
    type Services = Services;
    type Args = Args;

    async fn run(_: Args, _: Run, services: &Services) -> Verdict {
        match retain(services).await {
            Ok(result) => Verdict::Done {
                result: Some(result),
                follow_ups: Vec::new(),
            },
            Err(CleanupError::Database(error)) => database_verdict(&error),
            Err(error) => Verdict::retry(JobError::new("retention", error.to_string()), None),
        }
    }
}

async fn retain(services: &Services) -> Result<Value, CleanupError> {
    let keep = harkara_queue::Retention::default();
    let engine = &services.common.engine;
    let mut result = Map::new();
    for cleanup in &services.cleanups {
        for name in cleanup.count_names() {
            result.insert((*name).to_owned(), json!(0));
        }
    }
    for tenant in engine.tenants().await? {
        // Before the jobs are removed: only they record the outcome of some deliveries.
        for cleanup in &services.cleanups {
            let removed = cleanup.clean_up(tenant, &keep).await?;
            for (name, count) in cleanup.count_names().iter().zip(removed) {
                if let Some(Value::Number(sum)) = result.get_mut(*name) {
                    *sum = (sum.as_u64().unwrap_or_default() + count).into();
                }
            }
        }
    }
    // Destructured, so that a new count cannot be forgotten in the result.
    let Removed {
        jobs,
        unique_keys,
        workers,
        lanes,
        limits,
        attempt_days,
        history,
    } = engine.retain(keep).await?;
    let counts = json!({
        "jobs": jobs,
        "unique_keys": unique_keys,
        "workers": workers,
        "lanes": lanes,
        "limits": limits,
        "attempt_days": attempt_days,
        "history": history,
        "request_counters": remove_idle_counters(&services.common.pool).await?,
    });
    if let Value::Object(counts) = counts {
        result.extend(counts);
    }
    Ok(Value::Object(result))
}
