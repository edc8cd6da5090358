//! Opaque cursors: where a page of a list ended.
//!
//! A cursor holds the sort key of a page's last item and a hash of the list (path, tenant, filters), and is
//! signed. A cursor that this platform did not issue for the same list is refused.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use harkara_shared::id::{ApiKeyId, DeliveryId, EndpointId, JobId, TenantId, UserId, WorkerId};
use harkara_shared::vault::MasterKeys;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::problem::{Code, Problem};

/// The first byte of a cursor.
const VERSION: u8 = 1;

/// A sort key that a cursor can carry.
pub(crate) trait CursorKey: Sized + Send + Sync + 'static {
    /// The bytes that represent the key in a cursor.
    fn to_bytes(&self) -> Vec<u8>;

    /// The key in a cursor; `None` when the bytes are not a key of this type.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl CursorKey for i64 {
    fn to_bytes(&self) -> Vec<u8> {
        i128::from(*self).to_be_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        i128::from_be_bytes(bytes.try_into().ok()?).try_into().ok()
    }
}

impl CursorKey for i32 {
    fn to_bytes(&self) -> Vec<u8> {
        i64::from(*self).to_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        i64::from_bytes(bytes)?.try_into().ok()
    }
}

impl CursorKey for u32 {
    fn to_bytes(&self) -> Vec<u8> {
        i64::from(*self).to_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        i64::from_bytes(bytes)?.try_into().ok()
    }
}

impl CursorKey for String {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::from_utf8(bytes.to_vec()).ok()
    }
}

impl CursorKey for JobId {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_i64().to_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        i64::from_bytes(bytes).map(Self::from_i64)
    }
}

macro_rules! uuid_keys {
    ($($id:ty),*) => {
        $(
            impl CursorKey for $id {
                fn to_bytes(&self) -> Vec<u8> {
                    self.as_uuid().as_bytes().to_vec()
                }

                fn from_bytes(bytes: &[u8]) -> Option<Self> {
                    Uuid::from_slice(bytes).ok().map(Self::from_uuid)
                }
            }
        )*
    };
}

uuid_keys!(ApiKeyId, DeliveryId, EndpointId, TenantId, UserId, WorkerId);

/// The list that a cursor belongs to, as a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListScope([u8; 16]);

impl ListScope {
    /// The list at `path`, read by `tenant` with `filters`.
    ///
    /// # Errors
    /// A problem of status 500 when the filters cannot be represented as JSON.
    pub(crate) fn new(
        path: &str,
        tenant: TenantId,
        filters: &impl Serialize,
    ) -> Result<Self, Problem> {
        let filters = serde_json::to_vec(filters).map_err(Problem::internal)?;
        let hash = Sha256::new()
            .chain_update(path)
            .chain_update([0])
            .chain_update(tenant.as_uuid())
            .chain_update(filters)
            .finalize();
        Ok(Self(first_half(hash.into())))
    }
}

/// Issues and reads cursors.
#[derive(Clone)]
pub(crate) struct Cursors {
    keys: Arc<[[u8; 32]]>,
}

impl fmt::Debug for Cursors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cursors(redacted)")
    }
}

impl Cursors {
    pub(crate) fn new(keys: &MasterKeys) -> Self {
        Self {
            keys: keys.derive_all("cursor").into(),
        }
    }

    /// The cursor of the page that follows the item with this key.
    pub(crate) fn write(&self, list: ListScope, key: &impl CursorKey) -> Option<String> {
        let signing_key = self.keys.first()?;
        let body = [&[VERSION], key.to_bytes().as_slice(), list.0.as_slice()].concat();
        let tag = first_half(mac(signing_key, &body).finalize().into_bytes().into());
        Some(BASE64.encode([body.as_slice(), tag.as_slice()].concat()))
    }

    /// The key that a cursor of this list holds.
    ///
    /// # Errors
    /// A problem of status 400 when the platform did not issue the cursor, or issued it for another list.
    pub(crate) fn read<K: CursorKey>(&self, list: ListScope, cursor: &str) -> Result<K, Problem> {
        let (key, cursor_list) = self.open(cursor).ok_or_else(invalid)?;
        if cursor_list != list {
            return Err(Problem::new(
                Code::InvalidCursor,
                "the cursor belongs to a list with other filters",
            ));
        }
        K::from_bytes(&key).ok_or_else(invalid)
    }

    fn open(&self, cursor: &str) -> Option<(Vec<u8>, ListScope)> {
        let bytes = BASE64.decode(cursor).ok()?;
        let (body, tag) = bytes.split_last_chunk::<16>()?;
        let (key, list) = body.strip_prefix(&[VERSION])?.split_last_chunk::<16>()?;
        let is_genuine = |key| mac(key, body).verify_truncated_left(tag).is_ok();
        self.keys
            .iter()
            .any(is_genuine)
            .then(|| (key.to_vec(), ListScope(*list)))
    }
}

fn invalid() -> Problem {
    Problem::new(
        Code::InvalidCursor,
        "the cursor was not issued by this list",
    )
}

/// HMAC-SHA256 of `body`.
pub(crate) fn mac(key: &[u8; 32], body: &[u8]) -> Hmac<Sha256> {
    // RFC 2104 §2 pads a key with zeros to a block; passing the block avoids an error that cannot occur.
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    Hmac::new(&block.into()).chain_update(body)
}

fn first_half(hash: [u8; 32]) -> [u8; 16] {
    hash.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(texts: &[&str]) -> Cursors {
        Cursors::new(&MasterKeys::parse(&texts.join(",")).unwrap())
    }

    #[test]
    fn cursor_is_valid_for_its_own_list_only() {
        let (old, new) = (MasterKeys::generate(), MasterKeys::generate());
        let (tenant, other) = (TenantId::new(), TenantId::new());
        let scope = |path, tenant, filter: &str| ListScope::new(path, tenant, &[filter]).unwrap();
        let list = scope("/v1/jobs", tenant, "a");
        let key = 7_i64;
        let cursor = keys(&[&old]).write(list, &key).unwrap();
        assert_eq!(keys(&[&new, &old]).read::<i64>(list, &cursor).unwrap(), key);

        let refused = |cursors: Cursors, list, cursor: &str| {
            cursors
                .read::<i64>(list, cursor)
                .unwrap_err()
                .status()
                .as_u16()
        };
        for foreign in [
            scope("/v1/jobs", tenant, "b"),
            scope("/v1/jobs", other, "a"),
            scope("/v1/deliveries", tenant, "a"),
        ] {
            assert_eq!(refused(keys(&[&old]), foreign, &cursor), 400);
        }
        assert_eq!(refused(keys(&[&new]), list, &cursor), 400);
        for at in 0..cursor.len() {
            let mut forged = cursor.clone();
            let with = if forged.get(at..=at) == Some("A") {
                "B"
            } else {
                "A"
            };
            forged.replace_range(at..=at, with);
            assert_eq!(refused(keys(&[&old]), list, &forged), 400, "{at}");
        }
        for text in ["x", "====", &cursor[1..], &format!("{cursor}A")] {
            assert_eq!(refused(keys(&[&old]), list, text), 400, "{text}");
        }
    }
}
