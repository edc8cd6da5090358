//! Records and lists the requests made for deliveries.
//!
//! Attempts of one tenant are written in one statement. Bodies are cut to a bound, and header values that may
//! be secrets are redacted.

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
pub enum Trigger {
    /// An event was posted.
    #[default]
    Event,
    /// The delivery was requested manually.
    Manual,
    /// The endpoint is being recovered.
    Recovery,
    /// The endpoint is being tested.
    Test,
}

impl Trigger {
    /// Whether the delivery follows the endpoint's retry schedule; its failure is then reported by an event.
    #[must_use]
    pub fn is_scheduled(self) -> bool {
        matches!(self, Self::Event | Self::Recovery)
    }
}

/// A request that was made for a delivery, to be recorded.
#[derive(Debug, Clone)]
pub struct FinishedAttempt {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The job that made the request.
    pub job: JobId,
    /// The endpoint that was called.
    pub endpoint: EndpointId,
    /// Why the delivery is made.
    pub trigger: Trigger,
    /// Final state of the delivery, if this run decides it; `None` while the delivery can be retried.
    pub delivery_outcome: Option<DeliveryState>,
    /// When the request began.
    pub started_at: DateTime<Utc>,
    /// Time to the end of the response, or to the failure.
    pub duration: Duration,
    /// The URL that was called.
    pub url: String,
    /// Names of the endpoint's custom headers. Their values are not recorded.
    pub header_names: Vec<String>,
    /// The address of the receiver, if a connection was made.
    pub address: Option<std::net::IpAddr>,
    /// The response; `None` if none arrived.
    pub response: Option<StoredResponse>,
    /// Why the attempt failed; `None` for a success.
    pub error: Option<JobError>,
    /// The change of the endpoint that the response calls for.
    pub action: EndpointAction,
    /// The event, for operational events about a failure.
    pub event: AttemptedEvent,
}

/// A change of the endpoint that its response calls for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointAction {
    /// The reason to disable the endpoint; `None` leaves it as it is.
    pub disable_reason: Option<&'static str>,
    /// Lower the endpoint's rate.
    pub slow_down: bool,
}

/// The event that an attempt sent.
#[derive(Debug, Clone)]
pub struct AttemptedEvent {
    /// The event's id.
    pub id: String,
    /// The event's type.
    pub event_type: String,
    /// The event's data, unless it is large.
    pub data: Option<String>,
}

/// The part of a response that is stored.
#[derive(Debug, Clone)]
pub struct StoredResponse {
    /// HTTP status.
    pub status: u16,
    /// Headers. Values that may be secrets are redacted.
    pub headers: BTreeMap<String, String>,
    /// The first 16 KiB of the body.
    pub body: String,
    /// Whether the body was longer than the stored part.
    pub is_body_truncated: bool,
}

impl FinishedAttempt {
    /// Whether the receiver accepted the event.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.error.is_none()
    }
}

/// An error message as the database stores it: without NUL, cut to [`MAX_MESSAGE_BYTES`].
fn storable(text: &str) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(MAX_MESSAGE_BYTES));
    text
}

/// Records attempts, each of a different delivery, and updates the deliveries. Returns the number of each recorded
/// attempt by delivery. An attempt is not recorded, and has no number, when its delivery no longer exists.
pub(super) async fn record(
    tx: &mut TenantTx,
    attempts: &[FinishedAttempt],
) -> Result<HashMap<DeliveryId, i32>, Error> {
    fn column<'a, T: 'a>(
        attempts: &'a [FinishedAttempt],
        value_of: impl Fn(&'a FinishedAttempt) -> T,
    ) -> Vec<T> {
        attempts.iter().map(value_of).collect()
    }
    fn response<'a, T: 'a>(
        attempts: &'a [FinishedAttempt],
        value_of: impl Fn(&'a StoredResponse) -> T,
    ) -> Vec<Option<T>> {
        column(attempts, |attempt| attempt.response.as_ref().map(&value_of))
    }
    fn error<'a, T: 'a>(
        attempts: &'a [FinishedAttempt],
        value_of: impl Fn(&'a JobError) -> T,
    ) -> Vec<Option<T>> {
        column(attempts, |attempt| attempt.error.as_ref().map(&value_of))
    }
    let written: Vec<(DeliveryId, i32)> = query_as(include_str!("sql/attempt/record_attempts.sql"))
        .bind(tx.tenant())
        .bind(column(attempts, |attempt| attempt.delivery))
        .bind(column(attempts, |attempt| attempt.trigger))
        .bind(column(attempts, |attempt| attempt.delivery_outcome))
        .bind(column(attempts, |attempt| attempt.started_at))
        .bind(column(attempts, |attempt| milliseconds(attempt.duration)))
        .bind(column(attempts, |attempt| attempt.url.as_str()))
        // As JSON: PostgreSQL arrays cannot hold lists of different lengths.
        .bind(column(attempts, |attempt| Json(&attempt.header_names)))
        .bind(column(attempts, |attempt| {
            attempt.address.map(|address| address.to_string())
        }))
        .bind(response(attempts, |response| i32::from(response.status)))
        .bind(response(attempts, |response| Json(&response.headers)))
        .bind(response(attempts, |response| response.body.as_str()))
        .bind(column(attempts, |attempt| {
            attempt
                .response
                .as_ref()
                .is_some_and(|response| response.is_body_truncated)
        }))
        .bind(error(attempts, |error| error.code.as_str()))
        .bind(error(attempts, |error| storable(&error.message)))
        .bind(column(attempts, |attempt| attempt.job))
        .fetch_all(&mut **tx)
        .await?;
    Ok(written.into_iter().collect())
}

/// A recorded attempt of a delivery.
#[derive(Debug, Clone)]
pub struct DeliveryAttempt {
    /// Number of the attempt, from 1.
    pub number: u32,
    /// Why the request was made.
    pub trigger: Trigger,
    /// When the request began.
    pub started_at: DateTime<Utc>,
    /// Duration in milliseconds.
    pub duration_ms: u64,
    /// The request; `None` for requests of older releases.
    pub request: Option<SentRequest>,
    /// Address of the receiver.
    pub address: Option<String>,
    /// Status of the response, if there was one.
    pub status_code: Option<u16>,
    /// Headers of the response. Values that may be secrets are redacted.
    pub response_headers: BTreeMap<String, String>,
    /// The first 16 KiB of the response body.
    pub response_body: Option<String>,
    /// Whether the response body was longer than the stored part.
    pub is_body_truncated: bool,
    /// Why the attempt failed; `None` for a success.
    pub error: Option<JobError>,
}

/// A request as it was sent.
#[derive(Debug, Clone)]
pub struct SentRequest {
    /// The URL.
    pub url: String,
    /// Headers. Signatures and the values of custom headers are redacted.
    pub headers: BTreeMap<String, String>,
    /// The first 16 KiB of the body; `None` when the payload was removed.
    pub body: Option<String>,
}

/// Maximum length of a stored error message.
const MAX_MESSAGE_BYTES: usize = 2048;

/// Maximum length of a stored response body, and of a request body in a listing.
pub const MAX_STORED_BODY_BYTES: usize = 16 * 1024;

#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(try_from = "i32")]
    number: u32,
    #[sqlx(rename = "cause")]
    trigger: Trigger,
    started_at: DateTime<Utc>,
    #[sqlx(try_from = "i64")]
    duration_ms: u64,
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
    /// The first 16 KiB of the event's data; `None` when the payload was removed.
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
            let mut body = crate::message::body(&self.event_type, self.event_at, data);
            body.truncate(body.floor_char_boundary(MAX_STORED_BODY_BYTES));
            body
        });
        self.url
            .clone()
            .map(|url| SentRequest { url, headers, body })
    }
}

/// The latest hundred requests made for a delivery, oldest first; `None` when the delivery does not exist.
///
/// # Errors
/// When the database refuses.
pub async fn delivery_attempts(
    tx: &mut TenantTx,
    id: DeliveryId,
) -> Result<Option<Vec<DeliveryAttempt>>, Error> {
    if crate::delivery::find_delivery(tx, id).await?.is_none() {
        return Ok(None);
    }
    let rows: Vec<Row> = query_as(include_str!("sql/attempt/list_delivery_attempts.sql"))
        .bind(tx.tenant())
        .bind(id)
        .fetch_all(&mut **tx)
        .await?;
    let attempts = rows.into_iter().rev().map(|row| DeliveryAttempt {
        number: row.number,
        trigger: row.trigger,
        started_at: row.started_at,
        duration_ms: row.duration_ms,
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
        is_body_truncated: row.response_cut,
        error: row.error_code.map(|code| JobError {
            code,
            message: row.error_message.unwrap_or_default(),
        }),
    });
    Ok(Some(attempts.collect()))
}
