//! Hashes and verifies passwords (Argon2id).
//!
//! A password is never stored. Verification takes the same time whether the account exists or not, and at
//! most two run at once, so that requests keep their processors.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::RngExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

use super::Error;

/// Number of characters of a password.
const LENGTH: std::ops::RangeInclusive<usize> = 12..=128;

/// KiB of memory, passes and lanes: the minimum that OWASP recommends for Argon2id.
const MEMORY: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Passwords hashed or verified at the same time; each occupies a processor for some tens of milliseconds.
const MAX_CONCURRENT: usize = 2;

/// How long a request waits for a slot before it fails with [`Error::Busy`].
const SLOT_TIMEOUT: Duration = Duration::from_secs(5);

/// Hash of no password. Verifying against it takes as long as verifying against a user's.
const DUMMY_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Result of verifying a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The password is wrong, or the user has none.
    Wrong,
    /// The password is right.
    Right,
    /// The password is right, but its hash was made with outdated parameters.
    RightButOld,
}

/// Hashes and verifies passwords, a bounded number at a time. A process has one.
#[derive(Debug, Clone)]
pub struct Passwords(Arc<Semaphore>);

impl Default for Passwords {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_CONCURRENT)))
    }
}

impl Passwords {
    /// Hashes a password for storage.
    ///
    /// # Errors
    /// [`Error::Password`] when its length is invalid, [`Error::Busy`].
    pub async fn hash(&self, password: String) -> Result<String, Error> {
        check(&password)?;
        self.work(move || {
            let salt = rand::rng().random::<[u8; 16]>();
            let hash = hasher()?.hash_password_with_salt(password.as_bytes(), &salt);
            Ok(hash.map_err(internal)?.to_string())
        })
        .await
    }

    /// Verifies a password against its stored hash. Takes the same time without a hash.
    ///
    /// # Errors
    /// [`Error::Busy`], or [`Error::Internal`] when the stored hash cannot be parsed.
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<Verdict, Error> {
        self.work(move || {
            let text = stored.as_deref().unwrap_or(DUMMY_HASH);
            let hash = PasswordHash::new(text).map_err(internal)?;
            // Compared even if its length is invalid: the duration must not reveal anything.
            let is_right = hasher()?
                .verify_password(password.as_bytes(), &hash)
                .is_ok();
            Ok(if stored.is_none() || !is_right {
                Verdict::Wrong
            } else if is_current(&hash) {
                Verdict::Right
            } else {
                Verdict::RightButOld
            })
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = tokio::time::timeout(SLOT_TIMEOUT, Arc::clone(&self.0).acquire_owned())
            .await
            .map_err(|_| Error::Busy)?
            .map_err(internal)?;
        tokio::task::spawn_blocking(move || {
            // Released by the thread: dropping the request does not free the processor.
            let _permit = permit;
            work()
        })
        .await
        .map_err(internal)?
    }
}

/// Checks the length of a new password.
///
/// # Errors
/// [`Error::Password`].
pub fn check(password: &str) -> Result<(), Error> {
    if LENGTH.contains(&password.chars().count()) {
        Ok(())
    } else {
        Err(Error::Password)
    }
}

fn hasher() -> Result<Argon2<'static>, Error> {
    let params = Params::new(MEMORY, PASSES, LANES, None).map_err(internal)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn is_current(hash: &PasswordHash) -> bool {
    let params = Params::try_from(hash);
    hash.algorithm == Algorithm::Argon2id.ident()
        && hash.version == Some(Version::V0x13.into())
        && params.is_ok_and(|params| {
            (params.m_cost(), params.t_cost(), params.p_cost()) == (MEMORY, PASSES, LANES)
        })
}

fn internal(error: impl ToString) -> Error {
    Error::Internal(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "correct horse battery";

    #[tokio::test]
    async fn the_right_password_and_no_other_is_verified() {
        let passwords = Passwords::default();
        let stored = passwords.hash(GOOD.to_owned()).await.unwrap();
        assert!(
            stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{stored}"
        );
        assert_ne!(stored, passwords.hash(GOOD.to_owned()).await.unwrap());
        let verdict = async |password: &str, stored: Option<&str>| {
            let stored = stored.map(str::to_owned);
            passwords.verify(password.to_owned(), stored).await.unwrap()
        };
        assert_eq!(verdict(GOOD, Some(&stored)).await, Verdict::Right);
        for wrong in ["", "correct horse batterz", &GOOD.to_uppercase()] {
            assert_eq!(
                verdict(wrong, Some(&stored)).await,
                Verdict::Wrong,
                "{wrong}"
            );
        }
        assert_eq!(verdict(GOOD, None).await, Verdict::Wrong);
    }

    #[tokio::test]
    async fn what_was_made_with_other_parameters_is_told() {
        let params = Params::new(8_192, 3, 1, None).unwrap();
        let old = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_with_salt(GOOD.as_bytes(), &[7; 16])
            .unwrap();
        let passwords = Passwords::default();
        let verdict = passwords
            .verify(GOOD.to_owned(), Some(old.to_string()))
            .await;
        assert_eq!(verdict.unwrap(), Verdict::RightButOld);
    }

    #[test]
    fn password_of_an_unknown_user_costs_as_much_as_a_real_one() {
        assert!(is_current(&PasswordHash::new(DUMMY_HASH).unwrap()));
    }

    #[test]
    fn a_password_has_12_to_128_characters() {
        for (text, fits) in [
            ("", false),
            ("elevenchars", false),
            ("twelve chars", true),
            ("ääääääääääää", true),
            (&"x".repeat(128), true),
            (&"x".repeat(129), false),
        ] {
            assert_eq!(check(text).is_ok(), fits, "{text}");
        }
    }
}
