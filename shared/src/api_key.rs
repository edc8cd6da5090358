//! The text format of API keys.
//!
//! A key is `hk_` + 8 characters of public id + 32 random characters + 6 characters of checksum, all
//! base62. The public id finds the stored row. The checksum (CRC-32 of everything before it) lets a
//! mistyped key be rejected, and a leaked one be recognized, without a database; it is not a
//! protection, and none is needed: 32 characters carry 190 bits.
//!
//! This module does not read the database, store keys or decide what a key permits.

use std::fmt;

use hmac::Mac as _;
use rand::distr::{Alphanumeric, SampleString as _};
use subtle::{Choice, ConstantTimeEq as _};

use crate::signature::hmac_sha256;

/// Prefix of every key, so that secret scanners recognize it.
const PREFIX: &str = "hk_";

/// Length of the public id.
const PUBLIC_ID_LEN: usize = 8;

/// Length of the random part.
const RANDOM_LEN: usize = 32;

/// Length of the checksum: 62⁶ > 2³².
const CHECKSUM_LEN: usize = 6;

/// Length of everything before the checksum.
const BODY_LEN: usize = PREFIX.len() + PUBLIC_ID_LEN + RANDOM_LEN;

/// Length of the part of the checksum that owners are shown.
const LAST_LEN: usize = 4;

/// The text is not an API key. Messages never repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidApiKey {
    /// Wrong prefix, wrong length or a character outside base62.
    #[error("not an API key: expected `hk_` and 46 letters and digits")]
    Format,
    /// The format is right but the checksum is not: the key was mistyped or pasted incompletely.
    #[error("the API key is mistyped: its checksum does not match")]
    Checksum,
}

/// A new key. Show `text` once; store its hash and the other two fields.
#[derive(Debug)]
pub struct NewApiKey {
    /// The full key.
    pub text: ApiKeyText,
    /// The lookup key of the stored row: 8 base62 characters.
    pub public_id: String,
    /// The last 4 characters of the text, by which its owner recognizes it.
    pub last4: String,
}

impl NewApiKey {
    /// Generates a random key.
    #[must_use]
    pub fn generate() -> Self {
        // `Alphanumeric` rejects out-of-range samples, so every character is equally likely.
        let random = |length| Alphanumeric.sample_string(&mut rand::rng(), length);
        let public_id = random(PUBLIC_ID_LEN);
        let body = format!("{PREFIX}{public_id}{}", random(RANDOM_LEN));
        let checksum = checksum(&body);
        Self {
            last4: checksum.chars().skip(CHECKSUM_LEN - LAST_LEN).collect(),
            text: ApiKeyText {
                text: format!("{body}{checksum}"),
                public_id: public_id.clone(),
            },
            public_id,
        }
    }
}

/// The text of a well-formed key with a valid checksum. Whether the key exists is not known yet.
#[derive(Clone)]
pub struct ApiKeyText {
    text: String,
    public_id: String,
}

impl ApiKeyText {
    /// Parses a key.
    ///
    /// # Errors
    /// [`InvalidApiKey`]; no database is needed to find out.
    pub fn parse(text: &str) -> Result<Self, InvalidApiKey> {
        let digits = text.strip_prefix(PREFIX).ok_or(InvalidApiKey::Format)?;
        if text.len() != BODY_LEN + CHECKSUM_LEN
            || !digits.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return Err(InvalidApiKey::Format);
        }
        let (public_id, _) = digits.split_at(PUBLIC_ID_LEN);
        let (body, sum) = text.split_at(BODY_LEN);
        if checksum(body) == sum {
            Ok(Self {
                text: text.to_owned(),
                public_id: public_id.to_owned(),
            })
        } else {
            Err(InvalidApiKey::Checksum)
        }
    }

    /// The full text, for the one response that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The lookup key of the stored row. Not secret.
    #[must_use]
    pub fn public_id(&self) -> &str {
        &self.public_id
    }

    /// The stored form: HMAC-SHA256 of the whole text under the pepper.
    #[must_use]
    pub fn hash(&self, pepper: &[u8; 32]) -> [u8; 32] {
        hmac_sha256(pepper)
            .chain_update(&self.text)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Whether `stored` is this key's hash under one of the peppers.
    ///
    /// Runs in constant time, wherever the bytes differ and whichever pepper matches.
    #[must_use]
    pub fn verify(&self, stored: &[u8], peppers: &[[u8; 32]]) -> bool {
        let matches = |pepper| self.hash(pepper).as_slice().ct_eq(stored);
        peppers
            .iter()
            .map(matches)
            .fold(Choice::from(0), |any, one| any | one)
            .into()
    }
}

impl fmt::Debug for ApiKeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeyText({PREFIX}{}…redacted)", self.public_id())
    }
}

/// The CRC-32 of the text in six base62 digits.
fn checksum(text: &str) -> String {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        let [.., value] = (rest % 62).to_be_bytes();
        *digit = base62_digit(value);
        rest /= 62;
    }
    digits.map(char::from).iter().collect()
}

/// The base62 digit of a value below 62: digits, then upper case, then lower case.
const fn base62_digit(value: u8) -> u8 {
    match value {
        0..10 => b'0' + value,
        10..36 => b'A' + value - 10,
        _ => b'a' + value - 36,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn new_key_has_the_documented_format() {
        let key = NewApiKey::generate();
        let text = key.text.expose();
        assert_eq!(text.len(), 49);
        assert!(text.starts_with(&format!("hk_{}", key.public_id)));
        assert!(text.ends_with(&key.last4));
        assert_eq!((key.public_id.len(), key.last4.len()), (8, 4));
        assert_eq!(ApiKeyText::parse(text).unwrap().public_id(), key.public_id);
        assert_ne!(text, NewApiKey::generate().text.expose());
    }

    #[test]
    fn checksum_is_crc32_in_base62() {
        // The CRC-32 of "123456789" is 0xCBF43926, its published check value.
        assert_eq!(checksum("123456789"), "3jZRME");
        assert_eq!(checksum(""), "000000");
    }

    #[test]
    fn debug_shows_the_public_id_only() {
        let key = NewApiKey::generate();
        let shown = format!("{:?}", key.text);
        assert_eq!(shown, format!("ApiKeyText(hk_{}…redacted)", key.public_id));
    }

    #[test]
    fn malformed_text_is_rejected() {
        let key = NewApiKey::generate();
        let text = key.text.expose();
        let cut = text.get(..48).unwrap();
        for wrong in [
            "",
            "hk_",
            cut,
            &format!("{text}0"),
            &format!(" {text}"),
            &text.replace("hk_", "sk_"),
            &text.replace("hk_", "HK_"),
            &format!("{cut}-"),
            &format!("hk_{}", "é".repeat(23)),
        ] {
            assert_eq!(
                ApiKeyText::parse(wrong).err(),
                Some(InvalidApiKey::Format),
                "{wrong}"
            );
        }
    }

    #[test]
    fn key_verifies_only_under_a_known_pepper() {
        let (key, other) = (NewApiKey::generate().text, NewApiKey::generate().text);
        let (old, new, unknown) = ([1; 32], [2; 32], [3; 32]);
        let stored = key.hash(&old);
        assert!(key.verify(&stored, &[new, old]));
        assert!(key.verify(&stored, &[old, new]));
        assert!(!other.verify(&stored, &[new, old]));
        assert!(!key.verify(&stored, &[new, unknown]));
        assert!(!key.verify(&stored, &[]));
        assert!(!key.verify(stored.get(..31).unwrap(), &[old]));
        assert!(!key.verify(&[], &[old]));
    }

    proptest! {
        #[test]
        fn wrong_character_fails_the_checksum(at in 3..49_usize, with in "[0-9A-Za-z]") {
            let key = NewApiKey::generate();
            let mut text = key.text.expose().to_owned();
            text.replace_range(at..=at, &with);
            if text != key.text.expose() {
                prop_assert_eq!(ApiKeyText::parse(&text).err(), Some(InvalidApiKey::Checksum));
            }
        }

        #[test]
        fn parser_accepts_any_text_without_panicking(text in "(hk_)?\\PC{0,60}") {
            prop_assert!(ApiKeyText::parse(&text).is_err());
        }
    }
}
