//! Links to a tenant's portal.
//!
//! Writes a tenant and an expiry as a signed text, and reads the text while it is valid. Stores nothing, so
//! a single link cannot be revoked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cursor::mac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use chrono::{DateTime, SubsecRound as _, Utc};
use harkara_shared::clock;
use harkara_shared::id::{PortalLinkId, TenantId};
use harkara_shared::vault::MasterKeys;
use hmac::Mac as _;
use uuid::Uuid;

/// Format version: the first byte of a link.
const VERSION: u8 = 1;

/// Access to a tenant's webhooks for everyone who knows the link's text, until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortalLink {
    /// Id of the link, which identifies its users in the audit log.
    pub id: PortalLinkId,
    /// Tenant whose portal the link opens.
    pub tenant: TenantId,
    /// When the link expires, in whole seconds.
    pub expires_at: DateTime<Utc>,
}

impl PortalLink {
    /// Returns a new link that expires after `lifetime`.
    #[must_use]
    pub fn new(tenant: TenantId, lifetime: Duration) -> Self {
        Self {
            id: PortalLinkId::new(),
            tenant,
            expires_at: (clock::now() + lifetime).trunc_subsecs(0),
        }
    }

    /// The bytes that are signed.
    fn bytes(&self) -> Vec<u8> {
        let seconds = self.expires_at.timestamp().to_be_bytes();
        let (tenant, id) = (self.tenant.as_uuid(), self.id.as_uuid());
        [
            &[VERSION],
            tenant.as_bytes().as_slice(),
            id.as_bytes(),
            &seconds,
        ]
        .concat()
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let (tenant, rest) = bytes.strip_prefix(&[VERSION])?.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let seconds = i64::from_be_bytes(rest.try_into().ok()?);
        Some(Self {
            id: PortalLinkId::from_uuid(Uuid::from_bytes(*id)),
            tenant: TenantId::from_uuid(Uuid::from_bytes(*tenant)),
            expires_at: DateTime::from_timestamp(seconds, 0)?,
        })
    }
}

/// Signs and verifies portal links.
#[derive(Clone)]
pub struct PortalLinks {
    keys: Arc<[[u8; 32]]>,
}

impl fmt::Debug for PortalLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PortalLinks(redacted)")
    }
}

impl PortalLinks {
    /// Signs links with the newest master key; links signed with any listed key are valid.
    #[must_use]
    pub fn new(keys: &MasterKeys) -> Self {
        Self {
            keys: keys.derive_all("portal-link").into(),
        }
    }

    /// Returns the text of a link, or `None` if there is no master key.
    #[must_use]
    pub fn write(&self, link: &PortalLink) -> Option<String> {
        let bytes = link.bytes();
        let tag = mac(self.keys.first()?, &bytes).finalize().into_bytes();
        Some(BASE64.encode([bytes.as_slice(), tag.as_slice()].concat()))
    }

    /// Returns the link if its signature is valid and it has not expired.
    #[must_use]
    pub fn read(&self, text: &str) -> Option<PortalLink> {
        let bytes = BASE64.decode(text).ok()?;
        let (bytes, tag) = bytes.split_last_chunk::<32>()?;
        let is_valid = |key| mac(key, bytes).verify_slice(tag).is_ok();
        if !self.keys.iter().any(is_valid) {
            return None;
        }
        PortalLink::of(bytes).filter(|link| link.expires_at > clock::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(texts: &[&str]) -> PortalLinks {
        PortalLinks::new(&MasterKeys::parse(&texts.join(",")).unwrap())
    }

    fn link() -> PortalLink {
        PortalLink::new(TenantId::new(), Duration::from_secs(60))
    }

    #[test]
    fn link_is_valid_until_it_expires() {
        let links = links(&[&MasterKeys::generate()]);
        let valid = link();
        assert_eq!(links.read(&links.write(&valid).unwrap()), Some(valid));
        let expired = PortalLink {
            expires_at: clock::now().trunc_subsecs(0),
            ..link()
        };
        assert_eq!(links.read(&links.write(&expired).unwrap()), None);
    }

    #[test]
    fn link_is_valid_while_its_signing_key_is_listed() {
        let (old, new) = (MasterKeys::generate(), MasterKeys::generate());
        let link = link();
        let text = links(&[&old]).write(&link).unwrap();
        assert_eq!(links(&[&new, &old]).read(&text), Some(link));
        assert_eq!(links(&[&new]).read(&text), None);
    }

    #[test]
    fn altered_link_is_rejected() {
        let links = links(&[&MasterKeys::generate()]);
        let text = links.write(&link()).unwrap();
        for at in 0..text.len() {
            let with = if text.get(at..=at) == Some("A") {
                "B"
            } else {
                "A"
            };
            let mut forged = text.clone();
            forged.replace_range(at..=at, with);
            assert_eq!(links.read(&forged), None, "{at}");
            assert_eq!(links.read(&text[..at]), None, "{at}");
        }
        assert_eq!(links.read(&format!("{text}A")), None);
        assert_eq!(format!("{links:?}"), "PortalLinks(redacted)");
    }
}
