//! Creates, finds, lists, changes and deletes webhook endpoints.
//!
//! Secrets are stored sealed and never returned from here, except once at creation.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use harkara_kind::FieldError;
use harkara_queue::Engine;
use harkara_queue::settings::Change;
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::egress::Egress;
use harkara_shared::id::{EndpointId, JobId};
use harkara_shared::signature::WebhookSecret;
use harkara_shared::vault::MasterKeys;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;

use crate::credentials::{ClientCertificate, NewOAuth2, OAuth2};
use crate::error::Error;
use crate::schedule::RetrySchedule;
use crate::{rules, secret};

/// `last_alert_step` of an endpoint that was alerted about and has been re-enabled since: above 0, so that its recovery is
/// still reported, and below the first alert step, 50, so that the alert steps restart.
pub(super) const REENABLED_ALERT_STEP: i32 = 1;

/// Status of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum EndpointStatus {
    /// Events are delivered.
    Active,
    /// Deliveries wait until the endpoint is active again.
    Paused,
    /// Deliveries are skipped.
    Disabled,
}

/// Order in which an endpoint receives its events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Ordering {
    /// No order; many requests at once.
    #[default]
    None,
    /// One request at a time for each ordering key, in the order the events were posted. A failing delivery holds up
    /// its key.
    Fifo,
}

/// A URL that events are delivered to, with its settings.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Endpoint {
    /// `ep_…`
    pub id: EndpointId,
    /// Where events are posted.
    pub url: String,
    /// Description for users.
    pub description: Option<String>,
    /// Patterns of event types that the endpoint subscribes to; empty for all.
    pub event_types: Vec<String>,
    /// Channels that the endpoint subscribes to: an event must have one of them; empty for all events.
    pub channels: Vec<String>,
    /// Custom request headers.
    #[sqlx(json)]
    pub headers: BTreeMap<String, String>,
    /// Whether events are delivered.
    pub status: EndpointStatus,
    /// Why the platform disabled the endpoint; `None` otherwise.
    pub disabled_reason: Option<String>,
    /// Order of deliveries.
    pub ordering: Ordering,
    retry_delays: Vec<i32>,
    rate_per_second: Option<i32>,
    max_in_flight: Option<i32>,
    slowed_to: Option<i32>,
    /// Time of the first failure since the last success; `None` if the last attempt succeeded.
    pub failing_since: Option<DateTime<Utc>>,
    #[sqlx(try_from = "i32")]
    failures: u32,
    /// Public key of the endpoint's `v1a` signatures, if it has such a key.
    pub public_key: Option<String>,
    /// Client certificate chain for mutual TLS, as PEM.
    pub client_certificate: Option<String>,
    /// OAuth 2.0 client that obtains the access tokens for requests to the endpoint.
    #[sqlx(json(nullable))]
    pub oauth2: Option<OAuth2>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

impl Endpoint {
    /// Waits between attempts of a failing delivery.
    #[must_use]
    pub fn retry_schedule(&self) -> RetrySchedule {
        RetrySchedule::from_seconds(&self.retry_delays)
    }

    /// Maximum number of requests a second.
    #[must_use]
    pub fn rate_per_second(&self) -> Option<u32> {
        non_negative(self.rate_per_second)
    }

    /// Maximum number of concurrent requests.
    #[must_use]
    pub fn max_in_flight(&self) -> Option<u32> {
        non_negative(self.max_in_flight)
    }

    /// Temporarily lowered number of requests a second, after a 429 or 503 response.
    #[must_use]
    pub fn slowed_to(&self) -> Option<u32> {
        non_negative(self.slowed_to)
    }

    /// Failed attempts since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

pub(super) fn non_negative(number: Option<i32>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

/// An endpoint to create.
#[derive(Debug, Clone, Default)]
pub struct NewEndpoint {
    /// Where events are posted.
    pub url: String,
    /// All other settings; `None` for the default.
    pub rest: EndpointChange,
    /// An existing secret, to migrate from another system; `None` generates one.
    pub secret: Option<WebhookSecret>,
}

impl NewEndpoint {
    /// All errors in the settings.
    #[must_use]
    pub fn check(&self, egress: &Egress) -> Vec<FieldError> {
        let mut errors = rules::url_errors("/url", &self.url, egress);
        errors.extend(self.rest.check(egress));
        errors
    }
}

/// A change of an endpoint. Members that are `None` keep their value.
#[derive(Debug, Clone, Default)]
pub struct EndpointChange {
    /// New URL.
    pub url: Option<String>,
    /// New description.
    pub description: Change<String>,
    /// New patterns.
    pub event_types: Option<Vec<String>>,
    /// New channels.
    pub channels: Option<Vec<String>>,
    /// New headers, which replace all old ones.
    pub headers: Option<BTreeMap<String, String>>,
    /// New status.
    pub status: Option<EndpointStatus>,
    /// New order, for events posted from now on.
    pub ordering: Option<Ordering>,
    /// New schedule.
    pub retry_schedule: Option<RetrySchedule>,
    /// New rate.
    pub rate_per_second: Change<u32>,
    /// New maximum number of concurrent requests.
    pub max_in_flight: Change<u32>,
    /// New certificate.
    pub client_certificate: Change<ClientCertificate>,
    /// New OAuth 2.0 client.
    pub oauth2: Change<NewOAuth2>,
}

impl EndpointChange {
    /// All errors in the settings.
    #[must_use]
    pub fn check(&self, egress: &Egress) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(url) = &self.url {
            errors.extend(rules::url_errors("/url", url, egress));
        }
        if let Change::Set(description) = &self.description {
            errors.extend(rules::description_errors(description));
        }
        if let Some(types) = &self.event_types {
            errors.extend(rules::type_errors(types));
        }
        if let Some(channels) = &self.channels {
            errors.extend(rules::channel_errors(channels));
        }
        if let Some(headers) = &self.headers {
            errors.extend(rules::endpoint_header_errors(headers));
        }
        for (name, limit) in [
            ("rate_per_second", self.rate_per_second),
            ("max_in_flight", self.max_in_flight),
        ] {
            if let Change::Set(limit) = limit {
                errors.extend(rules::limit_errors(name, limit));
            }
        }
        if let Change::Set(certificate) = &self.client_certificate {
            errors.extend(rules::certificate_errors(certificate));
        }
        if let Change::Set(oauth2) = &self.oauth2 {
            errors.extend(rules::oauth2_errors(oauth2, egress));
        }
        errors
    }
}

/// Associated data of an endpoint's sealed client key.
pub(super) fn key_context(id: EndpointId) -> String {
    format!("app.webhook_endpoints/{id}/key")
}

/// Associated data of an endpoint's sealed OAuth 2.0 client secret.
pub(super) fn oauth2_context(id: EndpointId) -> String {
    format!("app.webhook_endpoints/{id}/oauth2")
}

/// Creates an endpoint and its signing secret.
///
/// # Errors
/// When the database refuses or the secret cannot be sealed.
pub async fn create_endpoint(
    tx: &mut TenantTx,
    keys: &MasterKeys,
    new: NewEndpoint,
) -> Result<(Endpoint, WebhookSecret), Error> {
    let id = EndpointId::new();
    query(include_str!("sql/endpoint/create_endpoint.sql"))
        .bind(tx.tenant())
        .bind(id)
        .bind(&new.url)
        .execute(&mut **tx)
        .await?;
    let key = new.secret.unwrap_or_else(WebhookSecret::generate);
    secret::add(tx, keys, id, &key.clone().into()).await?;
    let endpoint = write(tx, keys, id, new.rest).await?;
    let endpoint = endpoint.ok_or_else(|| Error::Corrupt(format!("the row of {id}")))?;
    Ok((endpoint, key))
}

/// Finds an endpoint.
///
/// # Errors
/// When the database refuses.
pub async fn find_endpoint(tx: &mut TenantTx, id: EndpointId) -> Result<Option<Endpoint>, Error> {
    Ok(query_as(include_str!("sql/endpoint/get_endpoint.sql"))
        .bind(tx.tenant())
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?)
}

/// Lists at most `limit` endpoints, newest first, older than `before`.
///
/// # Errors
/// When the database refuses.
pub async fn list_endpoints(
    tx: &mut TenantTx,
    before: Option<EndpointId>,
    limit: u32,
) -> Result<Vec<Endpoint>, Error> {
    Ok(query_as(include_str!("sql/endpoint/list_endpoints.sql"))
        .bind(tx.tenant())
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?)
}

/// Changes an endpoint and returns its new state. Activating it runs its waiting deliveries now and resets its failures;
/// disabling it skips its waiting deliveries.
///
/// # Errors
/// When the database refuses or a secret cannot be sealed.
pub async fn change_endpoint(
    tx: &mut TenantTx,
    engine: &Engine,
    keys: &MasterKeys,
    id: EndpointId,
    change: EndpointChange,
) -> Result<Option<Endpoint>, Error> {
    let before: Option<EndpointStatus> = query_scalar(
        "select status from app.webhook_endpoints where tenant_id = $1 and id = $2 for update",
    )
    .bind(tx.tenant())
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    let changed = write(tx, keys, id, change).await?;
    if let (Some(before), Some(changed)) = (before, &changed)
        && before != changed.status
        && changed.status != EndpointStatus::Paused
    {
        run_now(tx, engine, id).await?;
    }
    Ok(changed)
}

/// Runs the waiting jobs of an endpoint now. They deliver or skip, depending on its status.
pub(super) async fn run_now(
    tx: &mut TenantTx,
    engine: &Engine,
    id: EndpointId,
) -> Result<(), Error> {
    let waiting: Vec<JobId> = query_scalar(include_str!("sql/endpoint/list_waiting_jobs.sql"))
        .bind(tx.tenant())
        .bind(id)
        .fetch_all(&mut **tx)
        .await?;
    engine.run_now(tx, &waiting).await?;
    Ok(())
}

async fn write(
    tx: &mut TenantTx,
    keys: &MasterKeys,
    id: EndpointId,
    change: EndpointChange,
) -> Result<Option<Endpoint>, Error> {
    let is_set = (
        !change.description.is_keep(),
        !change.client_certificate.is_keep(),
        !change.oauth2.is_keep(),
    );
    let certificate = change.client_certificate.value();
    let key = certificate
        .as_ref()
        .map(|certificate| keys.seal(certificate.private_key.as_bytes(), &key_context(id)))
        .transpose()?;
    let oauth2 = change.oauth2.value();
    let secret = oauth2
        .as_ref()
        .map(|oauth2| keys.seal(oauth2.client_secret.as_bytes(), &oauth2_context(id)))
        .transpose()?;
    let oauth2 = oauth2.map(|oauth2| {
        Json(OAuth2 {
            token_url: oauth2.token_url,
            client_id: oauth2.client_id,
            scope: oauth2.scope,
            audience: oauth2.audience,
        })
    });
    let limit = |change: Change<u32>| change.value().and_then(|limit| i32::try_from(limit).ok());
    Ok(query_as(include_str!("sql/endpoint/change_endpoint.sql"))
        .bind(tx.tenant())
        .bind(id)
        .bind(change.url)
        .bind(change.event_types)
        .bind(change.headers.map(Json))
        .bind(change.status)
        .bind(change.channels)
        .bind(change.ordering)
        .bind(change.retry_schedule.map(|schedule| schedule.seconds()))
        .bind(is_set.0)
        .bind(change.description.value())
        .bind(!change.rate_per_second.is_keep())
        .bind(limit(change.rate_per_second))
        .bind(!change.max_in_flight.is_keep())
        .bind(limit(change.max_in_flight))
        .bind(is_set.1)
        .bind(certificate.map(|certificate| certificate.certificate))
        .bind(key)
        .bind(is_set.2)
        .bind(oauth2)
        .bind(secret)
        .bind(REENABLED_ALERT_STEP)
        .fetch_optional(&mut **tx)
        .await?)
}

/// Deletes an endpoint and its secrets. Its deliveries are kept; waiting ones are skipped. Returns whether it existed.
///
/// # Errors
/// When the database refuses.
pub async fn delete_endpoint(
    tx: &mut TenantTx,
    engine: &Engine,
    id: EndpointId,
) -> Result<bool, Error> {
    let deleted = query("delete from app.webhook_endpoints where tenant_id = $1 and id = $2")
        .bind(tx.tenant())
        .bind(id)
        .execute(&mut **tx)
        .await?;
    if deleted.rows_affected() == 0 {
        return Ok(false);
    }
    run_now(tx, engine, id).await?;
    Ok(true)
}
