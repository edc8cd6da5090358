//! Secret tokens: of sessions, of sign-in links, of sign-ins at a provider.
//!
//! A token is shown once and never logged. Its SHA-256 is stored: 256 random bits cannot be guessed, so the
//! hash needs no key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

/// Number of characters: 256 bits in base64url.
const LENGTH: usize = 43;

/// A secret token: 256 random bits in base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Generates a token.
    #[must_use]
    pub fn generate() -> Self {
        Self(BASE64.encode(rand::rng().random::<[u8; 32]>()))
    }

    /// Parses a token; `None` when the text does not have the form of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == LENGTH && BASE64.decode(text).is_ok();
        fits.then(|| Self(text.to_owned()))
    }

    /// The hash that is stored.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// The text, for the one response that shows it.
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
    fn token_round_trips_and_other_text_is_rejected() {
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
