//! Endpoint health: alerts, slow-down, disabling and recovery, derived from recorded attempts.
//!
//! It never calls an endpoint or decides about a delivery.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::Engine;
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{DeliveryId, EndpointId};
use serde_json::{Map, Value, json};

use crate::attempt::Cause;
use crate::attempt::FinishedAttempt;
use crate::delivery::DeliveryState;
use crate::error::Error;
use crate::event::NewEvent;
use crate::event::post_operational;
use crate::subscription::is_operational;

/// An endpoint is disabled after this time without a success and this many failures.
const DISABLE_AFTER: Duration = Duration::from_secs(5 * 24 * 60 * 60);
const DISABLE_AFTER_FAILURES: u32 = 20;

/// Progress towards being disabled at which an alert is posted, in percent.
const ALERT_STEPS: [i32; 4] = [50, 70, 90, 100];

/// Progress towards being disabled, in percent: by time or by failures, whichever is less.
fn disable_progress(failing_for: Duration, failures: u32) -> i32 {
    let time = failing_for.as_secs_f64() / DISABLE_AFTER.as_secs_f64();
    let count = f64::from(failures) / f64::from(DISABLE_AFTER_FAILURES);
    #[expect(clippy::cast_possible_truncation, reason = "it is between 0 and 100")]
    let percent = (time.min(count).clamp(0.0, 1.0) * 100.0) as i32;
    percent
}

/// The alert step to report at this progress, if it was not reported before.
fn alert(percent: i32, reported: i32) -> Option<i32> {
    let reached = ALERT_STEPS
        .into_iter()
        .rev()
        .find(|step| *step <= percent)?;
    (reached > reported).then_some(reached)
}

/// Effects of recorded attempts on their endpoints.
#[derive(Debug, Default)]
pub(super) struct HealthEffects {
    /// Endpoints whose rate changed.
    pub(super) changed_rates: Vec<EndpointId>,
    /// Endpoints that were disabled: their waiting deliveries are to be skipped.
    pub(super) disabled: Vec<EndpointId>,
    /// Operational events to post, with the endpoint they are about.
    events: Vec<(EndpointId, NewEvent)>,
}

impl HealthEffects {
    fn post(&mut self, about: EndpointId, event_type: &str, data: &Value) -> Result<(), Error> {
        let data = serde_json::value::to_raw_value(data).map_err(harkara_queue::Error::from)?;
        self.events.push((about, NewEvent::new(event_type, data)));
        Ok(())
    }
}

/// Applies recorded attempts to the health of their endpoints. `numbers` are the attempts' numbers by delivery.
pub(super) async fn apply(
    tx: &mut TenantTx,
    engine: &Engine,
    attempts: &[FinishedAttempt],
    numbers: &HashMap<DeliveryId, i32>,
) -> Result<HealthEffects, Error> {
    let mut effects = HealthEffects::default();
    apply_successes(tx, attempts, &mut effects).await?;
    apply_failures(tx, attempts, &mut effects).await?;
    let slow = attempts.iter().filter(|attempt| attempt.action.slow);
    let slow: Vec<EndpointId> = slow.map(|attempt| attempt.endpoint).collect();
    if !slow.is_empty() {
        let slowed: Vec<EndpointId> = query_scalar(include_str!("sql/health/slow_endpoints.sql"))
            .bind(tx.tenant())
            .bind(slow)
            .fetch_all(&mut **tx)
            .await?;
        effects.changed_rates.extend(slowed);
    }
    for attempt in attempts {
        if let Some(reason) = attempt.action.disable {
            disable(tx, attempt.endpoint, reason, &mut effects).await?;
        }
        if let Some(number) = numbers.get(&attempt.delivery) {
            report_exhausted(attempt, *number, &mut effects)?;
        }
    }
    post_operational(tx, engine, std::mem::take(&mut effects.events)).await?;
    Ok(effects)
}

#[derive(sqlx::FromRow)]
struct Recovered {
    id: EndpointId,
    url: String,
    failing_since: Option<DateTime<Utc>>,
    failures: i32,
    alerted: i32,
    is_faster: bool,
}

async fn apply_successes(
    tx: &mut TenantTx,
    attempts: &[FinishedAttempt],
    effects: &mut HealthEffects,
) -> Result<(), Error> {
    let mut succeeded: Vec<EndpointId> = attempts
        .iter()
        .filter(|attempt| attempt.is_success())
        .map(|attempt| attempt.endpoint)
        .collect();
    succeeded.sort_unstable();
    succeeded.dedup();
    if succeeded.is_empty() {
        return Ok(());
    }
    let recovered: Vec<Recovered> = query_as(include_str!("sql/health/record_successes.sql"))
        .bind(tx.tenant())
        .bind(succeeded)
        .fetch_all(&mut **tx)
        .await?;
    for endpoint in recovered {
        if endpoint.is_faster {
            effects.changed_rates.push(endpoint.id);
        }
        // A recovery is reported only if the failure was.
        if endpoint.alerted > 0 {
            let data = json!({
                "endpoint_id": endpoint.id,
                "url": endpoint.url,
                "failing_since": endpoint.failing_since,
                "failures": endpoint.failures,
            });
            effects.post(endpoint.id, "endpoint.recovered", &data)?;
        }
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Failing {
    id: EndpointId,
    url: String,
    failing_since: DateTime<Utc>,
    failing_seconds: f64,
    failures: i32,
    alerted: i32,
}

async fn apply_failures(
    tx: &mut TenantTx,
    attempts: &[FinishedAttempt],
    effects: &mut HealthEffects,
) -> Result<(), Error> {
    // Ordered by id, the lock order of endpoints.
    let mut failed: BTreeMap<EndpointId, Vec<&FinishedAttempt>> = BTreeMap::new();
    for attempt in attempts {
        // A failed test is already reported to its caller.
        if !attempt.is_success() && attempt.cause != Cause::Test {
            failed.entry(attempt.endpoint).or_default().push(attempt);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let ids: Vec<EndpointId> = failed.keys().copied().collect();
    let counts: Vec<i32> = failed
        .values()
        .map(|attempts| i32::try_from(attempts.len()).unwrap_or(i32::MAX))
        .collect();
    let failing: Vec<Failing> = query_as(include_str!("sql/health/record_failures.sql"))
        .bind(tx.tenant())
        .bind(&ids)
        .bind(&counts)
        .fetch_all(&mut **tx)
        .await?;
    for endpoint in failing {
        // Negative only if the database's clock was set back: then it has just begun to fail.
        let failing_for =
            Duration::try_from_secs_f64(endpoint.failing_seconds).unwrap_or(Duration::ZERO);
        let failures = u32::try_from(endpoint.failures)
            .map_err(|_| Error::Corrupt(format!("the failures of {}", endpoint.id)))?;
        let percent = disable_progress(failing_for, failures);
        if let Some(step) = alert(percent, endpoint.alerted) {
            query("update app.webhook_endpoints set alerted = $3 where tenant_id = $1 and id = $2")
                .bind(tx.tenant())
                .bind(endpoint.id)
                .bind(step)
                .execute(&mut **tx)
                .await?;
            let last = failed.get(&endpoint.id).and_then(|all| all.last());
            let data = json!({
                "endpoint_id": endpoint.id,
                "url": endpoint.url,
                "failing_since": endpoint.failing_since,
                "failures": endpoint.failures,
                "percent": step,
                "last_error": last.and_then(|attempt| attempt.error.as_ref()),
                "event": last.map(|attempt| event_of(attempt)),
                "delivery_id": last.map(|attempt| attempt.delivery),
            });
            effects.post(endpoint.id, "endpoint.failing", &data)?;
        }
        if percent == 100 {
            disable(tx, endpoint.id, "failing", effects).await?;
        }
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Disabled {
    url: String,
    failing_since: Option<DateTime<Utc>>,
    failures: i32,
}

/// Disables an endpoint, unless it is disabled, and posts an event.
async fn disable(
    tx: &mut TenantTx,
    id: EndpointId,
    reason: &str,
    effects: &mut HealthEffects,
) -> Result<(), Error> {
    let disabled: Option<Disabled> = query_as(include_str!("sql/health/disable_endpoint.sql"))
        .bind(tx.tenant())
        .bind(id)
        .bind(reason)
        .fetch_optional(&mut **tx)
        .await?;
    let Some(disabled) = disabled else {
        return Ok(());
    };
    effects.disabled.push(id);
    let data = json!({
        "endpoint_id": id,
        "url": disabled.url,
        "reason": reason,
        "failing_since": disabled.failing_since,
        "failures": disabled.failures,
    });
    effects.post(id, "endpoint.disabled", &data)
}

/// Posts an event about a delivery that failed for good, unless its own event is an operational one.
fn report_exhausted(
    attempt: &FinishedAttempt,
    attempts: i32,
    effects: &mut HealthEffects,
) -> Result<(), Error> {
    let is_exhausted =
        attempt.outcome == Some(DeliveryState::Failed) && attempt.cause.is_on_schedule();
    if !is_exhausted || is_operational(&attempt.event.event_type) {
        return Ok(());
    }
    let mut event = event_of(attempt);
    if let (Some(event), Some(Ok(data))) = (
        event.as_object_mut(),
        attempt
            .event
            .data
            .as_deref()
            .map(serde_json::from_str::<Value>),
    ) {
        event.insert("data".to_owned(), data);
    }
    let data = json!({
        "delivery_id": attempt.delivery,
        "endpoint_id": attempt.endpoint,
        "url": attempt.url,
        "event": event,
        "attempts": attempts,
        "last_error": attempt.error,
        "status_code": attempt.answer.as_ref().map(|answer| answer.status),
    });
    effects.post(attempt.endpoint, "delivery.exhausted", &data)
}

fn event_of(attempt: &FinishedAttempt) -> Value {
    let members = [
        ("id".to_owned(), Value::from(attempt.event.id.clone())),
        ("type".to_owned(), attempt.event.event_type.clone().into()),
    ];
    Map::from_iter(members).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn endpoint_is_disabled_after_five_days_and_twenty_failures() {
        assert_eq!(disable_progress(DAY * 5, 20), 100);
        assert_eq!(disable_progress(DAY * 50, 19), 95);
        assert_eq!(disable_progress(DAY * 5 - Duration::from_secs(1), 1000), 99);
        assert_eq!(disable_progress(DAY, 1), 5);
        assert_eq!(disable_progress(Duration::ZERO, 1000), 0);
    }

    #[test]
    fn alert_step_is_reported_once_and_skipped_steps_never() {
        assert_eq!(alert(49, 0), None);
        assert_eq!(alert(50, 0), Some(50));
        assert_eq!(alert(69, 50), None);
        assert_eq!(alert(95, 50), Some(90));
        assert_eq!(alert(100, 90), Some(100));
        assert_eq!(alert(100, 100), None);
        // An endpoint that was enabled again keeps a 1, so that its recovery is reported; its steps start over.
        assert_eq!(alert(50, 1), Some(50));
    }
}
