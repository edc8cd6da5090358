//! The audit log: appends entries to a tenant's hash chain and verifies the chain.
//!
//! An entry is written in the transaction that makes the change, so neither exists without the other.
//! Entries never contain secrets.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use crate::database::{query_as, query_scalar};
use crate::id::TenantId;

/// Entries verified by one statement.
const VERIFY_BATCH_ENTRIES: i32 = 20_000;

/// The most faults reported for one chain.
const MAX_FAULTS: usize = 100;

/// The kind of actor that made a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ActorKind {
    /// An API key.
    Key,
    /// A person who has signed in.
    Person,
    /// The holder of a link to the tenant's portal.
    Link,
    /// The platform itself, or an operator using the command line on its machine.
    System,
    /// A caller who is not known: a refused sign-in, for example.
    #[serde(rename = "nobody")]
    #[sqlx(rename = "nobody")]
    Anonymous,
}

impl ActorKind {
    /// The stored name of the kind.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Person => "person",
            Self::Link => "link",
            Self::System => "system",
            Self::Anonymous => "nobody",
        }
    }
}

/// Who made a change, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Whether it is a key, a person, a link, the platform or unknown.
    pub kind: ActorKind,
    /// Id of the key, person or link; the name of a part of the platform; or the name that an unknown
    /// caller gave.
    pub id: String,
    /// Display name: a key's name, a person's email.
    pub name: Option<String>,
    /// Client address of the request.
    pub address: Option<IpAddr>,
    /// `User-Agent` of the request.
    pub user_agent: Option<String>,
    /// Id of the request, as in its `X-Request-Id` header.
    pub request_id: Option<String>,
    /// The reason the caller gave, if any.
    pub reason: Option<String>,
}

impl Actor {
    /// A part of the platform, or its command line.
    #[must_use]
    pub fn system(name: impl Into<String>) -> Self {
        Self {
            kind: ActorKind::System,
            id: name.into(),
            name: None,
            address: None,
            user_agent: None,
            request_id: None,
            reason: None,
        }
    }
}

/// One change: the action, the resource, and its state before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// `noun.verb`, such as `endpoint.create`.
    pub action: &'static str,
    /// Id of the changed resource.
    pub resource: String,
    /// The changed members before the change, without secrets.
    pub before: Option<Value>,
    /// The changed members after the change, without secrets.
    pub after: Option<Value>,
}

impl Entry {
    /// An entry without states before and after.
    #[must_use]
    pub fn new(action: &'static str, resource: impl ToString) -> Self {
        Self {
            action,
            resource: resource.to_string(),
            before: None,
            after: None,
        }
    }

    /// Sets the state before the change.
    #[must_use]
    pub fn before(self, before: impl Serialize) -> Self {
        Self {
            before: serde_json::to_value(before).ok(),
            ..self
        }
    }

    /// Sets the state after the change.
    #[must_use]
    pub fn after(self, after: impl Serialize) -> Self {
        Self {
            after: serde_json::to_value(after).ok(),
            ..self
        }
    }
}

/// An entry that is passed to the code that makes the change.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditNote {
    /// The tenant whose chain receives the entry.
    pub tenant: TenantId,
    /// Who makes the change.
    pub actor: Actor,
    /// What changes.
    pub entry: Entry,
}

impl AuditNote {
    /// Appends the entry, in the transaction that makes the change.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn record(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        record(connection, self.tenant, &self.actor, &self.entry).await
    }
}

/// Appends an entry to the tenant's chain, in the transaction that makes the change. Appends to one
/// chain are serialized until their transactions end, so append as late as possible.
///
/// # Errors
/// When the database fails.
pub async fn record(
    connection: &mut PgConnection,
    tenant: TenantId,
    actor: &Actor,
    entry: &Entry,
) -> Result<(), sqlx::Error> {
    let _seq: i64 = query_scalar(
        "select app.append_audit_entry($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(tenant)
    .bind(actor.kind.as_str())
    .bind(&actor.id)
    .bind(&actor.name)
    .bind(entry.action)
    .bind(&entry.resource)
    .bind(actor.address.map(|address| address.to_string()))
    .bind(&actor.user_agent)
    .bind(&actor.request_id)
    .bind(entry.before.as_ref().map(Json))
    .bind(entry.after.as_ref().map(Json))
    .bind(&actor.reason)
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// The end of a chain.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ChainHead {
    /// Number of the last entry; 0 for an empty chain.
    pub seq: i64,
    /// Hash of the last entry.
    pub hash: Vec<u8>,
}

/// A fault in a chain, located at one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainFault {
    /// Number of the entry.
    pub seq: i64,
    /// `missing` (entries before it were removed), `changed`, `truncated` (the chain ends before this
    /// number), `rewritten` (the entry differs from the anchored one) or, for entry 0, `forged` (an
    /// anchor was not written by the platform).
    pub fault: String,
}

impl ChainFault {
    fn new(seq: i64, fault: &str) -> Self {
        Self {
            seq,
            fault: fault.to_owned(),
        }
    }
}

/// The result of verifying a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// Number of entries read.
    pub entries: i64,
    /// The recorded end of the chain.
    pub head: ChainHead,
    /// Faults, at most 100; empty when the chain is intact.
    pub faults: Vec<ChainFault>,
    /// Time of the newest anchor that was compared.
    pub anchored_at: Option<DateTime<Utc>>,
}

/// The end of a chain at an earlier time, stored outside the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// Number of the last entry at that time.
    pub seq: i64,
    /// Hash of that entry.
    pub hash: Vec<u8>,
    /// When the anchor was written.
    pub at: DateTime<Utc>,
}

#[derive(FromRow)]
struct VerifiedRange {
    checked: i64,
    seq: i64,
    hash: Vec<u8>,
    faults: Json<Vec<ChainFault>>,
}

#[derive(FromRow)]
struct RecordedEnd {
    is_gone: bool,
    seq: i64,
    hash: Vec<u8>,
    last: i64,
}

/// Reads a tenant's whole chain and reports its faults, including differences from `anchors`.
///
/// # Errors
/// When the database fails.
pub async fn verify(
    connection: &mut PgConnection,
    tenant: TenantId,
    anchors: &[Anchor],
) -> Result<ChainReport, sqlx::Error> {
    // The head is read first, so entries appended during verification come after it. One statement
    // reads the head and the last entry, so both are from one snapshot.
    let end: RecordedEnd = query_as(include_str!("sql/audit_end.sql"))
        .bind(tenant)
        .fetch_one(&mut *connection)
        .await?;
    let genesis: Vec<u8> = query_scalar("select sha256(convert_to($1::uuid::text, 'UTF8'))")
        .bind(tenant)
        .fetch_one(&mut *connection)
        .await?;
    let mut faults = Vec::new();
    let (mut entries, mut seq, mut hash) = (0, 0, genesis);
    let mut anchored: Vec<&Anchor> = anchors.iter().collect();
    anchored.sort_by_key(|anchor| anchor.seq);
    loop {
        let range: VerifiedRange = query_as("select * from app.verify_audit_chain($1, $2, $3, $4)")
            .bind(tenant)
            .bind(seq)
            .bind(&hash)
            .bind(VERIFY_BATCH_ENTRIES)
            .fetch_one(&mut *connection)
            .await?;
        entries += range.checked;
        (seq, hash) = (range.seq, range.hash);
        faults.extend(range.faults.0);
        faults.truncate(MAX_FAULTS);
        if range.checked < i64::from(VERIFY_BATCH_ENTRIES) || faults.len() >= MAX_FAULTS {
            break;
        }
    }
    if end.is_gone {
        // Every chain starts with the creation of its tenant.
        faults.push(ChainFault::new(1, "missing"));
    } else if end.last < end.seq {
        faults.push(ChainFault::new(end.last + 1, "truncated"));
    } else if end.last > end.seq {
        faults.push(ChainFault::new(end.seq + 1, "changed"));
    } else if !has_hash(connection, tenant, end.seq, &end.hash).await? {
        faults.push(ChainFault::new(end.seq, "changed"));
    }
    for anchor in &anchored {
        if anchor.seq > end.last {
            faults.push(ChainFault::new(end.last + 1, "truncated"));
        } else if !has_hash(connection, tenant, anchor.seq, &anchor.hash).await? {
            faults.push(ChainFault::new(anchor.seq, "rewritten"));
        }
    }
    faults.sort_by_key(|link| link.seq);
    faults.dedup();
    faults.truncate(MAX_FAULTS);
    Ok(ChainReport {
        entries,
        head: ChainHead {
            seq: end.seq,
            hash: end.hash,
        },
        faults,
        anchored_at: anchored.iter().map(|anchor| anchor.at).max(),
    })
}

/// Whether the entry with this number has this hash; always true for number 0, before the first entry.
async fn has_hash(
    connection: &mut PgConnection,
    tenant: TenantId,
    seq: i64,
    hash: &[u8],
) -> Result<bool, sqlx::Error> {
    if seq == 0 {
        return Ok(true);
    }
    query_scalar(
        "select exists (
            select from app.audit_log where tenant_id = $1 and seq = $2 and hash = $3
        )",
    )
    .bind(tenant)
    .bind(seq)
    .bind(hash)
    .fetch_one(connection)
    .await
}
