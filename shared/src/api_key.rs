//! Room: the text of API keys.
//! Takes: randomness, or the text a caller sent.
//! Gives: a new key to show once; what of a key is stored and looked up; whether a caller's text is
//! that key.
//! Never: reads the database, keeps a key, or says what a key may do.
//!
//! A key reads `hk_` + 8 characters of public id + 32 random ones + 6 of checksum, all base62. The
//! public id finds the row; the checksum (CRC-32 of all before it) lets a mistyped key be refused, and
//! a leaked one be recognised, without a database. It is no protection, nor needs to be: 32 characters
//! carry 190 bits.

use std::fmt;

use hmac::Mac as _;
use rand::distr::{Alphanumeric, SampleString as _};
use subtle::{Choice, ConstantTimeEq as _};

use crate::signature::hmac_sha256;

/// What every key starts with, so that scanners know it.
const PREFIX: &str = "hk_";

/// Characters of public id.
const PUBLIC: usize = 8;

/// Characters of randomness.
const RANDOM: usize = 32;

/// Characters of checksum: 62⁶ > 2³².
const CHECKSUM: usize = 6;

/// Where the checksum starts.
const BODY: usize = PREFIX.len() + PUBLIC + RANDOM;

/// The digits of the checksum, in order of value.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The text is not an API key. It is never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidApiKey {
    /// Another prefix, another length or a foreign character.
    #[error("not an API key: expected `hk_` and 46 letters and digits")]
    Format,
    /// The form is right but the checksum is not: mistyped, or cut and pasted from elsewhere.
    #[error("the API key is mistyped: its checksum does not match")]
    Checksum,
}

/// A key that was just made. Show `text` once, store the hash and the other two.
#[derive(Debug)]
pub struct NewApiKey {
    /// The key itself.
    pub text: ApiKeyText,
    /// What the row is found by: 8 base62 characters.
    pub public_id: String,
    /// The last 4 characters of the text, by which its owner knows it again.
    pub last4: String,
}

impl NewApiKey {
    /// A fresh key.
    #[must_use]
    pub fn generate() -> Self {
        // `Alphanumeric` rejects rather than wraps, so that every character is equally likely.
        let random = Alphanumeric.sample_string(&mut rand::rng(), PUBLIC + RANDOM);
        let body = format!("{PREFIX}{random}");
        let text = ApiKeyText(format!("{body}{}", checksum(&body)));
        let last4 = text
            .0
            .get(BODY + CHECKSUM - 4..)
            .unwrap_or_default()
            .to_owned();
        Self {
            public_id: text.public_id().to_owned(),
            last4,
            text,
        }
    }
}

/// The text of a key whose form and checksum are right; whether it exists is for the database.
#[derive(Clone)]
pub struct ApiKeyText(String);

impl ApiKeyText {
    /// Reads a key's text.
    ///
    /// # Errors
    /// [`InvalidApiKey`], found without a database.
    pub fn parse(text: &str) -> Result<Self, InvalidApiKey> {
        let digits = text.strip_prefix(PREFIX).ok_or(InvalidApiKey::Format)?;
        if text.len() != BODY + CHECKSUM || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(InvalidApiKey::Format);
        }
        let (body, sum) = text.split_at_checked(BODY).ok_or(InvalidApiKey::Format)?;
        if checksum(body) == sum {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidApiKey::Checksum)
        }
    }

    /// The text, for the one answer that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What the row is found by. Not secret.
    #[must_use]
    pub fn public_id(&self) -> &str {
        self.0
            .get(PREFIX.len()..PREFIX.len() + PUBLIC)
            .unwrap_or_default()
    }

    /// What is stored: HMAC-SHA256 of the whole text under the pepper.
    #[must_use]
    pub fn hash(&self, pepper: &[u8; 32]) -> [u8; 32] {
        hmac_sha256(pepper)
            .chain_update(&self.0)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Whether `stored` is this key's hash under one of the peppers.
    ///
    /// Takes the same time wherever the bytes differ and whichever pepper matches.
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
    let mut digits = [b'0'; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        let value = usize::try_from(rest % 62).unwrap_or_default();
        *digit = BASE62.get(value).copied().unwrap_or(b'0');
        rest /= 62;
    }
    digits.map(char::from).iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_key_has_the_documented_form() {
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
    fn the_checksum_is_crc32_in_base62() {
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
    fn text_of_another_form_is_refused() {
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
    fn only_the_right_key_under_a_known_pepper_verifies() {
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
        fn one_wrong_character_never_passes(at in 3..49_usize, with in "[0-9A-Za-z]") {
            let key = NewApiKey::generate();
            let mut text = key.text.expose().to_owned();
            text.replace_range(at..=at, &with);
            if text != key.text.expose() {
                prop_assert_eq!(ApiKeyText::parse(&text).err(), Some(InvalidApiKey::Checksum));
            }
        }

        #[test]
        fn no_text_breaks_the_parser(text in "(hk_)?\\PC{0,60}") {
            prop_assert!(ApiKeyText::parse(&text).is_err());
        }
    }
}
