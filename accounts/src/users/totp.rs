//! Codes of an authenticator app (RFC 6238: SHA-1, six digits, thirty seconds).
//!
//! A code is accepted one step early or late. Returns the step of a code; that each step is used once is
//! ensured by the database.

use harkara_shared::id::UserId;
use harkara_shared::vault::MasterKeys;
use rand::RngExt as _;
use totp_rs::{Builder, Totp};

use super::Error;

/// Issuer that authenticator apps show.
const ISSUER: &str = "Harkara";

/// Length of a secret: that of a SHA-1 digest (RFC 4226 §4).
const SECRET_BYTES: usize = 20;

/// A user's authenticator.
#[derive(Clone)]
pub struct Authenticator(Totp);

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authenticator(redacted)")
    }
}

impl Authenticator {
    /// Generates an authenticator. Returns it with its sealed secret, for storage.
    ///
    /// # Errors
    /// When the secret cannot be sealed.
    pub fn generate(
        keys: &MasterKeys,
        user: UserId,
        email: &str,
    ) -> Result<(Self, Vec<u8>), Error> {
        let secret = rand::rng().random::<[u8; SECRET_BYTES]>();
        let sealed = keys.seal(&secret, &context(user))?;
        Ok((Self::of(secret.to_vec(), email)?, sealed))
    }

    /// Opens a stored authenticator.
    ///
    /// # Errors
    /// When the secret cannot be opened.
    pub fn open(
        keys: &MasterKeys,
        user: UserId,
        email: &str,
        sealed: &[u8],
    ) -> Result<Self, Error> {
        Self::of(keys.open(sealed, &context(user))?, email)
    }

    fn of(secret: Vec<u8>, email: &str) -> Result<Self, Error> {
        Builder::new()
            .with_secret(secret)
            // In the URL a colon separates the issuer from the account.
            .with_account_name(email.replace(':', "_"))
            .with_issuer(Some(ISSUER))
            .build()
            .map(Self)
            .map_err(|error| Error::Internal(error.to_string()))
    }

    /// The step of this code, if it is valid at `seconds` (Unix time).
    #[must_use]
    pub fn step(&self, code: &str, seconds: i64) -> Option<i64> {
        let code = code.trim();
        let is_code = code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = u64::try_from(seconds).ok().filter(|_| is_code)?;
        i64::try_from(self.0.check(code, seconds)?).ok()
    }

    /// The secret in base32, to be typed in.
    #[must_use]
    pub fn secret(&self) -> String {
        self.0.secret().to_base32()
    }

    /// The `otpauth:` URL, to be shown as a QR code.
    ///
    /// # Errors
    /// Never, with an account name.
    pub fn url(&self) -> Result<String, Error> {
        self.0
            .to_url()
            .map_err(|error| Error::Internal(error.to_string()))
    }
}

fn context(user: UserId) -> String {
    format!("app.users/{user}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, Appendix B, SHA-1; the last six of its eight digits.
    const VECTORS: [(i64, &str); 6] = [
        (59, "287082"),
        (1_111_111_109, "081804"),
        (1_111_111_111, "050471"),
        (1_234_567_890, "005924"),
        (2_000_000_000, "279037"),
        (20_000_000_000, "353130"),
    ];

    fn of_the_rfc() -> Authenticator {
        Authenticator::of(b"12345678901234567890".to_vec(), "ada@example.com").unwrap()
    }

    #[test]
    fn codes_match_the_vectors_of_rfc_6238() {
        for (seconds, code) in VECTORS {
            assert_eq!(
                of_the_rfc().step(code, seconds),
                Some(seconds / 30),
                "{seconds}"
            );
        }
    }

    #[test]
    fn code_is_accepted_at_most_one_step_early_or_late() {
        let (seconds, code) = (1_234_567_890, "005924");
        let step = seconds / 30;
        for (moment, found) in [
            (seconds - 60, None),
            (seconds - 30, Some(step)),
            (seconds + 30, Some(step)),
            (seconds + 60, None),
        ] {
            assert_eq!(of_the_rfc().step(code, moment), found, "{moment}");
        }
        for text in ["", "5924", "0005924", "00592a", "００５９２４"] {
            assert_eq!(of_the_rfc().step(text, seconds), None, "{text}");
        }
        assert_eq!(of_the_rfc().step(" 005924 ", seconds), Some(step));
    }

    #[test]
    fn sealed_authenticator_opens_for_its_user_only() {
        let keys = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        let (ada, bob) = (UserId::new(), UserId::new());
        let (made, sealed) = Authenticator::generate(&keys, ada, "ada@example.com").unwrap();
        let opened = Authenticator::open(&keys, ada, "ada@example.com", &sealed).unwrap();
        assert_eq!(opened.secret(), made.secret());
        assert_eq!(made.secret().len(), 32);
        assert!(Authenticator::open(&keys, bob, "ada@example.com", &sealed).is_err());
        let url = made.url().unwrap();
        assert!(
            url.starts_with("otpauth://totp/Harkara:ada%40example.com?secret="),
            "{url}"
        );
    }
}
