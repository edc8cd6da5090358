//! Room: codes of an authenticator (RFC 6238: SHA-1, six digits, thirty seconds).
//! Takes: a secret, a moment, a code. Gives: the step whose code it is, one step early or late at most.
//! Never: knows whether a code was used before: its step is stored, and none is taken twice.

use harkara_shared::id::UserId;
use harkara_shared::vault::MasterKeys;
use rand::RngExt as _;
use totp_rs::{Builder, Totp};

use super::Error;

/// Who issues the codes, as authenticators show it.
const ISSUER: &str = "Harkara";

/// Bytes of a secret: as many as SHA-1 gives (RFC 4226 §4).
const BYTES: usize = 20;

/// A person's authenticator.
#[derive(Clone)]
pub(crate) struct Authenticator(Totp);

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authenticator(redacted)")
    }
}

impl Authenticator {
    /// A new one, and what to store of it.
    ///
    /// # Errors
    /// When it cannot be sealed.
    pub(crate) fn generate(
        keys: &MasterKeys,
        user: UserId,
        email: &str,
    ) -> Result<(Self, Vec<u8>), Error> {
        let secret = rand::rng().random::<[u8; BYTES]>();
        let sealed = keys.seal(&secret, &context(user))?;
        Ok((Self::of(secret.to_vec(), email)?, sealed))
    }

    /// The one that is stored.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(
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
            // A colon would end the name of the issuer.
            .with_account_name(email.replace(':', "_"))
            .with_issuer(Some(ISSUER))
            .build()
            .map(Self)
            .map_err(|error| Error::Internal(error.to_string()))
    }

    /// The step whose code this is, if it is one of now.
    pub(crate) fn step(&self, code: &str, seconds: i64) -> Option<i64> {
        let code = code.trim();
        let is_code = code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = u64::try_from(seconds).ok().filter(|_| is_code)?;
        i64::try_from(self.0.check(code, seconds)?).ok()
    }

    /// The secret in base32, for who types it.
    pub(crate) fn secret(&self) -> String {
        self.0.secret().to_base32()
    }

    /// The address that authenticators read as a picture.
    ///
    /// # Errors
    /// Never, with an account name.
    pub(crate) fn url(&self) -> Result<String, Error> {
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
    fn codes_are_those_of_rfc_6238() {
        for (seconds, code) in VECTORS {
            assert_eq!(
                of_the_rfc().step(code, seconds),
                Some(seconds / 30),
                "{seconds}"
            );
        }
    }

    #[test]
    fn a_code_is_good_one_step_early_or_late_and_no_more() {
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
    fn an_authenticator_is_opened_for_its_person_only() {
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
