//! The kind `audit.anchor`: records the heads of audit chains outside of the database.
//!
//! Writes one signed object to the blob store for the chains that have grown. It reads no entry's contents
//! and never repairs a chain.

use std::time::Duration;

use harkara_kind::JobKind;
use harkara_kind::Services;
use harkara_kind::database_verdict;
use harkara_queue::job::JobError;
use harkara_queue::{Run, Verdict};
use harkara_shared::anchors::{self, AnchorError, AnchoredHead, hex};
use harkara_shared::clock;
use harkara_shared::database::{query, query_as};
use harkara_shared::id::TenantId;
use serde::Deserialize;
use serde_json::json;
use sqlx::types::Uuid;
use utoipa::ToSchema;

/// - Changes: adds an object to the blob store for the chains that have grown since the last one.
/// - Twice: the second run finds no chain that has grown; rewriting the object of a lost run is harmless.
/// - Calls: the blob store.
/// - Dead: a truncation after the last anchor would not be detected; fix the store, and the next hour's run catches up.
#[derive(Debug)]
pub struct AuditAnchor;

/// Payload of `audit.anchor`: none.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {}

impl JobKind for AuditAnchor {
    const KIND: &'static str = "audit.anchor";
    const QUEUE: &'static str = "maintenance";
    const MAX_ATTEMPTS: u16 = 10;
    const TIMEOUT: Duration = Duration::from_secs(10 * 60);
    const PLATFORM_ONLY: bool = true;
    type Services = Services;
    type Args = Args;

    async fn run(_: Args, _: Run, services: &Services) -> Verdict {
        match anchor(services).await {
            Ok(verdict) => verdict,
            Err(Error::Database(error)) => database_verdict(&error),
            Err(Error::Anchor(error)) => {
                Verdict::retry(JobError::new("blob_store", error.to_string()), None)
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Anchor(#[from] AnchorError),
}

/// A chain that has grown, and whether it still contains the entry that was anchored last.
#[derive(sqlx::FromRow)]
struct GrownChain {
    tenant_id: TenantId,
    seq: i64,
    hash: Vec<u8>,
    is_intact: bool,
}

async fn anchor(services: &Services) -> Result<Verdict, Error> {
    let Some(blobs) = &services.blobs else {
        let reason = "no blob store is configured; set HARKARA_BLOB_URL";
        return Ok(done(json!({"anchored": 0, "reason": reason})));
    };
    let pool = services.engine.pool();
    let (mut anchored, mut objects, mut broken) = (0, Vec::new(), Vec::new());
    let mut after = TenantId::from_uuid(Uuid::nil());
    loop {
        let grown: Vec<GrownChain> =
            query_as(include_str!("../sql/audit_anchor/list_grown_chains.sql"))
                .bind(after)
                .bind(i64::try_from(anchors::MAX_HEADS_PER_OBJECT).unwrap_or(i64::MAX))
                .fetch_all(pool)
                .await?;
        let Some(last) = grown.last() else { break };
        after = last.tenant_id;
        let at = clock::now();
        let heads: Vec<AnchoredHead> = grown
            .iter()
            .map(|chain| AnchoredHead {
                tenant: chain.tenant_id,
                seq: chain.seq,
                hash: hex(&chain.hash),
            })
            .collect();
        objects.extend(anchors::write_anchors(blobs, &services.keys, at, &heads).await?);
        for chain in grown.iter().filter(|chain| !chain.is_intact) {
            tracing::error!(tenant = %chain.tenant_id, "audit log differs from its anchor");
            broken.push(chain.tenant_id);
        }
        let (tenants, rest): (Vec<Uuid>, Vec<(i64, Vec<u8>)>) = grown
            .into_iter()
            .map(|chain| (chain.tenant_id.as_uuid(), (chain.seq, chain.hash)))
            .unzip();
        let (seqs, hashes): (Vec<i64>, Vec<Vec<u8>>) = rest.into_iter().unzip();
        query(include_str!("../sql/audit_anchor/record_anchors.sql"))
            .bind(&tenants)
            .bind(seqs)
            .bind(hashes)
            .bind(at)
            .execute(pool)
            .await?;
        anchored += tenants.len();
    }
    Ok(done(json!({
        "anchored": anchored,
        "objects": objects,
        "broken": broken,
    })))
}

fn done(result: serde_json::Value) -> Verdict {
    Verdict::Done {
        result: Some(result),
        follow_ups: Vec::new(),
    }
}
