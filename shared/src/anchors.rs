//! Room: anchors of audit chains: how far each had come, written down where the database cannot reach.
//! Takes: the heads of chains. Gives: one signed object; of a tenant, all anchors that were ever written.
//! Never: believes an object that it did not sign, or overwrites one.
//!
//! A chain of hashes shows what was changed or taken out of its middle, and not that its end was cut off
//! or that all of it was written anew. Whoever compares it with its anchors sees both.

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

/// Where they lie in the store.
const PLACE: &str = "audit-anchors";

/// What the signing key is derived for.
const LABEL: &str = "audit-anchor";

/// Form of the objects.
const VERSION: u32 = 1;

/// Most heads in one object.
pub const MAX_HEADS_PER_OBJECT: usize = 10_000;

/// Why anchors could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// The store fails.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// An object is not what was written, or was signed with a master key that is not in the list.
    #[error("the anchor `{0}` is damaged, forged or signed with a key that is not known")]
    Forged(String),
    /// An object could not be written as JSON.
    #[error("an anchor cannot be written: {0}")]
    Encode(#[from] serde_json::Error),
}

/// Why a chain could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The database refuses.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The store fails.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
}

/// How far a tenant's chain has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchoredHead {
    /// Whose chain.
    pub tenant: TenantId,
    /// Its last entry.
    pub seq: i64,
    /// That entry's hash, in hexadecimal digits.
    pub hash: String,
}

/// What is signed: its members in this order, without spaces.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    version: u32,
    at: DateTime<Utc>,
    heads: Vec<AnchoredHead>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Object {
    body: Body,
    signature: String,
}

/// Writes the heads of chains as they were at `at` into objects of their own, and answers the objects'
/// keys.
///
/// # Errors
/// When the store fails: some of the objects may be there.
pub async fn write_anchors(
    blobs: &BlobStore,
    keys: &MasterKeys,
    at: DateTime<Utc>,
    heads: &[AnchoredHead],
) -> Result<Vec<String>, AnchorError> {
    let mut written = Vec::new();
    for heads in heads.chunks(MAX_HEADS_PER_OBJECT) {
        let body = Body {
            version: VERSION,
            at,
            heads: heads.to_vec(),
        };
        let text = serde_json::to_vec(&body)?;
        let signing = keys.derive_all(LABEL);
        let signature = signing.first().map(|key| sign(key, &text));
        let object = Object {
            body,
            signature: hex(&signature.unwrap_or_default()),
        };
        let key = format!(
            "{PLACE}/{}-{}.json",
            at.format("%Y/%m/%d/%H%M%S%.6f"),
            uuid::Uuid::now_v7()
        );
        let text = serde_json::to_vec(&object)?;
        blobs.put(&key, Bytes::from(text)).await?;
        written.push(key);
    }
    Ok(written)
}

/// All anchors of a tenant, the oldest first.
///
/// # Errors
/// When the store fails, or any object is not one of ours: whoever could change it could also have taken
/// this tenant out of it.
pub async fn tenant_anchors(
    blobs: &BlobStore,
    keys: &MasterKeys,
    tenant: TenantId,
) -> Result<Vec<Anchor>, AnchorError> {
    let keys = keys.derive_all(LABEL);
    let mut found = Vec::new();
    for key in blobs.list(PLACE).await? {
        // One that has gone since it was listed is missed no less than one that went before.
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

/// Reads a tenant's whole chain and says what is wrong with it, also beside its anchors where there is a
/// store for them. An object that is not one of ours is told as the fault `forged` of entry 0.
///
/// # Errors
/// When the database refuses or the store fails.
pub async fn verify_chain(
    connection: &mut PgConnection,
    store: Option<&BlobStore>,
    keys: &MasterKeys,
    tenant: TenantId,
) -> Result<ChainReport, CheckError> {
    // Anchors first: the chain is at least as long as when they were written.
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
    let mut checked = audit::verify(connection, tenant, &anchors).await?;
    if forged {
        let link = ChainFault {
            seq: 0,
            fault: "forged".to_owned(),
        };
        checked.faults.insert(0, link);
    }
    Ok(checked)
}

fn open(keys: &[[u8; 32]], bytes: &[u8]) -> Option<Body> {
    let object: Object = serde_json::from_slice(bytes).ok()?;
    let text = serde_json::to_vec(&object.body).ok()?;
    let is_signed = keys.iter().any(|key| {
        let right = hex(&sign(key, &text));
        bool::from(right.as_bytes().ct_eq(object.signature.as_bytes()))
    });
    (is_signed && object.body.version == VERSION).then_some(object.body)
}

fn sign(key: &[u8; 32], text: &[u8]) -> Vec<u8> {
    hmac_sha256(key)
        .chain_update(text)
        .finalize()
        .into_bytes()
        .to_vec()
}

/// Bytes in hexadecimal digits.
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
    async fn a_tenants_anchors_come_back_in_order_and_no_others() {
        let (_directory, blobs) = store();
        let keys = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        let (one, other) = (TenantId::new(), TenantId::new());
        for seq in 1..=3 {
            let heads = [head(one, seq), head(other, seq * 10)];
            write_anchors(&blobs, &keys, at(seq), &heads).await.unwrap();
        }
        let found = tenant_anchors(&blobs, &keys, one).await.unwrap();
        assert_eq!(found, [anchor(1, 1), anchor(2, 2), anchor(3, 3)]);
        let nobody = tenant_anchors(&blobs, &keys, TenantId::new())
            .await
            .unwrap();
        assert_eq!(nobody, []);
    }

    #[tokio::test]
    async fn more_heads_than_fit_an_object_go_into_several() {
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
    async fn an_object_that_was_changed_or_signed_by_somebody_else_is_refused() {
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
