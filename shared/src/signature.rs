//! Room: signatures of webhooks, as Standard Webhooks 1.0.0 has them
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//! Takes: a secret, the message's id, the time of the attempt and the very bytes that are sent.
//! Gives: the value of `webhook-signature`, or whether one is right.
//! Never: serialises a body, reads a clock, stores a secret or prints one.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::Rng as _;
use sha2::Sha256;

/// What a serialised secret starts with.
const SECRET_PREFIX: &str = "whsec_";

/// How many bytes a secret may have.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// How far a timestamp may lie from the receiver's clock, either way; what every reference library
/// allows.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// The text is not a webhook secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// It does not start with `whsec_`.
    #[error("a webhook secret starts with `whsec_`")]
    Prefix,
    /// What follows is not base64 with its padding.
    #[error("a webhook secret is standard base64 after `whsec_`")]
    Base64,
    /// It is too short to be safe, or too long to be one.
    #[error("a webhook secret has 24 to 64 bytes")]
    Length,
}

/// The key an endpoint's messages are signed with: 24 to 64 bytes.
#[derive(Clone)]
pub struct WebhookSecret(Vec<u8>);

impl WebhookSecret {
    /// A fresh secret of 32 random bytes.
    #[must_use]
    pub fn generate() -> Self {
        let mut key = vec![0; 32];
        rand::rng().fill_bytes(&mut key);
        Self(key)
    }

    /// Reads `whsec_` and standard base64.
    ///
    /// # Errors
    /// [`InvalidSecret`], which never repeats the text.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text
            .strip_prefix(SECRET_PREFIX)
            .ok_or(InvalidSecret::Prefix)?;
        let key = BASE64.decode(encoded).map_err(|_| InvalidSecret::Base64)?;
        if SECRET_BYTES.contains(&key.len()) {
            Ok(Self(key))
        } else {
            Err(InvalidSecret::Length)
        }
    }

    /// The secret as its owner keeps it: `whsec_…`. For the answer that shows it and for the vault.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{SECRET_PREFIX}{}", BASE64.encode(&self.0))
    }

    /// The signature of one attempt: `v1,<base64>` (§ "Signature scheme").
    ///
    /// `timestamp` is in Unix seconds and that of this attempt; `body` the bytes as they are sent.
    /// `id` must hold no `.`, which ends it in the signed text.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mac = self.mac(id, timestamp, body).finalize().into_bytes();
        format!("v1,{}", BASE64.encode(mac))
    }

    fn mac(&self, id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
        hmac_sha256(&self.0)
            .chain_update(id)
            .chain_update(format!(".{timestamp}."))
            .chain_update(body)
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(redacted)")
    }
}

/// The value of `webhook-signature` while secrets are rotated: one signature a secret, separated by
/// spaces, in the order given. Put the current secret first.
#[must_use]
pub fn sign_all(secrets: &[WebhookSecret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures: Vec<String> = secrets
        .iter()
        .map(|secret| secret.sign(id, timestamp, body))
        .collect();
    signatures.join(" ")
}

/// Why a message is not to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The id holds a `.`, so that the signed text could be read in two ways.
    #[error("the message id is malformed")]
    Id,
    /// Signed longer ago than the tolerance: perhaps a replay.
    #[error("the message timestamp is too old")]
    TooOld,
    /// Signed further ahead than the tolerance: one of the clocks is wrong.
    #[error("the message timestamp is in the future")]
    InFuture,
    /// The header holds no signature of version `v1`.
    #[error("the message carries no v1 signature")]
    NoSignature,
    /// None of the signatures is that of this message under this secret.
    #[error("no signature matches")]
    Mismatch,
}

/// Whether one of the signatures in `header` is that of the message (§ "Verifying webhook
/// authenticity").
///
/// `timestamp` and `now` are in Unix seconds. Signatures of other versions are passed over, and they
/// are compared in constant time.
///
/// # Errors
/// [`VerifyError`].
pub fn verify(
    secret: &WebhookSecret,
    id: &str,
    timestamp: i64,
    header: &str,
    body: &[u8],
    now: i64,
    tolerance: Duration,
) -> Result<(), VerifyError> {
    if id.contains('.') {
        return Err(VerifyError::Id);
    }
    if now.abs_diff(timestamp) > tolerance.as_secs() {
        return Err(if timestamp < now {
            VerifyError::TooOld
        } else {
            VerifyError::InFuture
        });
    }
    let mut signatures = header
        .split(' ')
        .filter_map(|signature| signature.strip_prefix("v1,"))
        .peekable();
    signatures.peek().ok_or(VerifyError::NoSignature)?;
    let mac = secret.mac(id, timestamp, body);
    let matches = |signature: &str| {
        // The comparison of `hmac` takes the same time wherever the bytes differ.
        BASE64
            .decode(signature)
            .is_ok_and(|bytes| mac.clone().verify_slice(&bytes).is_ok())
    };
    if signatures.any(matches) {
        Ok(())
    } else {
        Err(VerifyError::Mismatch)
    }
}

/// HMAC-SHA256 with a key of at most 64 bytes, which is all that this crate has.
///
/// Such a key is padded with zeros to a block (RFC 2104 §2). Giving the whole block spares an error
/// that cannot come.
pub(crate) fn hmac_sha256(key: &[u8]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    Hmac::new(&block.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const AT: i64 = 1_649_367_553;
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;

    fn secret_a() -> WebhookSecret {
        WebhookSecret::parse("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap()
    }

    #[test]
    fn signatures_agree_with_the_published_vectors() {
        let a = secret_a().sign(ID, AT, BODY);
        assert_eq!(a, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
        let body = br#"{"event_type":"ping","data":{"success":true}}"#;
        // Vector B's secret has 18 bytes, fewer than the standard asks for, so `parse` refuses it.
        let short = WebhookSecret(BASE64.decode("plJ3nmyCDGBKInavdOK15jsl").unwrap());
        let b = short.sign("msg_loFOjxBNrRLzqYUf", 1_731_705_121, body);
        assert_eq!(b, "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=");
    }

    #[test]
    fn a_secret_survives_its_text_and_hides_in_debug() {
        let secret = WebhookSecret::generate();
        assert_eq!(secret.0.len(), 32);
        assert_eq!(WebhookSecret::parse(&secret.expose()).unwrap().0, secret.0);
        assert_eq!(format!("{secret:?}"), "WebhookSecret(redacted)");
    }

    #[test]
    fn weak_and_malformed_secrets_are_refused() {
        let parse = |text: &str| WebhookSecret::parse(text).err();
        let of = |bytes: usize| format!("whsec_{}", BASE64.encode(vec![7; bytes]));
        assert_eq!(parse("whsec_"), Some(InvalidSecret::Length));
        assert_eq!(parse(&of(23)), Some(InvalidSecret::Length));
        assert_eq!(parse(&of(65)), Some(InvalidSecret::Length));
        assert_eq!(parse(&of(24)), None);
        assert_eq!(parse(&of(64)), None);
        assert_eq!(parse(""), Some(InvalidSecret::Prefix));
        assert_eq!(parse("whsk_AAAA"), Some(InvalidSecret::Prefix));
        assert_eq!(parse("whsec_!!!!"), Some(InvalidSecret::Base64));
    }

    #[test]
    fn during_a_rotation_either_secret_verifies_and_the_current_one_comes_first() {
        let (new, old) = (WebhookSecret::generate(), secret_a());
        let header = sign_all(&[new.clone(), old.clone()], ID, AT, BODY);
        assert!(header.starts_with(&new.sign(ID, AT, BODY)));
        for secret in [&new, &old] {
            assert_eq!(verify(secret, ID, AT, &header, BODY, AT, TOLERANCE), Ok(()));
        }
        let stranger = WebhookSecret::generate();
        let refused = verify(&stranger, ID, AT, &header, BODY, AT, TOLERANCE);
        assert_eq!(refused, Err(VerifyError::Mismatch));
    }

    #[test]
    fn five_minutes_either_way_are_tolerated_and_no_second_more() {
        let header = secret_a().sign(ID, AT, BODY);
        let at = |now| verify(&secret_a(), ID, AT, &header, BODY, now, TOLERANCE);
        assert_eq!((at(AT - 300), at(AT + 300)), (Ok(()), Ok(())));
        assert_eq!(at(AT + 301), Err(VerifyError::TooOld));
        assert_eq!(at(AT - 301), Err(VerifyError::InFuture));
        assert_eq!(at(i64::MAX), Err(VerifyError::TooOld));
        assert_eq!(at(i64::MIN), Err(VerifyError::InFuture));
    }

    #[test]
    fn headers_without_a_usable_signature_are_told_apart() {
        let with = |header: &str| verify(&secret_a(), ID, AT, header, BODY, AT, TOLERANCE);
        for header in ["", " ", "v1", "v1a,AAAA", "AAAA", "v2,tZ1I4/hDygA="] {
            assert_eq!(with(header), Err(VerifyError::NoSignature), "{header}");
        }
        for header in ["v1,", "v1,!", "v1,AAAA"] {
            assert_eq!(with(header), Err(VerifyError::Mismatch), "{header}");
        }
        let among_others = format!("v1a,AAAA v1,AAAA {}", secret_a().sign(ID, AT, BODY));
        assert_eq!(with(&among_others), Ok(()));
    }

    #[test]
    fn an_id_with_a_dot_cannot_move_the_boundary() {
        let header = secret_a().sign("msg", 1, b"2.body");
        let moved = verify(&secret_a(), "msg.1", 2, &header, b"body", 2, TOLERANCE);
        assert_eq!(moved, Err(VerifyError::Id));
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_and_nothing_else_does(
            id in "[a-z0-9_]{1,30}", body: Vec<u8>, other: Vec<u8>, now: i64,
        ) {
            let header = secret_a().sign(&id, now, &body);
            prop_assert_eq!(verify(&secret_a(), &id, now, &header, &body, now, TOLERANCE), Ok(()));
            if other != body {
                let refused = verify(&secret_a(), &id, now, &header, &other, now, TOLERANCE);
                prop_assert_eq!(refused, Err(VerifyError::Mismatch));
            }
        }

        #[test]
        fn no_header_breaks_the_check(header in "(v1,)?\\PC{0,80}") {
            prop_assert!(verify(&secret_a(), ID, AT, &header, BODY, AT, TOLERANCE).is_err());
        }
    }
}
