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

/// What has become of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeliveryState {
    /// On its way.
    Pending,
    /// The receiver answered 2xx.
    Succeeded,
    /// Given up.
    Failed,
    /// Not sent, because its endpoint was disabled or deleted.
    Skipped,
    /// Cancelled by somebody.
    Cancelled,
}

/// One event on its way to one endpoint.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Delivery {
    /// Id.
    pub id: DeliveryId,
    /// The event.
    pub event_id: String,
    /// Where it goes.
    pub endpoint_id: EndpointId,
    /// The job that delivers it.
    pub job_id: Option<JobId>,
    /// What has become of it.
    pub state: DeliveryState,
    /// Requests made.
    #[sqlx(try_from = "i32")]
    pub attempts: u32,
    last_status: Option<i32>,
    /// When its event was posted.
    pub created_at: DateTime<Utc>,
    /// When it reached its final state.
    pub finished_at: Option<DateTime<Utc>>,
}

impl Delivery {
    /// What the receiver answered last.
    #[must_use]
    pub fn last_status(&self) -> Option<u16> {
        self.last_status
            .and_then(|status| u16::try_from(status).ok())
    }
}

/// Which deliveries a page shows.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// To this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// Of this event.
    pub event_id: Option<String>,
    /// In this state.
    pub state: Option<DeliveryState>,
    /// Whose receiver answered this last.
    pub status_code: Option<u16>,
    /// Made from this moment on.
    pub created_after: Option<DateTime<Utc>>,
    /// Made until this moment.
    pub created_before: Option<DateTime<Utc>>,
}

impl DeliveryFilter {
    fn admits(&self, delivery: &Delivery) -> bool {
        let (since, until) = (self.created_after, self.created_before);
        self.state.is_none_or(|state| delivery.state == state)
            && self.endpoint_id.is_none_or(|id| delivery.endpoint_id == id)
            && (self.status_code.is_none() || delivery.last_status() == self.status_code)
            && since.is_none_or(|since| delivery.created_at >= since)
            && until.is_none_or(|until| delivery.created_at <= until)
    }

    /// Whether few may match among many.
    fn is_narrow(&self) -> bool {
        self.state.is_some()
            || self.status_code.is_some()
            || self.created_after.is_some()
            || self.created_before.is_some()
    }
}

/// Marks a delivery as skipped that `job` was to make.
///
/// # Errors
/// When the database refuses.
pub async fn skip(tx: &mut TenantTx, id: DeliveryId, job: JobId) -> Result<(), Error> {
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

/// One delivery.
///
/// # Errors
/// When the database refuses.
pub async fn delivery(tx: &mut TenantTx, id: DeliveryId) -> Result<Option<Delivery>, Error> {
    let mut found: Vec<Delivery> = query_as(include_str!("sql/delivery/get_delivery.sql"))
        .bind(tx.tenant())
        .bind(id)
        .fetch_all(&mut **tx)
        .await?;
    reconcile(tx, &mut found).await?;
    Ok(found.pop())
}

/// Deliveries looked at for a page, and compared with their jobs, at the most.
const MOST_LOOKED: u32 = 5000;
const MOST_COMPARED: usize = 500;

/// Deliveries compared with their jobs together when only some of them match.
const LOOK: u32 = 250;

/// A page of deliveries.
#[derive(Debug, Clone, Default)]
pub struct DeliveryPage {
    /// Those that match, newest first.
    pub deliveries: Vec<Delivery>,
    /// The delivery below which the next page begins; nothing at the end of the list.
    pub below: Option<DeliveryId>,
}

#[derive(sqlx::FromRow)]
struct Listed {
    #[sqlx(flatten)]
    delivery: Delivery,
    /// The last that was looked at.
    is_edge: bool,
}

/// At most `limit` deliveries that match, newest first, older than `before`. Looks at a bounded number:
/// where few match, a page may hold fewer than `limit`, or none, and yet not be the last.
///
/// # Errors
/// When the database refuses.
pub async fn list_deliveries(
    tx: &mut TenantTx,
    filter: &DeliveryFilter,
    before: Option<DeliveryId>,
    limit: u32,
) -> Result<DeliveryPage, Error> {
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    // A small page may take many looks: none of them need be small.
    let look = if filter.is_narrow() {
        limit.max(LOOK)
    } else {
        limit
    };
    let mut page = DeliveryPage {
        deliveries: Vec::new(),
        below: before,
    };
    let mut compared = 0;
    loop {
        let rows: Vec<Listed> = query_as(include_str!("sql/delivery/list_deliveries.sql"))
            .bind(tx.tenant())
            .bind(page.below)
            .bind(i64::from(look))
            .bind(filter.endpoint_id)
            .bind(&filter.event_id)
            .bind(filter.state.map(stored_as))
            .bind(i64::from(MOST_LOOKED.max(look)))
            .bind(filter.status_code.map(i32::from))
            .bind(filter.created_after)
            .bind(filter.created_before)
            .fetch_all(&mut **tx)
            .await?;
        let is_full = rows.len() >= usize::try_from(look).unwrap_or(usize::MAX);
        let is_cut = rows.last().is_some_and(|row| row.is_edge);
        let mut found: Vec<Delivery> = rows.into_iter().map(|row| row.delivery).collect();
        page.below = found
            .last()
            .filter(|_| is_full || is_cut)
            .map(|delivery| delivery.id);
        compared += found.len();
        reconcile(tx, &mut found).await?;
        found.retain(|delivery| filter.admits(delivery));
        page.deliveries.extend(found);
        let is_enough = page.deliveries.len() >= wanted || compared >= MOST_COMPARED;
        if is_enough || is_cut || page.below.is_none() {
            break;
        }
    }
    if page.deliveries.len() > wanted {
        page.deliveries.truncate(wanted);
        page.below = page.deliveries.last().map(|delivery| delivery.id);
    }
    Ok(page)
}

/// How a delivery in this state may be stored: what its job tells comes on top.
fn stored_as(state: DeliveryState) -> Vec<DeliveryState> {
    use DeliveryState as S;
    match state {
        S::Succeeded | S::Skipped => vec![state],
        S::Pending | S::Failed | S::Cancelled => vec![S::Pending, S::Failed, S::Cancelled],
    }
}

/// What a job that stands so tells of its delivery; one that succeeded tells nothing, for it may have
/// skipped it.
pub(super) fn state_from_job(job: JobState) -> Option<DeliveryState> {
    match job {
        JobState::Scheduled | JobState::Ready | JobState::Running => Some(DeliveryState::Pending),
        JobState::Dead => Some(DeliveryState::Failed),
        JobState::Cancelled => Some(DeliveryState::Cancelled),
        JobState::Succeeded => None,
    }
}

/// A delivery's row is written by the runs of its job. What happens to the job outside of a run (it
/// was cancelled, its last worker died, somebody retried it) is told by the job itself, for as long
/// as its row is kept: so it is noted here as soon as it is seen.
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
    let mut news = News::default();
    for delivery in deliveries {
        let Some((state, finished_at)) = delivery.job_id.and_then(|id| jobs.get(&id)) else {
            continue;
        };
        let Some(told) = state_from_job(*state) else {
            continue;
        };
        if told != delivery.state {
            news.ids.push(delivery.id);
            news.were.push(delivery.state);
            news.are.push(told);
            news.finished.push(*finished_at);
        }
        delivery.state = told;
        delivery.finished_at = *finished_at;
    }
    news.note(tx).await
}

/// What jobs tell of their deliveries that the deliveries do not say yet.
#[derive(Default)]
struct News {
    ids: Vec<DeliveryId>,
    were: Vec<DeliveryState>,
    are: Vec<DeliveryState>,
    finished: Vec<Option<DateTime<Utc>>>,
}

impl News {
    async fn note(self, tx: &mut TenantTx) -> Result<(), Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        query(include_str!("sql/delivery/settle_deliveries.sql"))
            .bind(tx.tenant())
            .bind(&self.ids)
            .bind(&self.were)
            .bind(&self.are)
            .bind(&self.finished)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

/// Notes what jobs tell of deliveries that have been on their way for long, before the jobs' rows are
/// forgotten. Looks at five hundred after the delivery `after`, and answers the last of them.
///
/// # Errors
/// When the database refuses.
pub async fn catch_up(tx: &mut TenantTx, after: DeliveryId) -> Result<Option<DeliveryId>, Error> {
    let mut found: Vec<Delivery> = query_as(include_str!("sql/delivery/list_old_pending.sql"))
        .bind(tx.tenant())
        .bind(after)
        .fetch_all(&mut **tx)
        .await?;
    reconcile(tx, &mut found).await?;
    Ok(found.last().map(|delivery| delivery.id))
}

/// Removes events older than `keep` with all that came of them, at most a thousand, and answers how
/// many. An event with a delivery on its way stays.
///
/// # Errors
/// When the database refuses.
pub async fn forget(tx: &mut TenantTx, keep: Duration) -> Result<u64, Error> {
    let removed = query(include_str!("sql/delivery/remove_old_events.sql"))
        .bind(tx.tenant())
        .bind(keep.as_secs_f64())
        .execute(&mut **tx)
        .await?;
    Ok(removed.rows_affected())
}

/// Removes numbers of endpoints older than `keep`.
///
/// # Errors
/// When the database refuses.
pub async fn forget_hours(tx: &mut TenantTx, keep: Duration) -> Result<(), Error> {
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
