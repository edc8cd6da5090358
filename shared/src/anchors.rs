//! Anchors of audit chains: signed records of how long each chain was, stored outside the database.
//!
//! A chain of hashes reveals changed or removed entries in its middle, but not a truncated end or a
//! complete rewrite. Comparing a chain with its anchors reveals both. An anchor that this platform did
//! not sign is rejected, and no anchor is ever overwritten.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use hmac::Mac as _;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use subtle::ConstantTimeEq as _;

use crate::audit::{self, Anchor, ChainFault, ChainReport};
use crate::blob::{BlobError, BlobStore};
use crate::id::TenantId;
use crate::signature::hmac_sha256;
use crate::vault::MasterKeys;

/// Prefix of all anchor objects in the blob store.
const KEY_PREFIX: &str = "audit-anchors";

/// Label under which the signing key is derived from the master key.
const SIGNING_LABEL: &str = "audit-anchor";

/// Version of the object format.
const FORMAT_VERSION: u32 = 1;

/// The most chain heads that one object holds; more go into further objects.
pub const MAX_HEADS_PER_OBJECT: usize = 10_000;

/// Why anchors could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// The blob store failed.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// An object was changed, or signed with a master key that is not in the list.
    #[error("the anchor `{0}` is damaged, forged or signed with an unknown key")]
    Forged(String),
    /// An object could not be serialized.
    #[error("the anchor could not be serialized: {0}")]
    Encode(#[from] serde_json::Error),
}

/// Why a chain could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The blob store failed.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
}

/// The last entry of a tenant's chain when it was anchored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchoredHead {
    /// The tenant that owns the chain.
    pub tenant: TenantId,
    /// Number of the last entry.
    pub seq: i64,
    /// Hash of that entry, in hexadecimal.
    pub hash: String,
}

/// The signed part, serialized in this member order without spaces.
#[derive(Debug, Serialize, Deserialize)]
struct SignedBody {
    version: u32,
    at: DateTime<Utc>,
    heads: Vec<AnchoredHead>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AnchorObject {
    body: SignedBody,
    signature: String,
}

/// Writes the chain heads as of `at` into new objects and returns the objects' keys.
///
/// # Errors
/// When the store fails; some of the objects may have been written.
pub async fn write_anchors(
    blobs: &BlobStore,
    keys: &MasterKeys,
    at: DateTime<Utc>,
    heads: &[AnchoredHead],
) -> Result<Vec<String>, AnchorError> {
    let mut written = Vec::new();
    for heads in heads.chunks(MAX_HEADS_PER_OBJECT) {
        let body = SignedBody {
            version: FORMAT_VERSION,
            at,
            heads: heads.to_vec(),
        };
        let text = serde_json::to_vec(&body)?;
        let signature = sign(&keys.derive_current(SIGNING_LABEL), &text);
        let object = AnchorObject {
            body,
            signature: hex(&signature),
        };
        let key = format!(
            "{KEY_PREFIX}/{}-{}.json",
            at.format("%Y/%m/%d/%H%M%S%.6f"),
            uuid::Uuid::now_v7()
        );
        let text = serde_json::to_vec(&object)?;
        blobs.put(&key, Bytes::from(text)).await?;
        written.push(key);
    }
    Ok(written)
}

/// All anchors of a tenant, oldest first.
///
/// # Errors
/// When the store fails, or when any object is not authentic: an attacker who changed one could also
/// have removed this tenant from it.
pub async fn tenant_anchors(
    blobs: &BlobStore,
    keys: &MasterKeys,
    tenant: TenantId,
) -> Result<Vec<Anchor>, AnchorError> {
    let keys = keys.derive_all(SIGNING_LABEL);
    let mut found = Vec::new();
    for key in blobs.list(KEY_PREFIX).await? {
        // An object deleted after the listing is treated like one deleted before it.
        let Some(bytes) = blobs.get(&key).await? else {
            continue;
        };
        let body = open(&keys, &bytes).ok_or_else(|| AnchorError::Forged(key.clone()))?;
        for head in body.heads {
            if head.tenant == tenant {
                found.push(Anchor {
                    seq: head.seq,
                    hash: unhex(&head.hash).ok_or_else(|| AnchorError::Forged(key.clone()))?,
                    at: body.at,
                });
            }
        }
    }
    Ok(found)
}

/// Reads a tenant's whole chain and reports its faults, compared with its anchors if a store is
/// configured. An anchor that is not authentic is reported as the fault `forged` of entry 0.
///
/// # Errors
/// When the database or the store fails.
pub async fn verify_chain(
    connection: &mut PgConnection,
    store: Option<&BlobStore>,
    keys: &MasterKeys,
    tenant: TenantId,
) -> Result<ChainReport, VerifyError> {
    // Anchors are read first: the chain is then at least as long as when they were written.
    let (anchors, forged) = match store {
        None => (Vec::new(), false),
        Some(blobs) => match tenant_anchors(blobs, keys, tenant).await {
            Ok(anchors) => (anchors, false),
            Err(AnchorError::Forged(key)) => {
                tracing::error!(key, "an anchor of the audit log is damaged or forged");
                (Vec::new(), true)
            }
            Err(error) => return Err(error.into()),
        },
    };
    let mut report = audit::verify(connection, tenant, &anchors).await?;
    if forged {
        let link = ChainFault {
            seq: 0,
            fault: "forged".to_owned(),
        };
        report.faults.insert(0, link);
    }
    Ok(report)
}

fn open(keys: &[[u8; 32]], bytes: &[u8]) -> Option<SignedBody> {
    let object: AnchorObject = serde_json::from_slice(bytes).ok()?;
    let text = serde_json::to_vec(&object.body).ok()?;
    let is_signed = keys.iter().any(|key| {
        let expected = hex(&sign(key, &text));
        bool::from(expected.as_bytes().ct_eq(object.signature.as_bytes()))
    });
    (is_signed && object.body.version == FORMAT_VERSION).then_some(object.body)
}

fn sign(key: &[u8; 32], text: &[u8]) -> Vec<u8> {
    hmac_sha256(key)
        .chain_update(text)
        .finalize()
        .into_bytes()
        .to_vec()
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(tenant: TenantId, seq: i64) -> AnchoredHead {
        AnchoredHead {
            tenant,
            seq,
            hash: hex(&[7, 255]),
        }
    }

    fn anchor(seq: i64, second: i64) -> Anchor {
        Anchor {
            seq,
            hash: vec![7, 255],
            at: at(second),
        }
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 123_456_000).unwrap()
    }

    fn store() -> (tempfile::TempDir, BlobStore) {
        let directory = tempfile::tempdir().unwrap();
        let url = url::Url::from_file_path(directory.path()).unwrap();
        (directory, BlobStore::open(&url).unwrap())
    }

    #[tokio::test]
    async fn tenant_anchors_are_returned_in_order_without_those_of_others() {
        let (_directory, blobs) = store();
        let keys = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        let (one, other) = (TenantId::new(), TenantId::new());
        for seq in 1..=3 {
            let heads = [head(one, seq), head(other, seq * 10)];
            write_anchors(&blobs, &keys, at(seq), &heads).await.unwrap();
        }
        let found = tenant_anchors(&blobs, &keys, one).await.unwrap();
        assert_eq!(found, [anchor(1, 1), anchor(2, 2), anchor(3, 3)]);
        let unknown = tenant_anchors(&blobs, &keys, TenantId::new())
            .await
            .unwrap();
        assert_eq!(unknown, []);
    }

    #[tokio::test]
    async fn heads_beyond_one_object_go_into_several() {
        let (_directory, blobs) = store();
        let keys = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        let tenant = TenantId::new();
        let mut heads = vec![head(TenantId::new(), 1); MAX_HEADS_PER_OBJECT];
        heads.push(head(tenant, 5));
        let written = write_anchors(&blobs, &keys, at(0), &heads).await.unwrap();
        assert_eq!(written.len(), 2);
        let found = tenant_anchors(&blobs, &keys, tenant).await.unwrap();
        assert_eq!(found, [anchor(5, 0)]);
    }

    #[tokio::test]
    async fn changed_or_foreign_object_is_rejected() {
        let (_directory, blobs) = store();
        let (old, new) = (MasterKeys::generate(), MasterKeys::generate());
        let ours = MasterKeys::parse(&old).unwrap();
        let tenant = TenantId::new();
        let written = write_anchors(&blobs, &ours, at(1), &[head(tenant, 12)]).await;
        let key = written.unwrap().remove(0);
        let rotated = MasterKeys::parse(&format!("{new},{old}")).unwrap();
        assert_eq!(
            tenant_anchors(&blobs, &rotated, tenant)
                .await
                .unwrap()
                .len(),
            1
        );
        let theirs = MasterKeys::parse(&new).unwrap();
        let refused = tenant_anchors(&blobs, &theirs, tenant).await;
        assert!(matches!(refused, Err(AnchorError::Forged(of)) if of == key));

        let text = String::from_utf8(blobs.get(&key).await.unwrap().unwrap().to_vec()).unwrap();
        for forged in [
            text.replace(r#""seq":12"#, r#""seq":11"#),
            text.replace("07ff", "07fe"),
            text.replace(r#""version":1"#, r#""version":2"#),
            "{}".to_owned(),
        ] {
            assert_ne!(forged, text);
            blobs.put(&key, forged.into()).await.unwrap();
            let refused = tenant_anchors(&blobs, &ours, tenant).await;
            assert!(matches!(refused, Err(AnchorError::Forged(_))));
        }
    }
}
