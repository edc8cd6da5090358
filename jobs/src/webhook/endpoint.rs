//! Room: webhook endpoints and their secrets.
//! Takes: a tenant's transaction. Gives: endpoints; a secret in the clear only to who may see it.
//! Never: stores a secret unsealed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use harkara_queue::Engine;
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::egress::Egress;
use harkara_shared::id::{EndpointId, JobId};
use harkara_shared::signature::{SigningKey, WebhookSecret};
use harkara_shared::vault::MasterKeys;
use serde::{Deserialize, Serialize};
use sqlx::types::{Json, Uuid};

use super::Error;
use crate::fault::Fault;
use crate::kinds::http_request::header_faults;

/// Most event-type patterns of one endpoint.
const MAX_PATTERNS: usize = 100;
/// Most headers of one endpoint.
const MAX_HEADERS: usize = 20;

/// Whether an endpoint is delivered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum EndpointStatus {
    /// Delivered to.
    Active,
    /// Deliveries wait.
    Paused,
    /// Deliveries are skipped.
    Disabled,
}

/// An address that events are delivered to.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Endpoint {
    /// Id.
    pub id: EndpointId,
    /// Where events are posted.
    pub url: String,
    /// Patterns of the event types it takes; empty for all.
    pub event_types: Vec<String>,
    /// Headers sent along.
    #[sqlx(json)]
    pub headers: BTreeMap<String, String>,
    /// Whether it is delivered to.
    pub status: EndpointStatus,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// An endpoint that is wanted.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// Where events are posted.
    pub url: String,
    /// Patterns of the event types it takes; empty for all.
    pub event_types: Vec<String>,
    /// Headers sent along.
    pub headers: BTreeMap<String, String>,
}

impl NewEndpoint {
    /// Everything wrong with it.
    #[must_use]
    pub fn check(&self, egress: &Egress) -> Vec<Fault> {
        let mut faults = url_faults(&self.url, egress);
        faults.extend(type_faults(&self.event_types));
        faults.extend(endpoint_header_faults(&self.headers));
        faults
    }
}

/// A change of an endpoint; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct EndpointChange {
    /// New address.
    pub url: Option<String>,
    /// New patterns.
    pub event_types: Option<Vec<String>>,
    /// New headers, in place of all old ones.
    pub headers: Option<BTreeMap<String, String>>,
    /// New status.
    pub status: Option<EndpointStatus>,
}

impl EndpointChange {
    /// Everything wrong with it.
    #[must_use]
    pub fn check(&self, egress: &Egress) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Some(url) = &self.url {
            faults.extend(url_faults(url, egress));
        }
        if let Some(types) = &self.event_types {
            faults.extend(type_faults(types));
        }
        if let Some(headers) = &self.headers {
            faults.extend(endpoint_header_faults(headers));
        }
        faults
    }
}

fn url_faults(url: &str, egress: &Egress) -> Vec<Fault> {
    if url.len() > 2048 {
        return vec![Fault::new(
            "/url",
            "too_long",
            "must be at most 2048 bytes long",
        )];
    }
    match egress.check(url) {
        Ok(()) => Vec::new(),
        Err(error) => vec![Fault::new("/url", error.code(), error.to_string())],
    }
}

fn type_faults(patterns: &[String]) -> Vec<Fault> {
    let mut faults = Vec::new();
    if patterns.len() > MAX_PATTERNS {
        faults.push(Fault::new(
            "/event_types",
            "too_many",
            format!("at most {MAX_PATTERNS}"),
        ));
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let name = pattern.strip_suffix(".*").unwrap_or(pattern);
        if pattern != "*" && !is_event_type(name) {
            faults.push(Fault::new(
                format!("/event_types/{index}"),
                "invalid",
                "must be an event type such as `invoice.paid`, a pattern such as `invoice.*`, or `*`",
            ));
        }
    }
    faults
}

fn endpoint_header_faults(headers: &BTreeMap<String, String>) -> Vec<Fault> {
    let mut faults = header_faults(headers, &["webhook-", "content-type"]);
    if headers.len() > MAX_HEADERS {
        faults.push(Fault::new(
            "/headers",
            "too_many",
            format!("at most {MAX_HEADERS}"),
        ));
    }
    faults
}

/// Whether this is an event type: segments of letters, digits and `_`, joined by dots (Standard
/// Webhooks 1.0.0, event types).
pub(super) fn is_event_type(name: &str) -> bool {
    name.len() <= 128
        && name.split('.').all(|segment| {
            !segment.is_empty()
                && segment
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '_')
        })
}

/// Whether an endpoint with these patterns takes events of this type.
pub(super) fn takes(patterns: &[String], event_type: &str) -> bool {
    patterns.is_empty()
        || patterns
            .iter()
            .any(|pattern| match pattern.strip_suffix(".*") {
                _ if pattern == "*" => true,
                Some(prefix) => event_type
                    .strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with('.')),
                None => pattern == event_type,
            })
}

fn sealing_context(id: EndpointId) -> String {
    format!("app.endpoint_secrets/{id}")
}

/// Makes an endpoint with a secret of its own.
///
/// # Errors
/// When the database refuses or the secret cannot be sealed.
pub async fn create_endpoint(
    tx: &mut TenantTx,
    keys: &MasterKeys,
    new: NewEndpoint,
) -> Result<(Endpoint, WebhookSecret), Error> {
    let (id, secret) = (EndpointId::new(), WebhookSecret::generate());
    let sealed = keys.seal(secret.expose().as_bytes(), &sealing_context(id))?;
    let endpoint = query_as(include_str!("../sql/create_endpoint.sql"))
        .bind(tx.tenant())
        .bind(id)
        .bind(&new.url)
        .bind(&new.event_types)
        .bind(Json(&new.headers))
        .fetch_one(&mut **tx)
        .await?;
    query(include_str!("../sql/create_endpoint_secret.sql"))
        .bind(tx.tenant())
        .bind(id)
        .bind(Uuid::now_v7())
        .bind(&sealed)
        .execute(&mut **tx)
        .await?;
    Ok((endpoint, secret))
}

/// One endpoint.
///
/// # Errors
/// When the database refuses.
pub async fn endpoint(tx: &mut TenantTx, id: EndpointId) -> Result<Option<Endpoint>, Error> {
    Ok(query_as(include_str!("../sql/get_endpoint.sql"))
        .bind(tx.tenant())
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?)
}

/// At most `limit` endpoints, newest first, older than `before`.
///
/// # Errors
/// When the database refuses.
pub async fn list_endpoints(
    tx: &mut TenantTx,
    before: Option<EndpointId>,
    limit: u32,
) -> Result<Vec<Endpoint>, Error> {
    Ok(query_as(include_str!("../sql/list_endpoints.sql"))
        .bind(tx.tenant())
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?)
}

/// Changes an endpoint and answers it as it is now. One that is made active again has its waiting
/// deliveries made at once.
///
/// # Errors
/// When the database refuses.
pub async fn change_endpoint(
    tx: &mut TenantTx,
    engine: &Engine,
    id: EndpointId,
    change: EndpointChange,
) -> Result<Option<Endpoint>, Error> {
    let Some(before) = endpoint(tx, id).await? else {
        return Ok(None);
    };
    let changed: Option<Endpoint> = query_as(include_str!("../sql/change_endpoint.sql"))
        .bind(tx.tenant())
        .bind(id)
        .bind(change.url)
        .bind(change.event_types)
        .bind(change.headers.map(Json))
        .bind(change.status)
        .fetch_optional(&mut **tx)
        .await?;
    let goes_on = before.status != EndpointStatus::Active
        && changed
            .as_ref()
            .is_some_and(|endpoint| endpoint.status == EndpointStatus::Active);
    if goes_on {
        let waiting: Vec<JobId> = query_scalar(include_str!("../sql/list_waiting_jobs.sql"))
            .bind(tx.tenant())
            .bind(id)
            .fetch_all(&mut **tx)
            .await?;
        engine.hasten(tx, &waiting).await?;
    }
    Ok(changed)
}

/// Deletes an endpoint and its secrets; its deliveries stay, and those still waiting are skipped.
/// Answers whether there was one.
///
/// # Errors
/// When the database refuses.
pub async fn delete_endpoint(tx: &mut TenantTx, id: EndpointId) -> Result<bool, Error> {
    let deleted = query("delete from app.webhook_endpoints where tenant_id = $1 and id = $2")
        .bind(tx.tenant())
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(deleted.rows_affected() > 0)
}

/// The endpoint's current secret.
///
/// # Errors
/// When the database refuses or the master key that sealed the secret is missing.
pub async fn endpoint_secret(
    tx: &mut TenantTx,
    keys: &MasterKeys,
    id: EndpointId,
) -> Result<Option<SigningKey>, Error> {
    Ok(secrets(tx, keys, id).await?.into_iter().next())
}

/// The secrets to sign with, the current one first.
pub(super) async fn secrets(
    tx: &mut TenantTx,
    keys: &MasterKeys,
    id: EndpointId,
) -> Result<Vec<SigningKey>, Error> {
    let sealed: Vec<Vec<u8>> = query_scalar(include_str!("../sql/list_endpoint_secrets.sql"))
        .bind(tx.tenant())
        .bind(id)
        .fetch_all(&mut **tx)
        .await?;
    sealed
        .into_iter()
        .map(|sealed| {
            let text = keys.open(&sealed, &sealing_context(id))?;
            std::str::from_utf8(&text)
                .ok()
                .and_then(|text| SigningKey::parse(text).ok())
                .ok_or_else(|| Error::Corrupt(format!("the secret of {id}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_its_type_or_everything_below_its_prefix() {
        let takes = |pattern: &str, name: &str| takes(&[pattern.to_owned()], name);
        assert!(takes("invoice.paid", "invoice.paid"));
        assert!(!takes("invoice.paid", "invoice.paid.late"));
        assert!(takes("invoice.*", "invoice.paid"));
        assert!(takes("invoice.*", "invoice.paid.late"));
        assert!(!takes("invoice.*", "invoice"));
        assert!(!takes("invoice.*", "invoices.paid"));
        assert!(takes("*", "anything"));
        assert!(super::takes(&[], "anything"));
    }

    #[test]
    fn an_event_type_is_made_of_plain_segments() {
        for name in ["a", "invoice.paid", "A_1.b.c"] {
            assert!(is_event_type(name), "{name}");
        }
        for name in ["", ".", "a.", ".a", "a..b", "a b", "ä", "invoice.*"] {
            assert!(!is_event_type(name), "{name}");
        }
    }
}
