//! Room: the requests made for deliveries.
//! Takes: requests that were made, many of one tenant at once. Gives: their record, and what the
//! deliveries have become by them; the record to read.
//! Never: keeps more of an answer than its bounds, or a header's value that may be a secret.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::job::JobError;
use harkara_shared::database::{TenantTx, query_as};
use harkara_shared::duration::milliseconds;
use harkara_shared::id::{DeliveryId, EndpointId, JobId};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;

use crate::delivery::DeliveryState;
use crate::error::Error;

/// Why a request is made.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = DeliveryCause)]
pub enum Cause {
    /// An event was posted.
    #[default]
    Event,
    /// Somebody asked for it again.
    Manual,
    /// What an endpoint missed is made up for.
    Recovery,
    /// Somebody tests the endpoint.
    Test,
}

impl Cause {
    /// Whether a delivery is given up by itself, so that its people are to be told.
    #[must_use]
    pub fn is_on_schedule(self) -> bool {
        matches!(self, Self::Event | Self::Recovery)
    }
}

/// A request that was made.
#[derive(Debug, Clone)]
pub struct FinishedAttempt {
    /// For which delivery.
    pub delivery: DeliveryId,
    /// By which job.
    pub job: JobId,
    /// To which endpoint.
    pub endpoint: EndpointId,
    /// Why.
    pub cause: Cause,
    /// What the delivery becomes, as far as this run knows; `None` while it goes on.
    pub fate: Option<DeliveryState>,
    /// When it was made.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub duration: Duration,
    /// Where it went.
    pub url: String,
    /// Names of the endpoint's own headers.
    pub header_names: Vec<String>,
    /// The address it was connected to, if it was.
    pub address: Option<std::net::IpAddr>,
    /// What the receiver answered, if it did.
    pub answer: Option<KeptAnswer>,
    /// What went wrong.
    pub error: Option<JobError>,
    /// What the endpoint asks for beside.
    pub action: EndpointAction,
    /// The event, for those who are told of a failure.
    pub event: AttemptedEvent,
}

/// What an answer asks of how its endpoint is treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointAction {
    /// To be left alone for good, and why.
    pub disable: Option<&'static str>,
    /// To be called less often.
    pub slow: bool,
}

/// The event of an attempt.
#[derive(Debug, Clone)]
pub struct AttemptedEvent {
    /// Its id.
    pub id: String,
    /// Its type.
    pub event_type: String,
    /// What happened, if that is small.
    pub data: Option<String>,
}

/// As much of an answer as is kept.
#[derive(Debug, Clone)]
pub struct KeptAnswer {
    /// Status.
    pub status: u16,
    /// Headers; the values of those that may hold secrets are redacted.
    pub headers: BTreeMap<String, String>,
    /// The beginning of the body.
    pub body: String,
    /// Whether there was more of it.
    pub is_cut: bool,
}

impl FinishedAttempt {
    /// Whether the receiver has taken the event.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.error.is_none()
    }
}

/// Text that a database takes: no NUL, and no more than its column is for.
fn storable(text: &str) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(LONGEST_MESSAGE));
    text
}

/// Writes attempts, each of another delivery, and what their deliveries have become. Answers those that were
/// written, each with the number of its attempt: a delivery may be gone.
pub(super) async fn record(
    tx: &mut TenantTx,
    attempts: &[FinishedAttempt],
) -> Result<HashMap<DeliveryId, i32>, Error> {
    fn column<T>(attempts: &[FinishedAttempt], of: impl Fn(&FinishedAttempt) -> T) -> Vec<T> {
        attempts.iter().map(of).collect()
    }
    let answer = |attempt: &FinishedAttempt| attempt.answer.clone();
    // Lists of different lengths do not fit into one array.
    let names = |attempt: &FinishedAttempt| Json(attempt.header_names.clone());
    let error = |attempt: &FinishedAttempt| attempt.error.clone();
    let written: Vec<(DeliveryId, i32)> = query_as(include_str!("sql/attempt/record_attempts.sql"))
        .bind(tx.tenant())
        .bind(column(attempts, |attempt| attempt.delivery))
        .bind(column(attempts, |attempt| attempt.cause))
        .bind(column(attempts, |attempt| attempt.fate))
        .bind(column(attempts, |attempt| attempt.started_at))
        .bind(column(attempts, |attempt| milliseconds(attempt.duration)))
        .bind(column(attempts, |attempt| attempt.url.clone()))
        .bind(column(attempts, names))
        .bind(column(attempts, |attempt| {
            attempt.address.map(|ip| ip.to_string())
        }))
        .bind(column(attempts, |attempt| {
            answer(attempt).map(|kept| i32::from(kept.status))
        }))
        .bind(column(attempts, |attempt| {
            answer(attempt).map(|kept| Json(kept.headers))
        }))
        .bind(column(attempts, |attempt| {
            answer(attempt).map(|kept| kept.body)
        }))
        .bind(column(attempts, |attempt| {
            answer(attempt).is_some_and(|kept| kept.is_cut)
        }))
        .bind(column(attempts, |attempt| {
            error(attempt).map(|error| error.code)
        }))
        .bind(column(attempts, |attempt| {
            error(attempt).map(|error| storable(&error.message))
        }))
        .bind(column(attempts, |attempt| attempt.job))
        .fetch_all(&mut **tx)
        .await?;
    Ok(written.into_iter().collect())
}

/// One request made for a delivery.
#[derive(Debug, Clone)]
pub struct DeliveryAttempt {
    /// 1 for the first.
    pub number: u32,
    /// Why it was made.
    pub cause: Cause,
    /// When it was made.
    pub started_at: DateTime<Utc>,
    /// Milliseconds to its end.
    pub duration_ms: u64,
    /// What was sent; `None` of requests that an older release made.
    pub request: Option<SentRequest>,
    /// The address it was connected to.
    pub address: Option<String>,
    /// What the receiver answered, if it did.
    pub status_code: Option<u16>,
    /// Headers of the answer; values that may be secrets are redacted.
    pub response_headers: BTreeMap<String, String>,
    /// The first 16 KiB of the answer.
    pub response_body: Option<String>,
    /// Whether there was more of it.
    pub is_cut: bool,
    /// What went wrong.
    pub error: Option<JobError>,
}

/// What was sent.
#[derive(Debug, Clone)]
pub struct SentRequest {
    /// Where.
    pub url: String,
    /// Headers; signatures and the endpoint's own values are redacted.
    pub headers: BTreeMap<String, String>,
    /// The first 16 KiB of the body; `None` when the payload is not kept any more.
    pub body: Option<String>,
}

/// Bytes of what is said of a failure.
const LONGEST_MESSAGE: usize = 2048;

/// Bytes of a body that are kept or shown.
pub const KEPT_BODY: usize = 16 * 1024;

#[derive(sqlx::FromRow)]
struct Row {
    number: i32,
    cause: Cause,
    started_at: DateTime<Utc>,
    duration_ms: i64,
    url: Option<String>,
    header_names: Option<Vec<String>>,
    address: Option<String>,
    status_code: Option<i32>,
    response_headers: Option<Json<BTreeMap<String, String>>>,
    response_body: Option<String>,
    response_cut: bool,
    error_code: Option<String>,
    error_message: Option<String>,
    event_id: String,
    event_type: String,
    event_at: DateTime<Utc>,
    /// Its beginning.
    data: Option<String>,
}

impl Row {
    fn request(&self) -> Option<SentRequest> {
        let redacted = || "redacted".to_owned();
        let mut headers: BTreeMap<String, String> = self
            .header_names
            .iter()
            .flatten()
            .map(|name| (name.clone(), redacted()))
            .collect();
        headers.insert("content-type".to_owned(), "application/json".to_owned());
        headers.insert("webhook-id".to_owned(), self.event_id.clone());
        let timestamp = self.started_at.timestamp().to_string();
        headers.insert("webhook-timestamp".to_owned(), timestamp);
        headers.insert("webhook-signature".to_owned(), redacted());
        let body = self.data.as_ref().map(|data| {
            let mut body = crate::message::text(&self.event_type, self.event_at, data);
            body.truncate(body.floor_char_boundary(KEPT_BODY));
            body
        });
        self.url
            .clone()
            .map(|url| SentRequest { url, headers, body })
    }
}

/// The latest hundred requests made for a delivery, oldest first; `None` when there is no such delivery.
///
/// # Errors
/// When the database refuses.
pub async fn delivery_attempts(
    tx: &mut TenantTx,
    id: DeliveryId,
) -> Result<Option<Vec<DeliveryAttempt>>, Error> {
    if crate::delivery::delivery(tx, id).await?.is_none() {
        return Ok(None);
    }
    let rows: Vec<Row> = query_as(include_str!("sql/attempt/list_delivery_attempts.sql"))
        .bind(tx.tenant())
        .bind(id)
        .fetch_all(&mut **tx)
        .await?;
    let attempts = rows.into_iter().rev().map(|row| DeliveryAttempt {
        number: u32::try_from(row.number).unwrap_or_default(),
        cause: row.cause,
        started_at: row.started_at,
        duration_ms: u64::try_from(row.duration_ms).unwrap_or_default(),
        request: row.request(),
        address: row.address,
        status_code: row
            .status_code
            .and_then(|status| u16::try_from(status).ok()),
        response_headers: row
            .response_headers
            .map(|headers| headers.0)
            .unwrap_or_default(),
        response_body: row.response_body,
        is_cut: row.response_cut,
        error: row.error_code.map(|code| JobError {
            code,
            message: row.error_message.unwrap_or_default(),
        }),
    });
    Ok(Some(attempts.collect()))
}
