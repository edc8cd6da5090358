//! Room: how endpoints are doing.
//! Takes: attempts that were recorded, of one tenant. Gives: what follows for their endpoints: told to their
//! people, slowed down, disabled, well again.
//! Never: calls an endpoint, or decides about a delivery.

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

/// An endpoint that has not had one success for so long, and so many failures, is disabled.
const PATIENCE: Duration = Duration::from_secs(5 * 24 * 60 * 60);
const MOST_FAILURES: u32 = 20;

/// Of how much of the way to that its people are told, in percent.
const ALERTS: [i32; 4] = [50, 70, 90, 100];

/// How far an endpoint is on its way to being disabled, in percent: by time and by failures, whichever is
/// less.
fn way(failing_for: Duration, failures: u32) -> i32 {
    let time = failing_for.as_secs_f64() / PATIENCE.as_secs_f64();
    let count = f64::from(failures) / f64::from(MOST_FAILURES);
    #[expect(clippy::cast_possible_truncation, reason = "it is between 0 and 100")]
    let percent = (time.min(count).clamp(0.0, 1.0) * 100.0) as i32;
    percent
}

/// What is to be told of an endpoint that has come so far, of which `told` was told before.
fn alert(percent: i32, told: i32) -> Option<i32> {
    let reached = ALERTS.into_iter().rev().find(|step| *step <= percent)?;
    (reached > told).then_some(reached)
}

/// What follows from attempts, once they are recorded.
#[derive(Debug, Default)]
pub(super) struct HealthEffects {
    /// Endpoints whose pace changes.
    pub(super) paces: Vec<EndpointId>,
    /// Endpoints that are disabled: what waits for them is to be skipped.
    pub(super) disabled: Vec<EndpointId>,
    /// What is to be told, and of which endpoint.
    news: Vec<(EndpointId, NewEvent)>,
}

impl HealthEffects {
    fn tell(&mut self, about: EndpointId, event_type: &str, data: &Value) -> Result<(), Error> {
        let data = serde_json::value::to_raw_value(data).map_err(harkara_queue::Error::from)?;
        self.news.push((about, NewEvent::new(event_type, data)));
        Ok(())
    }
}

/// Notes what attempts, each recorded as one of so many of its delivery, say of their endpoints.
pub(super) async fn note(
    tx: &mut TenantTx,
    engine: &Engine,
    attempts: &[FinishedAttempt],
    numbers: &HashMap<DeliveryId, i32>,
) -> Result<HealthEffects, Error> {
    let mut follows = HealthEffects::default();
    note_successes(tx, attempts, &mut follows).await?;
    note_failures(tx, attempts, &mut follows).await?;
    let slow = attempts.iter().filter(|attempt| attempt.action.slow);
    let slow: Vec<EndpointId> = slow.map(|attempt| attempt.endpoint).collect();
    if !slow.is_empty() {
        let slowed: Vec<EndpointId> = query_scalar(include_str!("sql/health/slow_endpoints.sql"))
            .bind(tx.tenant())
            .bind(slow)
            .fetch_all(&mut **tx)
            .await?;
        follows.paces.extend(slowed);
    }
    for attempt in attempts {
        if let Some(reason) = attempt.action.disable {
            disable(tx, attempt.endpoint, reason, &mut follows).await?;
        }
        if let Some(number) = numbers.get(&attempt.delivery) {
            tell_exhausted(attempt, *number, &mut follows)?;
        }
    }
    post_operational(tx, engine, std::mem::take(&mut follows.news)).await?;
    Ok(follows)
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

async fn note_successes(
    tx: &mut TenantTx,
    attempts: &[FinishedAttempt],
    follows: &mut HealthEffects,
) -> Result<(), Error> {
    let mut well: Vec<EndpointId> = attempts
        .iter()
        .filter(|attempt| attempt.is_success())
        .map(|attempt| attempt.endpoint)
        .collect();
    well.sort_unstable();
    well.dedup();
    if well.is_empty() {
        return Ok(());
    }
    let recovered: Vec<Recovered> = query_as(include_str!("sql/health/note_successes.sql"))
        .bind(tx.tenant())
        .bind(well)
        .fetch_all(&mut **tx)
        .await?;
    for endpoint in recovered {
        if endpoint.is_faster {
            follows.paces.push(endpoint.id);
        }
        // Nobody who was not told that it fails needs to hear that it does not.
        if endpoint.alerted > 0 {
            let data = json!({
                "endpoint_id": endpoint.id,
                "url": endpoint.url,
                "failing_since": endpoint.failing_since,
                "failures": endpoint.failures,
            });
            follows.tell(endpoint.id, "endpoint.recovered", &data)?;
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

async fn note_failures(
    tx: &mut TenantTx,
    attempts: &[FinishedAttempt],
    follows: &mut HealthEffects,
) -> Result<(), Error> {
    // In the order of ids, in which everybody locks endpoints.
    let mut failed: BTreeMap<EndpointId, Vec<&FinishedAttempt>> = BTreeMap::new();
    for attempt in attempts {
        // Whoever tests an endpoint that does not work yet knows.
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
    let failing: Vec<Failing> = query_as(include_str!("sql/health/note_failures.sql"))
        .bind(tx.tenant())
        .bind(&ids)
        .bind(&counts)
        .fetch_all(&mut **tx)
        .await?;
    for endpoint in failing {
        let failing_for = Duration::try_from_secs_f64(endpoint.failing_seconds).unwrap_or_default();
        let percent = way(
            failing_for,
            u32::try_from(endpoint.failures).unwrap_or_default(),
        );
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
            follows.tell(endpoint.id, "endpoint.failing", &data)?;
        }
        if percent == 100 {
            disable(tx, endpoint.id, "failing", follows).await?;
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

/// Disables an endpoint that is not, and tells its people.
async fn disable(
    tx: &mut TenantTx,
    id: EndpointId,
    reason: &str,
    follows: &mut HealthEffects,
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
    follows.disabled.push(id);
    let data = json!({
        "endpoint_id": id,
        "url": disabled.url,
        "reason": reason,
        "failing_since": disabled.failing_since,
        "failures": disabled.failures,
    });
    follows.tell(id, "endpoint.disabled", &data)
}

/// Tells of a delivery that was given up, unless it was to tell of such things itself.
fn tell_exhausted(
    attempt: &FinishedAttempt,
    attempts: i32,
    follows: &mut HealthEffects,
) -> Result<(), Error> {
    let is_given_up = attempt.fate == Some(DeliveryState::Failed) && attempt.cause.is_on_schedule();
    if !is_given_up || is_operational(&attempt.event.event_type) {
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
    follows.tell(attempt.endpoint, "delivery.exhausted", &data)
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
    fn it_takes_five_days_and_twenty_failures() {
        assert_eq!(way(DAY * 5, 20), 100);
        assert_eq!(way(DAY * 50, 19), 95);
        assert_eq!(way(DAY * 5 - Duration::from_secs(1), 1000), 99);
        assert_eq!(way(DAY, 1), 5);
        assert_eq!(way(Duration::ZERO, 1000), 0);
    }

    #[test]
    fn each_step_of_the_way_is_told_once_and_none_that_was_left_behind() {
        assert_eq!(alert(49, 0), None);
        assert_eq!(alert(50, 0), Some(50));
        assert_eq!(alert(69, 50), None);
        assert_eq!(alert(95, 50), Some(90));
        assert_eq!(alert(100, 90), Some(100));
        assert_eq!(alert(100, 100), None);
        // One that was enabled again has still to be told as recovered; it begins anew all the same.
        assert_eq!(alert(50, 1), Some(50));
    }
}
