//! Loads what runs of `webhook.deliver` need: the event, the endpoint, the endpoint's keys and credentials.
//!
//! All deliveries of a batch are loaded by four statements. Nothing is written.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use harkara_shared::database::{TenantTx, query_as};
use harkara_shared::egress::ClientIdentity;
use harkara_shared::id::{DeliveryId, EndpointId, JobId};
use harkara_shared::signature::SigningKey;
use harkara_shared::vault::MasterKeys;
use serde_json::value::RawValue;

use crate::credentials::OAuth2;
use crate::delivery::DeliveryState;
use crate::endpoint::EndpointStatus;
use crate::endpoint::{key_context, oauth2_context};
use crate::error::Error;
use crate::schedule::RetrySchedule;
use crate::secret;

/// The data that a run of `webhook.deliver` needs.
#[derive(Debug)]
pub struct DeliveryContext {
    /// The event's id, sent as `webhook-id`.
    pub event_id: String,
    /// The event's type.
    pub event_type: String,
    /// When the event was posted.
    pub event_at: DateTime<Utc>,
    /// The event's data; `None` when it was removed.
    pub data: Option<Box<RawValue>>,
    /// The endpoint; `None` when it was deleted.
    pub target: Option<Arc<Target>>,
    /// State of the delivery.
    pub state: DeliveryState,
    /// The job that makes the delivery. Earlier jobs of the delivery are outdated and must not make it.
    pub job_id: Option<JobId>,
}

/// An endpoint with everything that a request needs.
#[derive(Debug)]
pub struct Target {
    /// `ep_…`
    pub id: EndpointId,
    /// URL to post to.
    pub url: String,
    /// Custom headers.
    pub headers: BTreeMap<String, String>,
    /// Whether events are delivered.
    pub status: EndpointStatus,
    /// Waits between attempts.
    pub schedule: RetrySchedule,
    /// Signing keys, current ones first.
    pub keys: Vec<SigningKey>,
    /// Client certificate for mutual TLS.
    pub identity: Option<ClientIdentity>,
    /// OAuth 2.0 client, if the endpoint requires access tokens.
    pub oauth2: Option<Credentials>,
    /// Time of the last change by a user.
    pub updated_at: DateTime<Utc>,
}

/// An OAuth 2.0 client with its secret.
#[derive(Clone)]
pub struct Credentials {
    /// The client without its secret.
    pub oauth2: OAuth2,
    /// The client secret.
    pub secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("oauth2", &self.oauth2)
            .finish_non_exhaustive()
    }
}

#[derive(sqlx::FromRow)]
struct ContextRow {
    id: DeliveryId,
    event_id: String,
    event_type: String,
    event_at: DateTime<Utc>,
    data: Option<String>,
    endpoint_id: EndpointId,
    state: DeliveryState,
    job_id: Option<JobId>,
}

#[derive(sqlx::FromRow)]
struct TargetRow {
    id: EndpointId,
    url: String,
    #[sqlx(json)]
    headers: BTreeMap<String, String>,
    status: EndpointStatus,
    retry_delays: Vec<i32>,
    client_certificate: Option<String>,
    client_key: Option<Vec<u8>>,
    #[sqlx(json(nullable))]
    oauth2: Option<OAuth2>,
    oauth2_secret: Option<Vec<u8>>,
    updated_at: DateTime<Utc>,
}

/// Loads the context of each delivery, in order; `None` for a delivery that does not exist.
pub(super) async fn load_contexts(
    tx: &mut TenantTx,
    keys: &MasterKeys,
    ids: &[DeliveryId],
) -> Result<Vec<Option<DeliveryContext>>, Error> {
    let rows: Vec<ContextRow> = query_as(include_str!(
        "sql/delivery_context/get_delivery_contexts.sql"
    ))
    .bind(tx.tenant())
    .bind(ids)
    .fetch_all(&mut **tx)
    .await?;
    let mut endpoints: Vec<EndpointId> = rows.iter().map(|row| row.endpoint_id).collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    let targets = targets(tx, keys, &endpoints).await?;
    let mut contexts: HashMap<DeliveryId, DeliveryContext> = HashMap::with_capacity(rows.len());
    for row in rows {
        let id = row.id;
        let data = row.data.map(RawValue::from_string).transpose();
        let context = DeliveryContext {
            event_id: row.event_id,
            event_type: row.event_type,
            event_at: row.event_at,
            data: data.map_err(|_| Error::Corrupt(format!("the event of {id}")))?,
            target: targets.get(&row.endpoint_id).cloned(),
            state: row.state,
            job_id: row.job_id,
        };
        contexts.insert(id, context);
    }
    Ok(ids.iter().map(|id| contexts.remove(id)).collect())
}

async fn targets(
    tx: &mut TenantTx,
    keys: &MasterKeys,
    ids: &[EndpointId],
) -> Result<HashMap<EndpointId, Arc<Target>>, Error> {
    let rows: Vec<TargetRow> = query_as(include_str!("sql/delivery_context/get_targets.sql"))
        .bind(tx.tenant())
        .bind(ids)
        .fetch_all(&mut **tx)
        .await?;
    let mut signing = secret::signing_keys(tx, keys, ids).await?;
    let mut targets = HashMap::with_capacity(rows.len());
    for row in rows {
        let id = row.id;
        let identity = match (row.client_certificate, row.client_key) {
            (Some(certificate), Some(sealed)) => {
                let key = open_text(keys, &sealed, &key_context(id), id)?;
                let identity = ClientIdentity::parse(&certificate, &key);
                Some(identity.map_err(|_| Error::Corrupt(format!("the certificate of {id}")))?)
            }
            _ => None,
        };
        let oauth2 = match (row.oauth2, row.oauth2_secret) {
            (Some(oauth2), Some(sealed)) => Some(Credentials {
                oauth2,
                secret: open_text(keys, &sealed, &oauth2_context(id), id)?,
            }),
            _ => None,
        };
        let target = Target {
            id,
            url: row.url,
            headers: row.headers,
            status: row.status,
            schedule: RetrySchedule::from_seconds(&row.retry_delays),
            keys: signing.remove(&id).unwrap_or_default(),
            identity,
            oauth2,
            updated_at: row.updated_at,
        };
        targets.insert(id, Arc::new(target));
    }
    Ok(targets)
}

fn open_text(
    keys: &MasterKeys,
    sealed: &[u8],
    context: &str,
    id: EndpointId,
) -> Result<String, Error> {
    String::from_utf8(keys.open(sealed, context)?)
        .map_err(|_| Error::Corrupt(format!("a secret of {id}")))
}
