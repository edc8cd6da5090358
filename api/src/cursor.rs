//! Room: where a page ended.
//! Takes: a list (route, tenant, filters) and the last item's id or name. Gives: an opaque cursor, and the
//! id or name back. Never: accepts a cursor that this platform did not make for this very list.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use harkara_shared::id::TenantId;
use harkara_shared::vault::MasterKeys;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::problem::{Code, Problem};

/// The first byte of a cursor.
const VERSION: u8 = 1;

/// An item's id in sixteen bytes.
pub(crate) type Place = [u8; 16];

/// The place of an item that is known by a number.
pub(crate) fn place_of(number: i64) -> Place {
    i128::from(number).to_be_bytes()
}

/// The number of an item by its place.
pub(crate) fn number_at(place: Place) -> i64 {
    // Only places that `place_of` made come back: cursors are signed.
    i64::try_from(i128::from_be_bytes(place)).unwrap_or_default()
}

/// A list, as far as a cursor must stay within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct List([u8; 16]);

impl List {
    /// The list that `route` answers to `tenant` for `filters`.
    pub(crate) fn of(route: &str, tenant: TenantId, filters: &impl Serialize) -> Self {
        // Filters are structs of strings, which can always be written.
        let filters = serde_json::to_vec(filters).unwrap_or_default();
        let hash = Sha256::new()
            .chain_update(route)
            .chain_update([0])
            .chain_update(tenant.as_uuid())
            .chain_update(filters)
            .finalize();
        Self(first_half(hash.into()))
    }
}

/// Makes and reads cursors.
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

    /// The cursor of the page that follows the item at `place`.
    pub(crate) fn write(&self, list: List, place: impl AsRef<[u8]>) -> Option<String> {
        let key = self.keys.first()?;
        let body = [&[VERSION], place.as_ref(), list.0.as_slice()].concat();
        let tag = first_half(mac(key, &body).finalize().into_bytes().into());
        Some(BASE64.encode([body.as_slice(), tag.as_slice()].concat()))
    }

    /// The place a cursor stands for.
    ///
    /// # Errors
    /// A problem of status 400 when it is none of ours, or one of another list.
    pub(crate) fn read(&self, list: List, cursor: &str) -> Result<Place, Problem> {
        let place = self.read_bytes(list, cursor)?;
        place.try_into().map_err(|_| not_ours())
    }

    /// The place a cursor stands for in a list whose items are known by their names.
    ///
    /// # Errors
    /// As [`Cursors::read`].
    pub(crate) fn read_name(&self, list: List, cursor: &str) -> Result<String, Problem> {
        let place = self.read_bytes(list, cursor)?;
        String::from_utf8(place).map_err(|_| not_ours())
    }

    fn read_bytes(&self, list: List, cursor: &str) -> Result<Vec<u8>, Problem> {
        let (place, of) = self.open(cursor).ok_or_else(not_ours)?;
        if of == list {
            Ok(place)
        } else {
            Err(Problem::new(
                Code::InvalidCursor,
                "the cursor belongs to a list with other filters",
            ))
        }
    }

    /// The id before which a page begins, when items are named by UUIDs; `None` for the first page.
    ///
    /// # Errors
    /// As [`Cursors::read`].
    pub(crate) fn before(&self, list: List, cursor: Option<&str>) -> Result<Option<Uuid>, Problem> {
        cursor
            .map(|cursor| self.read(list, cursor).map(Uuid::from_bytes))
            .transpose()
    }

    fn open(&self, cursor: &str) -> Option<(Vec<u8>, List)> {
        let bytes = BASE64.decode(cursor).ok()?;
        let (body, tag) = bytes.split_last_chunk::<16>()?;
        let (place, list) = body.strip_prefix(&[VERSION])?.split_last_chunk::<16>()?;
        let genuine = |key| mac(key, body).verify_truncated_left(tag).is_ok();
        self.keys
            .iter()
            .any(genuine)
            .then(|| (place.to_vec(), List(*list)))
    }
}

fn not_ours() -> Problem {
    Problem::new(
        Code::InvalidCursor,
        "the cursor is not one that this list answered",
    )
}

/// HMAC-SHA256 of `body`.
pub(crate) fn mac(key: &[u8; 32], body: &[u8]) -> Hmac<Sha256> {
    // A key is padded with zeros to a block (RFC 2104 §2); giving the block spares an error that
    // cannot come.
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
    fn a_cursor_leads_back_to_its_place_in_its_list_only() {
        let (old, new) = (MasterKeys::generate(), MasterKeys::generate());
        let (tenant, other) = (TenantId::new(), TenantId::new());
        let list = List::of("/v1/jobs", tenant, &["a"]);
        let place = [7; 16];
        let cursor = keys(&[&old]).write(list, place).unwrap();
        assert_eq!(keys(&[&new, &old]).read(list, &cursor).unwrap(), place);

        let refused = |cursors: Cursors, list, cursor: &str| {
            cursors.read(list, cursor).unwrap_err().status().as_u16()
        };
        for foreign in [
            List::of("/v1/jobs", tenant, &["b"]),
            List::of("/v1/jobs", other, &["a"]),
            List::of("/v1/deliveries", tenant, &["a"]),
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
