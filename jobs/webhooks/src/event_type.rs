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

/// Maximum length of a schema, and of an example, as JSON.
const MAX_BYTES: usize = 64 << 10;

/// Maximum length of a description in characters.
const MAX_DESCRIPTION: usize = 1000;

/// How long a process can use an outdated current version after another process registered a new one.
const CURRENT_TTL: Duration = Duration::from_secs(5);

/// Maximum number of cached current versions.
const MAX_CACHED_VERSIONS: u64 = 10_000;

/// Maximum total weight of the cached schemas. A value takes about 1 KiB, a regular expression up to 128.
const MAX_CACHED_WEIGHT: u64 = 50_000;

/// The current version by tenant and name; `None` for a name that is not registered.
static CURRENT: LazyLock<Cache<(TenantId, String), Option<u32>>> = LazyLock::new(|| {
    Cache::builder()
        .max_capacity(MAX_CACHED_VERSIONS)
        .time_to_live(CURRENT_TTL)
        .build()
});

/// The compiled schema of a version; `None` when the version has none.
type CompiledSchema = Option<Arc<Schema>>;

/// Compiled schemas. Versions never change, so entries never expire.
static SCHEMAS: LazyLock<Cache<(TenantId, String, u32), CompiledSchema>> = LazyLock::new(|| {
    Cache::builder()
        .max_capacity(MAX_CACHED_WEIGHT)
        .weigher(|_, schema: &CompiledSchema| {
            let weight = schema.as_ref().map_or(1, |schema| schema.weight());
            u32::try_from(weight).unwrap_or(u32::MAX)
        })
        .build()
});

/// One version of an event type.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct EventType {
    /// Name, such as `invoice.paid`.
    pub name: String,
    /// Version number, from 1 without gaps.
    #[sqlx(try_from = "i32")]
    pub version: u32,
    /// Description; may be empty.
    pub description: String,
    /// JSON Schema (draft 2020-12) of the data; `None` accepts any data.
    pub schema: Option<Value>,
    /// Example of the data.
    pub example: Option<Value>,
    /// Whether the type is built in.
    pub seeded: bool,
    /// Whether only the platform posts events of this type.
    pub operational: bool,
    /// When this version was created.
    pub created_at: DateTime<Utc>,
}

/// A version of an event type to register.
#[derive(Debug, Clone)]
pub struct NewEventType {
    /// Name, such as `invoice.paid`.
    pub name: String,
    /// Description.
    pub description: String,
    /// JSON Schema (draft 2020-12) of the data; `None` accepts any data.
    pub schema: Option<Value>,
    /// Example of the data.
    pub example: Option<Value>,
}

impl NewEventType {
    /// All errors in the version. Checking the largest allowed schema and example takes a thread about a second.
    #[must_use]
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if !is_event_type(&self.name) {
            errors.push(FieldError::new(
                "/name",
                "invalid",
                "must be segments of letters, digits and `_` joined by dots, at most 128 long",
            ));
        }
        if self.description.chars().count() > MAX_DESCRIPTION {
            errors.push(FieldError::new(
                "/description",
                "too_long",
                format!("must be at most {MAX_DESCRIPTION} characters long"),
            ));
        }
        let schema = match self.schema.as_ref().map(checked_schema).transpose() {
            Ok(schema) => schema,
            Err(error) => {
                errors.push(error.under("/schema"));
                None
            }
        };
        if let Some(example) = &self.example {
            let example_errors = match (size_error(example), schema) {
                (Some(error), _) => vec![error],
                (None, Some(schema)) => schema.errors(example),
                (None, None) => Vec::new(),
            };
            errors.extend(
                example_errors
                    .into_iter()
                    .map(|error| error.under("/example")),
            );
        }
        errors
    }
}

fn checked_schema(schema: &Value) -> Result<Schema, FieldError> {
    if !schema.is_object() {
        return Err(FieldError::new("", "invalid", "must be an object"));
    }
    match size_error(schema) {
        Some(error) => Err(error),
        None => Schema::compile(schema),
    }
}

fn size_error(value: &Value) -> Option<FieldError> {
    let error = || FieldError::new("", "too_large", "must be at most 64 KiB of JSON");
    (value.to_string().len() > MAX_BYTES).then(error)
}

/// Registers the next version of an event type: 1 for a new name, 2 for a built-in one. Call [`forget_current_version`]
/// once the transaction is committed.
///
/// # Errors
/// [`Error::Conflict`] when the name is reserved for operational events; others when the database refuses.
pub async fn register_event_type(tx: &mut TenantTx, new: NewEventType) -> Result<EventType, Error> {
    if is_operational(&new.name) {
        let name = &new.name;
        return Err(Error::Conflict(format!(
            "`{name}` is reserved for operational events"
        )));
    }
    loop {
        // A concurrent registration of this name makes the insert wait and then return nothing; the next insert sees
        // its version.
        let created = query_as(include_str!("sql/event_type/create_event_type.sql"))
            .bind(tx.tenant())
            .bind(&new.name)
            .bind(&new.description)
            .bind(&new.schema)
            .bind(&new.example)
            .fetch_optional(&mut **tx)
            .await?;
        if let Some(created) = created {
            return Ok(created);
        }
    }
}

/// Discards the cached current version, so that this process uses a newly registered one from now on. Other
/// processes follow within five seconds.
pub async fn forget_current_version(tenant: TenantId, name: &str) {
    CURRENT.invalidate(&(tenant, name.to_owned())).await;
}

/// Finds a version of an event type; the current one if `version` is `None`.
///
/// # Errors
/// When the database refuses.
pub async fn find_event_type(
    tx: &mut TenantTx,
    name: &str,
    version: Option<u32>,
) -> Result<Option<EventType>, Error> {
    // An invalid name or number has no version, and the database might reject it.
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

/// Lists at most `limit` event types by name, after `after`, in their current versions: the tenant's and the built-in
/// ones.
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

/// Lists at most `limit` versions of an event type, newest first, older than `before`.
///
/// # Errors
/// When the database refuses.
pub async fn list_event_type_versions(
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

/// Validates an event's data against its type: against `version`, or the current one. Any data is valid for a type that
/// is not registered. Reads from the database only what is not cached.
///
/// # Errors
/// When the database refuses, or a stored schema cannot be used.
pub async fn check_event_data(
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
    let errors = match serde_json::from_str(data.get()) {
        Ok(data) => schema
            .errors_off_thread(data)
            .await
            .map_err(|error| Error::Corrupt(format!("the schema of {event_type}: {error}")))?,
        Err(error) => vec![FieldError::new("", "invalid", message(&error))],
    };
    Ok(errors
        .into_iter()
        .map(|error| error.under("/data"))
        .collect())
}

async fn current_version(tx: &mut TenantTx, name: &str) -> Result<Option<u32>, Error> {
    let key = (tx.tenant(), name.to_owned());
    if let Some(known) = CURRENT.get(&key).await {
        return Ok(known);
    }
    let current: Option<i32> = query_scalar(include_str!("sql/event_type/get_current_version.sql"))
        .bind(tx.tenant())
        .bind(name)
        .fetch_one(&mut **tx)
        .await?;
    // The table has no version below 1.
    let current = current.and_then(|version| u32::try_from(version).ok());
    CURRENT.insert(key, current).await;
    Ok(current)
}

/// The compiled schema of a version; `None` when the version does not exist.
async fn schema_of(
    tx: &mut TenantTx,
    name: &str,
    version: u32,
) -> Result<Option<CompiledSchema>, Error> {
    let key = (tx.tenant(), name.to_owned(), version);
    if let Some(known) = SCHEMAS.get(&key).await {
        return Ok(Some(known));
    }
    let Some(registered) = find_event_type(tx, name, Some(version)).await? else {
        return Ok(None);
    };
    let corrupt = |why: String| Error::Corrupt(format!("the schema of {name}: {why}"));
    let schema = match registered.schema {
        Some(schema) => {
            let compiled = spawn_blocking(move || Schema::compile(&schema)).await;
            let compiled = compiled.map_err(|error| corrupt(error.to_string()))?;
            Some(Arc::new(compiled.map_err(|error| corrupt(error.detail))?))
        }
        None => None,
    };
    SCHEMAS.insert(key, schema.clone()).await;
    Ok(Some(schema))
}
