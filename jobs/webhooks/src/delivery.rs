//! Reads deliveries and reconciles their state with their jobs.
//!
//! A delivery is never reported as failed while its job can still succeed.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::job::JobState;
use harkara_queue::read;
use harkara_shared::database::{TenantTx, query, query_as};
use harkara_shared::id::{DeliveryId, EndpointId, JobId};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// State of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeliveryState {
    /// Waiting for its next attempt, or running.
    Pending,
    /// The receiver responded with 2xx.
    Succeeded,
    /// All attempts failed.
    Failed,
    /// Not sent, because its endpoint was disabled or deleted.
    Skipped,
    /// Its job was cancelled.
    Cancelled,
}

/// The delivery of one event to one endpoint.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Delivery {
    /// `dlv_…`
    pub id: DeliveryId,
    /// Id of the event.
    pub event_id: String,
    /// The endpoint that receives the event.
    pub endpoint_id: EndpointId,
    /// The job that makes the delivery; `None` if it was skipped from the start.
    pub job_id: Option<JobId>,
    /// State, reconciled with the job.
    pub state: DeliveryState,
    /// Number of attempts made.
    #[sqlx(try_from = "i32")]
    pub attempts: u32,
    last_status: Option<i32>,
    /// When its event was posted.
    pub created_at: DateTime<Utc>,
    /// When it reached its final state.
    pub finished_at: Option<DateTime<Utc>>,
}

impl Delivery {
    /// HTTP status of the last response.
    #[must_use]
    pub fn last_status(&self) -> Option<u16> {
        self.last_status
            .and_then(|status| u16::try_from(status).ok())
    }
}

/// Which deliveries to list. Members that are `None` match all.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// Deliveries to this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// Deliveries of this event.
    pub event_id: Option<String>,
    /// Deliveries in this state.
    pub state: Option<DeliveryState>,
    /// Deliveries whose last response had this status.
    pub status_code: Option<u16>,
    /// Deliveries of events posted at or after this time.
    pub created_after: Option<DateTime<Utc>>,
    /// Deliveries of events posted at or before this time.
    pub created_before: Option<DateTime<Utc>>,
}

impl DeliveryFilter {
    fn matches(&self, delivery: &Delivery) -> bool {
        let (since, until) = (self.created_after, self.created_before);
        self.state.is_none_or(|state| delivery.state == state)
            && self.endpoint_id.is_none_or(|id| delivery.endpoint_id == id)
            && (self.status_code.is_none() || delivery.last_status() == self.status_code)
            && since.is_none_or(|since| delivery.created_at >= since)
            && until.is_none_or(|until| delivery.created_at <= until)
    }

    /// Whether the filter can match few of many rows.
    fn is_narrow(&self) -> bool {
        self.state.is_some()
            || self.status_code.is_some()
            || self.created_after.is_some()
            || self.created_before.is_some()
    }
}

/// Marks a pending delivery of `job` as skipped.
///
/// # Errors
/// When the database refuses.
pub(crate) async fn skip_delivery(
    tx: &mut TenantTx,
    id: DeliveryId,
    job: JobId,
) -> Result<(), Error> {
    query(
        "update app.deliveries set state = 'skipped', finished_at = now()
         where tenant_id = $1 and id = $2 and job_id = $3 and state = 'pending'",
    )
    .bind(tx.tenant())
    .bind(id)
    .bind(job)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Finds a delivery and reconciles it with its job.
///
/// # Errors
/// When the database refuses.
pub async fn find_delivery(tx: &mut TenantTx, id: DeliveryId) -> Result<Option<Delivery>, Error> {
    let mut deliveries: Vec<Delivery> = query_as(include_str!("sql/delivery/get_delivery.sql"))
        .bind(tx.tenant())
        .bind(id)
        .fetch_all(&mut **tx)
        .await?;
    reconcile(tx, &mut deliveries).await?;
    Ok(deliveries.pop())
}

/// Maximum number of deliveries that are scanned for a page.
const MAX_SCANNED: u32 = 5000;

/// Maximum number of deliveries that are compared with their jobs for a page.
const MAX_COMPARED: usize = 500;

/// Minimum number of deliveries read at a time when only some of them match.
const NARROW_BATCH: u32 = 250;

/// A page of deliveries.
#[derive(Debug, Clone, Default)]
pub struct DeliveryPage {
    /// Matching deliveries, newest first.
    pub deliveries: Vec<Delivery>,
    /// The next page begins before this delivery; `None` at the end of the list.
    pub next_before: Option<DeliveryId>,
}

#[derive(sqlx::FromRow)]
struct Listed {
    #[sqlx(flatten)]
    delivery: Delivery,
    /// The last row that was scanned.
    is_edge: bool,
}

/// Lists at most `limit` matching deliveries, newest first, older than `before`. Scans a bounded number: if few match, a
/// page can have fewer than `limit`, or none, without being the last.
///
/// # Errors
/// When the database refuses.
pub async fn list_deliveries(
    tx: &mut TenantTx,
    filter: &DeliveryFilter,
    before: Option<DeliveryId>,
    limit: u32,
) -> Result<DeliveryPage, Error> {
    let limit_rows = usize::try_from(limit).unwrap_or(usize::MAX);
    // A small page of a narrow filter would otherwise take many small reads.
    let batch_rows = if filter.is_narrow() {
        limit.max(NARROW_BATCH)
    } else {
        limit
    };
    let mut page = DeliveryPage {
        deliveries: Vec::new(),
        next_before: before,
    };
    let mut compared = 0;
    loop {
        let rows: Vec<Listed> = query_as(include_str!("sql/delivery/list_deliveries.sql"))
            .bind(tx.tenant())
            .bind(page.next_before)
            .bind(i64::from(batch_rows))
            .bind(filter.endpoint_id)
            .bind(&filter.event_id)
            .bind(filter.state.map(stored_as))
            .bind(i64::from(MAX_SCANNED.max(batch_rows)))
            .bind(filter.status_code.map(i32::from))
            .bind(filter.created_after)
            .bind(filter.created_before)
            .fetch_all(&mut **tx)
            .await?;
        let is_full = rows.len() >= usize::try_from(batch_rows).unwrap_or(usize::MAX);
        let is_cut = rows.last().is_some_and(|row| row.is_edge);
        let mut deliveries: Vec<Delivery> = rows.into_iter().map(|row| row.delivery).collect();
        page.next_before = deliveries
            .last()
            .filter(|_| is_full || is_cut)
            .map(|delivery| delivery.id);
        compared += deliveries.len();
        reconcile(tx, &mut deliveries).await?;
        deliveries.retain(|delivery| filter.matches(delivery));
        page.deliveries.extend(deliveries);
        let is_enough = page.deliveries.len() >= limit_rows || compared >= MAX_COMPARED;
        if is_enough || is_cut || page.next_before.is_none() {
            break;
        }
    }
    if page.deliveries.len() > limit_rows {
        page.deliveries.truncate(limit_rows);
        page.next_before = page.deliveries.last().map(|delivery| delivery.id);
    }
    Ok(page)
}

/// The states in which a delivery that is in `state` may be stored, before it is reconciled with its job.
fn stored_as(state: DeliveryState) -> Vec<DeliveryState> {
    use DeliveryState as S;
    match state {
        S::Succeeded | S::Skipped => vec![state],
        S::Pending | S::Failed | S::Cancelled => vec![S::Pending, S::Failed, S::Cancelled],
    }
}

/// The state of a delivery whose job is in this state. `None` for a succeeded job, which may have skipped the delivery.
pub(super) fn state_from_job(job: JobState) -> Option<DeliveryState> {
    match job {
        JobState::Scheduled | JobState::Ready | JobState::Running => Some(DeliveryState::Pending),
        JobState::Dead => Some(DeliveryState::Failed),
        JobState::Cancelled => Some(DeliveryState::Cancelled),
        JobState::Succeeded => None,
    }
}

/// Updates deliveries from their jobs. Runs of a job write its delivery; what happens to the job outside of a run (a
/// cancel, the death of its last worker, a retry) is recorded only in the job, as long as its row is kept.
async fn reconcile(tx: &mut TenantTx, deliveries: &mut [Delivery]) -> Result<(), Error> {
    let ids: Vec<JobId> = deliveries
        .iter()
        .filter(|delivery| {
            !matches!(
                delivery.state,
                DeliveryState::Succeeded | DeliveryState::Skipped
            )
        })
        .filter_map(|delivery| delivery.job_id)
        .collect();
    if ids.is_empty() {
        return Ok(());
    }
    let jobs: HashMap<JobId, (JobState, Option<DateTime<Utc>>)> = read::jobs(tx, &ids)
        .await?
        .into_iter()
        .map(|job| (job.id, (job.state, job.finished_at)))
        .collect();
    let mut changes = StateChanges::default();
    for delivery in deliveries {
        let Some((job_state, finished_at)) = delivery.job_id.and_then(|id| jobs.get(&id)) else {
            continue;
        };
        let Some(state) = state_from_job(*job_state) else {
            continue;
        };
        if state != delivery.state {
            changes.ids.push(delivery.id);
            changes.from.push(delivery.state);
            changes.to.push(state);
            changes.finished.push(*finished_at);
        }
        delivery.state = state;
        delivery.finished_at = *finished_at;
    }
    changes.write(tx).await
}

/// Changes of deliveries that follow from their jobs, by column.
#[derive(Default)]
struct StateChanges {
    ids: Vec<DeliveryId>,
    from: Vec<DeliveryState>,
    to: Vec<DeliveryState>,
    finished: Vec<Option<DateTime<Utc>>>,
}

impl StateChanges {
    async fn write(self, tx: &mut TenantTx) -> Result<(), Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        query(include_str!("sql/delivery/settle_deliveries.sql"))
            .bind(tx.tenant())
            .bind(&self.ids)
            .bind(&self.from)
            .bind(&self.to)
            .bind(&self.finished)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

/// Reconciles long-pending deliveries with their jobs, before the jobs' rows are removed. Reads five hundred after `after`
/// and returns the last of them; `None` at the end.
///
/// # Errors
/// When the database refuses.
pub(crate) async fn reconcile_old_deliveries(
    tx: &mut TenantTx,
    after: DeliveryId,
) -> Result<Option<DeliveryId>, Error> {
    let mut deliveries: Vec<Delivery> = query_as(include_str!("sql/delivery/list_old_pending.sql"))
        .bind(tx.tenant())
        .bind(after)
        .fetch_all(&mut **tx)
        .await?;
    reconcile(tx, &mut deliveries).await?;
    Ok(deliveries.last().map(|delivery| delivery.id))
}

/// Removes events older than `keep` with their deliveries, at most a thousand. Returns how many. Events with a pending
/// delivery are kept.
///
/// # Errors
/// When the database refuses.
pub(crate) async fn remove_old_events(tx: &mut TenantTx, keep: Duration) -> Result<u64, Error> {
    let removed = query(include_str!("sql/delivery/remove_old_events.sql"))
        .bind(tx.tenant())
        .bind(keep.as_secs_f64())
        .execute(&mut **tx)
        .await?;
    Ok(removed.rows_affected())
}

/// Removes hourly statistics of endpoints older than `keep`.
///
/// # Errors
/// When the database refuses.
pub(crate) async fn remove_old_statistics(tx: &mut TenantTx, keep: Duration) -> Result<(), Error> {
    query(
        "delete from app.endpoint_hours
         where tenant_id = $1 and hour < now() - $2::float8 * interval '1 second'",
    )
    .bind(tx.tenant())
    .bind(keep.as_secs_f64())
    .execute(&mut **tx)
    .await?;
    Ok(())
}
