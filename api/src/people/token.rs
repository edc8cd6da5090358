//! Room: texts whose knowledge is a right: of sessions, of links, of sign-ins under way.
//! Takes: randomness, or what a browser sent. Gives: the text, once, and what is stored of it.
//! Never: is stored or shown in a log.
//!
//! What is stored is a plain SHA-256: 256 random bits cannot be guessed, so that no key is needed to
//! keep them from being searched, and none has to be kept for them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

/// Characters of the text: 256 bits in base64url.
const LENGTH: usize = 43;

/// 256 random bits as text.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A fresh one.
    #[must_use]
    pub(crate) fn generate() -> Self {
        Self(BASE64.encode(rand::rng().random::<[u8; 32]>()))
    }

    /// The token of a text that has the form of one.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == LENGTH && BASE64.decode(text).is_ok();
        fits.then(|| Self(text.to_owned()))
    }

    /// What is stored.
    #[must_use]
    pub(crate) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// The text, for the one answer that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_nothing_else_is() {
        let token = Token::generate();
        assert_eq!(Token::parse(token.expose()), Some(token.clone()));
        assert_ne!(token, Token::generate());
        assert_eq!(format!("{token:?}"), "Token(redacted)");
        let text = token.expose();
        for other in [
            "",
            "x",
            &format!("{text}A"),
            &text[1..],
            &"ä".repeat(43),
            &"=".repeat(43),
        ] {
            assert_eq!(Token::parse(other), None, "{other}");
        }
    }
}
