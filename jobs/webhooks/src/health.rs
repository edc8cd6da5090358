//! Endpoint health: derives alerts, slow-down, disabling and recovery from recorded attempts.
//!
//! Posts operational events about alerts, disabling, recovery and exhausted deliveries. It makes no HTTP calls and
//! never changes a delivery's state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::Engine;
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{DeliveryId, EndpointId};
use serde_json::{Map, Value, json};

use crate::attempt::{FinishedAttempt, Trigger};
use crate::delivery::DeliveryState;
use crate::error::Error;
use crate::event::{NewEvent, post_operational};
use crate::subscription::is_operational;

/// An endpoint is disabled once it has gone this long without a success and has failed at least
/// [`DISABLE_AFTER_FAILURES`] times.
const DISABLE_AFTER: Duration = Duration::from_secs(5 * 24 * 60 * 60);

/// An endpoint is not disabled before it has failed this many times since its last success, however long that takes:
/// an endpoint with few events can go [`DISABLE_AFTER`] with only a handful of failures.
const DISABLE_AFTER_FAILURES: u32 = 20;

/// Percentages of disable progress at which an alert is posted.
const ALERT_STEPS: [i32; 4] = [50, 70, 90, 100];

/// Progress towards being disabled, in percent: by time or by failures, whichever is less.
fn disable_progress(failing_for: Duration, failures: u32) -> i32 {
    let time_fraction = failing_for.as_secs_f64() / DISABLE_AFTER.as_secs_f64();
    let failure_fraction = f64::from(failures) / f64::from(DISABLE_AFTER_FAILURES);
    let fraction = time_fraction.min(failure_fraction).clamp(0.0, 1.0);
    #[expect(clippy::cast_possible_truncation, reason = "it is between 0 and 100")]
    let percent = (fraction * 100.0) as i32;
    percent
}

/// The highest alert step reached at this progress, unless `last_alert_step` is that step or a higher one.
fn next_alert_step(percent: i32, last_alert_step: i32) -> Option<i32> {
    let reached = ALERT_STEPS
        .into_iter()
        .rev()
        .find(|step| *step <= percent)?;
    (reached > last_alert_step).then_some(reached)
}

/// Changes of endpoints that the caller applies to the queue once the transaction is committed.
#[derive(Debug, Default)]
pub(super) struct HealthEffects {
    /// Endpoints whose rate was lowered or raised.
    pub(super) rate_changed: Vec<EndpointId>,
    /// Endpoints that were disabled: their waiting deliveries are to be skipped.
    pub(super) disabled: Vec<EndpointId>,
}

/// Operational events to post, each with the endpoint it is about.
#[derive(Default)]
struct EventQueue(Vec<(EndpointId, NewEvent)>);

impl EventQueue {
    fn queue_event(
        &mut self,
        about: EndpointId,
        event_type: &str,
        data: &Value,
    ) -> Result<(), Error> {
        let data = serde_json::value::to_raw_value(data).map_err(harkara_queue::Error::from)?;
        self.0.push((about, NewEvent::new(event_type, data)));
        Ok(())
    }
}

/// Applies recorded attempts to the health of their endpoints. `attempt_numbers` maps each delivery to its latest
/// attempt number; a delivery that was deleted before its attempt was recorded has none.
///
/// All successes are applied before all failures. The attempts of a batch finished at about the same time, so their
/// real order means little, and this order is safe: no failure of the batch is forgotten, and an endpoint with a
/// success in the batch is at the start of its [`DISABLE_AFTER`] in either order.
pub(super) async fn apply(
    tx: &mut TenantTx,
    engine: &Engine,
    attempts: &[FinishedAttempt],
    attempt_numbers: &HashMap<DeliveryId, i32>,
) -> Result<HealthEffects, Error> {
    let mut effects = HealthEffects::default();
    let mut events = EventQueue::default();
    lock_endpoints(tx, attempts).await?;
    apply_successes(tx, attempts, &mut effects, &mut events).await?;
    apply_failures(tx, attempts, &mut effects, &mut events).await?;
    slow_down(tx, attempts, &mut effects).await?;
    for attempt in attempts {
        if let Some(reason) = attempt.action.disable_reason {
            disable(tx, attempt.endpoint, reason, &mut effects, &mut events).await?;
        }
        if let Some(attempt_count) = attempt_numbers.get(&attempt.delivery) {
            report_exhausted(attempt, *attempt_count, &mut events)?;
        }
    }
    post_operational(tx, engine, events.0).await?;
    Ok(effects)
}

/// Locks the endpoints of a batch in the order of their ids. Several statements then change them in any order, and two
/// workers that record attempts of the same endpoints would deadlock without the common order.
///
/// A batch without failures is changed by one statement, which locks in the same order and only the endpoints it
/// changes: successes of healthy endpoints, by far the most frequent case, lock nothing.
async fn lock_endpoints(tx: &mut TenantTx, attempts: &[FinishedAttempt]) -> Result<(), Error> {
    let needs_lock = |attempt: &FinishedAttempt| {
        !attempt.is_success() || attempt.action.slow_down || attempt.action.disable_reason.is_some()
    };
    let endpoints: BTreeSet<EndpointId> = attempts.iter().map(|attempt| attempt.endpoint).collect();
    if endpoints.len() < 2 || !attempts.iter().any(needs_lock) {
        return Ok(());
    }
    query(include_str!("sql/health/lock_endpoints.sql"))
        .bind(tx.tenant())
        .bind(endpoints.into_iter().collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Lowers the rate of endpoints that responded with 429 or 503.
async fn slow_down(
    tx: &mut TenantTx,
    attempts: &[FinishedAttempt],
    effects: &mut HealthEffects,
) -> Result<(), Error> {
    let to_slow: BTreeSet<EndpointId> = attempts
        .iter()
        .filter(|attempt| attempt.action.slow_down)
        .map(|attempt| attempt.endpoint)
        .collect();
    if to_slow.is_empty() {
        return Ok(());
    }
    let slowed: Vec<EndpointId> = query_scalar(include_str!("sql/health/slow_endpoints.sql"))
        .bind(tx.tenant())
        .bind(to_slow.into_iter().collect::<Vec<_>>())
        .fetch_all(&mut **tx)
        .await?;
    effects.rate_changed.extend(slowed);
    Ok(())
}

/// An endpoint that a success changed.
#[derive(sqlx::FromRow)]
struct EndpointAfterSuccess {
    id: EndpointId,
    url: String,
    /// Before the success reset it, like the next two.
    failing_since: Option<DateTime<Utc>>,
    failures: i32,
    #[sqlx(rename = "alerted")]
    last_alert_step: i32,
    /// Whether the success raised the rate of a slowed endpoint.
    rate_raised: bool,
}

/// Resets the failures of endpoints with a success. Successes of tests count, unlike their failures: a test proves that
/// the endpoint works again.
async fn apply_successes(
    tx: &mut TenantTx,
    attempts: &[FinishedAttempt],
    effects: &mut HealthEffects,
    events: &mut EventQueue,
) -> Result<(), Error> {
    let succeeded: BTreeSet<EndpointId> = attempts
        .iter()
        .filter(|attempt| attempt.is_success())
        .map(|attempt| attempt.endpoint)
        .collect();
    if succeeded.is_empty() {
        return Ok(());
    }
    let changed: Vec<EndpointAfterSuccess> =
        query_as(include_str!("sql/health/record_successes.sql"))
            .bind(tx.tenant())
            .bind(succeeded.into_iter().collect::<Vec<_>>())
            .fetch_all(&mut **tx)
            .await?;
    for endpoint in changed {
        if endpoint.rate_raised {
            effects.rate_changed.push(endpoint.id);
        }
        // Report recovery only if an alert about the failure was posted.
        if endpoint.last_alert_step > 0 {
            let data = json!({
                "endpoint_id": endpoint.id,
                "url": endpoint.url,
                "failing_since": endpoint.failing_since,
                "failures": endpoint.failures,
            });
            events.queue_event(endpoint.id, "endpoint.recovered", &data)?;
        }
    }
    Ok(())
}

/// An endpoint whose failures were just added.
#[derive(sqlx::FromRow)]
struct FailingEndpoint {
    id: EndpointId,
    url: String,
    failing_since: DateTime<Utc>,
    failing_seconds: f64,
    /// Failed attempts since the last success, including the ones just added.
    #[sqlx(try_from = "i32")]
    failures: u32,
    #[sqlx(rename = "alerted")]
    last_alert_step: i32,
}

/// Adds failures to their endpoints, and alerts about and disables those that have failed for long enough.
async fn apply_failures(
    tx: &mut TenantTx,
    attempts: &[FinishedAttempt],
    effects: &mut HealthEffects,
    events: &mut EventQueue,
) -> Result<(), Error> {
    let mut failures_by_endpoint: BTreeMap<EndpointId, Vec<&FinishedAttempt>> = BTreeMap::new();
    for attempt in attempts {
        // Test failures don't count: the caller already sees the result.
        if !attempt.is_success() && attempt.trigger != Trigger::Test {
            let failures = failures_by_endpoint.entry(attempt.endpoint).or_default();
            failures.push(attempt);
        }
    }
    if failures_by_endpoint.is_empty() {
        return Ok(());
    }
    let ids: Vec<EndpointId> = failures_by_endpoint.keys().copied().collect();
    let counts: Vec<i32> = failures_by_endpoint
        .values()
        .map(|failures| i32::try_from(failures.len()).unwrap_or(i32::MAX))
        .collect();
    let updated: Vec<FailingEndpoint> = query_as(include_str!("sql/health/record_failures.sql"))
        .bind(tx.tenant())
        .bind(&ids)
        .bind(&counts)
        .fetch_all(&mut **tx)
        .await?;
    for endpoint in updated {
        // Negative only if the database clock moved backwards; treat as just started failing.
        let failing_for =
            Duration::try_from_secs_f64(endpoint.failing_seconds).unwrap_or(Duration::ZERO);
        let percent = disable_progress(failing_for, endpoint.failures);
        if let Some(step) = next_alert_step(percent, endpoint.last_alert_step) {
            query("update app.webhook_endpoints set alerted = $3 where tenant_id = $1 and id = $2")
                .bind(tx.tenant())
                .bind(endpoint.id)
                .bind(step)
                .execute(&mut **tx)
                .await?;
            let last_failure = failures_by_endpoint
                .get(&endpoint.id)
                .and_then(|failures| failures.last());
            let data = json!({
                "endpoint_id": endpoint.id,
                "url": endpoint.url,
                "failing_since": endpoint.failing_since,
                "failures": endpoint.failures,
                "percent": step,
                "last_error": last_failure.and_then(|attempt| attempt.error.as_ref()),
                "event": last_failure.map(|attempt| event_summary(attempt)),
                "delivery_id": last_failure.map(|attempt| attempt.delivery),
            });
            events.queue_event(endpoint.id, "endpoint.failing", &data)?;
        }
        if percent == 100 {
            disable(tx, endpoint.id, "failing", effects, events).await?;
        }
    }
    Ok(())
}

/// An endpoint that was just disabled.
#[derive(sqlx::FromRow)]
struct DisabledEndpoint {
    url: String,
    failing_since: Option<DateTime<Utc>>,
    failures: i32,
}

/// Disables an endpoint, unless already disabled, and queues an event about it.
async fn disable(
    tx: &mut TenantTx,
    id: EndpointId,
    reason: &str,
    effects: &mut HealthEffects,
    events: &mut EventQueue,
) -> Result<(), Error> {
    let disabled: Option<DisabledEndpoint> =
        query_as(include_str!("sql/health/disable_endpoint.sql"))
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
    events.queue_event(id, "endpoint.disabled", &data)
}

/// Queues an event about a scheduled delivery that this attempt has exhausted, unless the delivery carries an
/// operational event (avoids loops).
fn report_exhausted(
    attempt: &FinishedAttempt,
    attempt_count: i32,
    events: &mut EventQueue,
) -> Result<(), Error> {
    let is_exhausted =
        attempt.delivery_outcome == Some(DeliveryState::Failed) && attempt.trigger.is_scheduled();
    if !is_exhausted || is_operational(&attempt.event.event_type) {
        return Ok(());
    }
    let mut event = event_summary(attempt);
    let event_data = attempt.event.data.as_deref();
    if let (Some(event), Some(Ok(event_data))) = (
        event.as_object_mut(),
        event_data.map(serde_json::from_str::<Value>),
    ) {
        event.insert("data".to_owned(), event_data);
    }
    let data = json!({
        "delivery_id": attempt.delivery,
        "endpoint_id": attempt.endpoint,
        "url": attempt.url,
        "event": event,
        "attempts": attempt_count,
        "last_error": attempt.error,
        "status_code": attempt.response.as_ref().map(|response| response.status),
    });
    events.queue_event(attempt.endpoint, "delivery.exhausted", &data)
}

/// The id and type of the event that was sent, as `{"id":…,"type":…}`.
fn event_summary(attempt: &FinishedAttempt) -> Value {
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
    fn each_step_alerts_once_and_only_the_highest_reached() {
        assert_eq!(next_alert_step(49, 0), None);
        assert_eq!(next_alert_step(50, 0), Some(50));
        assert_eq!(next_alert_step(69, 50), None);
        assert_eq!(next_alert_step(95, 50), Some(90));
        assert_eq!(next_alert_step(100, 90), Some(100));
        assert_eq!(next_alert_step(100, 100), None);
        assert_eq!(
            next_alert_step(50, crate::endpoint::REENABLED_ALERT_STEP),
            Some(50)
        );
    }
}
