//! Registered event types: their descriptions, and the schemas that event data must satisfy.
//!
//! A version never changes once it exists.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_kind::FieldError;
use harkara_shared::database::{TenantTx, query_as, query_scalar};
use harkara_shared::id::TenantId;
use harkara_shared::json::message;
use moka::future::Cache;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;

use crate::error::Error;
use crate::schema::Schema;
use crate::subscription::{is_event_type, is_operational};

/// Bytes of a schema, and of an example, as JSON.
const MAX_BYTES: usize = 64 << 10;

/// Characters of a description.
const MAX_DESCRIPTION: usize = 1000;

/// How long this process may take a version for the current one after another process has made a new one.
const STALE: Duration = Duration::from_secs(5);

/// How many names are remembered with their current versions.
const REMEMBERED: u64 = 10_000;

/// What the schemas that are kept ready weigh together. A value takes about 1 KiB, a regular
/// expression up to 128.
const READY: u64 = 50_000;

/// The current version by tenant and name; `None` for a name that is not registered.
static CURRENT: LazyLock<Cache<(TenantId, String), Option<u32>>> = LazyLock::new(|| {
    Cache::builder()
        .max_capacity(REMEMBERED)
        .time_to_live(STALE)
        .build()
});

/// What a version takes; `None` when that is anything.
type Ready = Option<Arc<Schema>>;

/// Versions never change, so that these are good for ever.
static SCHEMAS: LazyLock<Cache<(TenantId, String, u32), Ready>> = LazyLock::new(|| {
    Cache::builder()
        .max_capacity(READY)
        .weigher(|_, schema: &Ready| {
            let weight = schema.as_ref().map_or(1, |schema| schema.weight());
            u32::try_from(weight).unwrap_or(u32::MAX)
        })
        .build()
});

/// A type of events, in one of its versions.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct EventType {
    /// Its name, such as `invoice.paid`.
    pub name: String,
    /// From 1, without gaps.
    #[sqlx(try_from = "i32")]
    pub version: u32,
    /// What it tells; empty when nobody said.
    pub description: String,
    /// JSON Schema (draft 2020-12) of the data; `None` when any will do.
    pub schema: Option<Value>,
    /// Data of such an event.
    pub example: Option<Value>,
    /// Whether it comes with the platform.
    pub seeded: bool,
    /// Whether the platform itself tells of it, and no application.
    pub operational: bool,
    /// When this version was made.
    pub created_at: DateTime<Utc>,
}

/// A version of a type that is wanted.
#[derive(Debug, Clone)]
pub struct NewEventType {
    /// Its name, such as `invoice.paid`.
    pub name: String,
    /// What it tells.
    pub description: String,
    /// JSON Schema (draft 2020-12) of the data; `None` when any will do.
    pub schema: Option<Value>,
    /// Data of such an event.
    pub example: Option<Value>,
}

impl NewEventType {
    /// Everything wrong with it. A schema and an example of the largest size keep a thread for about a second.
    #[must_use]
    pub fn check(&self) -> Vec<FieldError> {
        let mut faults = Vec::new();
        if !is_event_type(&self.name) {
            faults.push(FieldError::new(
                "/name",
                "invalid",
                "must be segments of letters, digits and `_` joined by dots, at most 128 long",
            ));
        }
        if self.description.chars().count() > MAX_DESCRIPTION {
            faults.push(FieldError::new(
                "/description",
                "too_long",
                format!("must be at most {MAX_DESCRIPTION} characters long"),
            ));
        }
        let schema = match self.schema.as_ref().map(checked_schema).transpose() {
            Ok(schema) => schema,
            Err(fault) => {
                faults.push(fault.under("/schema"));
                None
            }
        };
        if let Some(example) = &self.example {
            let wrong = match (size_fault(example), schema) {
                (Some(fault), _) => vec![fault],
                (None, Some(schema)) => schema.faults(example),
                (None, None) => Vec::new(),
            };
            let wrong = wrong.into_iter();
            faults.extend(wrong.map(|fault| fault.under("/example")));
        }
        faults
    }
}

fn checked_schema(schema: &Value) -> Result<Schema, FieldError> {
    if !schema.is_object() {
        return Err(FieldError::new("", "invalid", "must be an object"));
    }
    match size_fault(schema) {
        Some(fault) => Err(fault),
        None => Schema::compile(schema),
    }
}

fn size_fault(value: &Value) -> Option<FieldError> {
    let fault = || FieldError::new("", "too_large", "must be at most 64 KiB of JSON");
    (value.to_string().len() > MAX_BYTES).then(fault)
}

/// Makes the next version of a type: 1 of a new name, 2 of one that comes with the platform. Call
/// [`registered`] once the transaction is committed.
///
/// # Errors
/// [`Error::Conflict`] when the name is one of the platform's own; others when the database refuses.
pub async fn register(tx: &mut TenantTx, new: NewEventType) -> Result<EventType, Error> {
    if is_operational(&new.name) {
        let name = &new.name;
        return Err(Error::Conflict(format!(
            "`{name}` is told of by the platform itself"
        )));
    }
    loop {
        // Whoever makes a version of this name at the same time is waited for, and theirs is seen next time.
        let made = query_as(include_str!("sql/event_type/create_event_type.sql"))
            .bind(tx.tenant())
            .bind(&new.name)
            .bind(&new.description)
            .bind(&new.schema)
            .bind(&new.example)
            .fetch_optional(&mut **tx)
            .await?;
        if let Some(made) = made {
            return Ok(made);
        }
    }
}

/// Makes this process take events by a version that was registered, from now on. Others do within five
/// seconds.
pub async fn registered(tenant: TenantId, name: &str) {
    CURRENT.invalidate(&(tenant, name.to_owned())).await;
}

/// A type in this version, or in its current one.
///
/// # Errors
/// When the database refuses.
pub async fn event_type(
    tx: &mut TenantTx,
    name: &str,
    version: Option<u32>,
) -> Result<Option<EventType>, Error> {
    // Of what is no name, or beyond all numbers, there is none; the database might refuse to look.
    let version = match version.map(i32::try_from).transpose() {
        Ok(version) if is_event_type(name) => version,
        _ => return Ok(None),
    };
    Ok(query_as(include_str!("sql/event_type/get_event_type.sql"))
        .bind(tx.tenant())
        .bind(name)
        .bind(version)
        .fetch_optional(&mut **tx)
        .await?)
}

/// At most `limit` types by name, those after `after`, each in its current version: the tenant's own, and
/// those that come with the platform.
///
/// # Errors
/// When the database refuses.
pub async fn list_event_types(
    tx: &mut TenantTx,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<EventType>, Error> {
    Ok(
        query_as(include_str!("sql/event_type/list_event_types.sql"))
            .bind(tx.tenant())
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&mut **tx)
            .await?,
    )
}

/// At most `limit` versions of a type, newest first, older than `before`.
///
/// # Errors
/// When the database refuses.
pub async fn versions_of(
    tx: &mut TenantTx,
    name: &str,
    before: Option<u32>,
    limit: u32,
) -> Result<Vec<EventType>, Error> {
    if !is_event_type(name) {
        return Ok(Vec::new());
    }
    let before = before.map(|before| i32::try_from(before).unwrap_or(i32::MAX));
    Ok(
        query_as(include_str!("sql/event_type/list_event_type_versions.sql"))
            .bind(tx.tenant())
            .bind(name)
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(&mut **tx)
            .await?,
    )
}

/// What is wrong with an event's data by its type: by the version that is named, or the current one. Of a
/// type that nobody registered any data will do. Asks the database only for what this process does not know.
///
/// # Errors
/// When the database refuses, or a stored schema cannot be used.
pub async fn check_data(
    tx: &mut TenantTx,
    event_type: &str,
    version: Option<u32>,
    data: &RawValue,
) -> Result<Vec<FieldError>, Error> {
    let version = match version {
        Some(version) => version,
        None => match current_version(tx, event_type).await? {
            Some(version) => version,
            None => return Ok(Vec::new()),
        },
    };
    let schema = match schema_of(tx, event_type, version).await? {
        Some(Some(schema)) => schema,
        Some(None) => return Ok(Vec::new()),
        None => {
            let detail = format!("`{event_type}` has no version {version}");
            return Ok(vec![FieldError::new("/version", "unknown", detail)]);
        }
    };
    let faults = match serde_json::from_str(data.get()) {
        Ok(data) => schema
            .faults_aside(data)
            .await
            .map_err(|error| Error::Corrupt(format!("the schema of {event_type}: {error}")))?,
        Err(error) => vec![FieldError::new("", "invalid", message(&error))],
    };
    Ok(faults
        .into_iter()
        .map(|fault| fault.under("/data"))
        .collect())
}

async fn current_version(tx: &mut TenantTx, name: &str) -> Result<Option<u32>, Error> {
    let key = (tx.tenant(), name.to_owned());
    if let Some(known) = CURRENT.get(&key).await {
        return Ok(known);
    }
    let found: Option<i32> = query_scalar(include_str!("sql/event_type/get_current_version.sql"))
        .bind(tx.tenant())
        .bind(name)
        .fetch_one(&mut **tx)
        .await?;
    // The table holds none below 1.
    let found = found.and_then(|version| u32::try_from(version).ok());
    CURRENT.insert(key, found).await;
    Ok(found)
}

/// The schema of a version, ready to be used; `None` when there is no such version.
async fn schema_of(tx: &mut TenantTx, name: &str, version: u32) -> Result<Option<Ready>, Error> {
    let key = (tx.tenant(), name.to_owned(), version);
    if let Some(known) = SCHEMAS.get(&key).await {
        return Ok(Some(known));
    }
    let Some(found) = event_type(tx, name, Some(version)).await? else {
        return Ok(None);
    };
    let corrupt = |why: String| Error::Corrupt(format!("the schema of {name}: {why}"));
    let schema = match found.schema {
        Some(schema) => {
            let compiled = spawn_blocking(move || Schema::compile(&schema)).await;
            let compiled = compiled.map_err(|error| corrupt(error.to_string()))?;
            Some(Arc::new(compiled.map_err(|fault| corrupt(fault.detail))?))
        }
        None => None,
    };
    SCHEMAS.insert(key, schema.clone()).await;
    Ok(Some(schema))
}
