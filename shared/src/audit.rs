//! Room: the audit log.
//! Takes: who did what to what, in the transaction that did it. Gives: an entry at the end of the
//! tenant's hash chain; whether a chain is whole.
//! Never: keeps a secret; lets an entry be without the change it tells of, or the change without it.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use crate::database::{query_as, query_scalar};
use crate::id::TenantId;

/// Entries that are checked by one statement.
const STRIDE: i32 = 20_000;

/// Faults that are told of one chain.
const MOST_FAULTS: usize = 100;

/// What kind of actor it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ActorKind {
    /// An API key.
    Key,
    /// A person who has signed in.
    Person,
    /// Whoever holds a link to the tenant's portal.
    Link,
    /// The platform itself, or somebody who works by hand on its machine.
    System,
    /// A caller who is not known: a refused sign-in, for example.
    #[serde(rename = "nobody")]
    #[sqlx(rename = "nobody")]
    Anonymous,
}

impl ActorKind {
    /// The kind's name.
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

/// Who did it, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// What kind of actor.
    pub kind: ActorKind,
    /// The key's, person's or link's id; the name of a part of the platform; what somebody gave as a name.
    pub id: String,
    /// What people call it: a key's name, a person's email.
    pub name: Option<String>,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// What the caller's program calls itself.
    pub user_agent: Option<String>,
    /// The request's id.
    pub request_id: Option<String>,
    /// Why, where a reason was given.
    pub reason: Option<String>,
}

impl Actor {
    /// A part of the platform, or a tool worked by hand.
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

/// What was done to what.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// `noun.verb`, such as `endpoint.create`.
    pub action: &'static str,
    /// Id of what it was done to.
    pub resource: String,
    /// What it was, as far as it changed; secrets left out.
    pub before: Option<Value>,
    /// What it became.
    pub after: Option<Value>,
}

impl Entry {
    /// An entry without before and after.
    #[must_use]
    pub fn new(action: &'static str, resource: impl ToString) -> Self {
        Self {
            action,
            resource: resource.to_string(),
            before: None,
            after: None,
        }
    }

    /// With what it was.
    #[must_use]
    pub fn before(self, before: impl Serialize) -> Self {
        Self {
            before: serde_json::to_value(before).ok(),
            ..self
        }
    }

    /// With what it became.
    #[must_use]
    pub fn after(self, after: impl Serialize) -> Self {
        Self {
            after: serde_json::to_value(after).ok(),
            ..self
        }
    }
}

/// An entry on its way to whoever makes the change it tells of.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditNote {
    /// In whose chain.
    pub tenant: TenantId,
    /// Who.
    pub actor: Actor,
    /// What.
    pub entry: Entry,
}

impl AuditNote {
    /// Adds the entry, in the transaction that makes the change.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn record(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        record(connection, self.tenant, &self.actor, &self.entry).await
    }
}

/// Adds an entry to the tenant's chain, in the transaction that makes the change. Entries of one
/// tenant wait for each other until their transactions end: add late.
///
/// # Errors
/// When the database refuses.
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

/// Where a chain ends.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ChainHead {
    /// Number of the last entry; 0 when there is none.
    pub seq: i64,
    /// Its hash.
    pub hash: Vec<u8>,
}

/// What is wrong with a chain at an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainFault {
    /// The entry's number.
    pub seq: i64,
    /// `missing` (entries before it are gone), `changed`, `truncated` (the chain ends before this
    /// number), `rewritten` (it is not the entry that was anchored) or, of entry 0, `forged` (an anchor is
    /// not one that the platform wrote).
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

/// What became of the check of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// Entries that were read.
    pub entries: i64,
    /// Where the chain says that it ends.
    pub head: ChainHead,
    /// What is wrong, at most 100 of it; none when the chain is whole.
    pub faults: Vec<ChainFault>,
    /// Time of the newest anchor that was compared.
    pub anchored_at: Option<DateTime<Utc>>,
}

/// What a chain's end once was, kept outside of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// Number of the last entry.
    pub seq: i64,
    /// Its hash.
    pub hash: Vec<u8>,
    /// When.
    pub at: DateTime<Utc>,
}

#[derive(FromRow)]
struct Stretch {
    checked: i64,
    seq: i64,
    hash: Vec<u8>,
    faults: Json<Vec<ChainFault>>,
}

#[derive(FromRow)]
struct End {
    is_gone: bool,
    seq: i64,
    hash: Vec<u8>,
    last: i64,
}

/// Reads a tenant's whole chain and says what is wrong with it, also beside `anchors`.
///
/// # Errors
/// When the database refuses.
pub async fn verify(
    connection: &mut PgConnection,
    tenant: TenantId,
    anchors: &[Anchor],
) -> Result<ChainReport, sqlx::Error> {
    // The head first: what is added meanwhile stands after it. Both in one snapshot.
    let end: End = query_as(include_str!("sql/audit_end.sql"))
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
        let stretch: Stretch = query_as("select * from app.verify_audit_chain($1, $2, $3, $4)")
            .bind(tenant)
            .bind(seq)
            .bind(&hash)
            .bind(STRIDE)
            .fetch_one(&mut *connection)
            .await?;
        entries += stretch.checked;
        (seq, hash) = (stretch.seq, stretch.hash);
        faults.extend(stretch.faults.0);
        faults.truncate(MOST_FAULTS);
        if stretch.checked < i64::from(STRIDE) || faults.len() >= MOST_FAULTS {
            break;
        }
    }
    if end.is_gone {
        // Every tenant's chain begins with the tenant.
        faults.push(ChainFault::new(1, "missing"));
    } else if end.last < end.seq {
        faults.push(ChainFault::new(end.last + 1, "truncated"));
    } else if end.last > end.seq {
        faults.push(ChainFault::new(end.seq + 1, "changed"));
    } else if !is_at(connection, tenant, end.seq, &end.hash).await? {
        faults.push(ChainFault::new(end.seq, "changed"));
    }
    for anchor in &anchored {
        if anchor.seq > end.last {
            faults.push(ChainFault::new(end.last + 1, "truncated"));
        } else if !is_at(connection, tenant, anchor.seq, &anchor.hash).await? {
            faults.push(ChainFault::new(anchor.seq, "rewritten"));
        }
    }
    faults.sort_by_key(|link| link.seq);
    faults.dedup();
    faults.truncate(MOST_FAULTS);
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

/// Whether the entry of this number has this hash; the one before the first always has.
async fn is_at(
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
