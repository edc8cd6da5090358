//! Room: passwords.
//! Takes: what a person typed, and what is stored of it. Gives: whether it is right, and what to store.
//! Never: keeps a password, tells by its time whether there is one, or takes the processors that
//! requests need.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::RngExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

use super::Error;

/// Characters of a password.
const LENGTH: std::ops::RangeInclusive<usize> = 12..=128;

/// KiB of memory, passes and lanes: what OWASP asks of Argon2id at the least.
const MEMORY: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Passwords that are worked on at the same time, each by a processor of its own for some tens of milliseconds.
const PLACES: usize = 2;

/// How long one waits for its turn before the person is asked to come back.
const PATIENCE: Duration = Duration::from_secs(5);

/// Stands for a password that nobody has: verifying it takes as long as verifying a person's.
const NOBODYS: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// What verifying a password told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is another one, or there is none.
    Wrong,
    /// It is the person's.
    Right,
    /// It is the person's, but what is stored was made with other parameters than those of today.
    RightButOld,
}

/// The place where passwords are worked on, of which a process has one.
#[derive(Debug, Clone)]
pub(crate) struct Passwords(Arc<Semaphore>);

impl Default for Passwords {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PLACES)))
    }
}

impl Passwords {
    /// What to store of a password.
    ///
    /// # Errors
    /// [`Error::Password`] when it is too short or too long, [`Error::Busy`].
    pub(crate) async fn hash(&self, password: String) -> Result<String, Error> {
        check(&password)?;
        self.work(move || {
            let salt = rand::rng().random::<[u8; 16]>();
            let hash = hasher()?.hash_password_with_salt(password.as_bytes(), &salt);
            Ok(hash.map_err(internal)?.to_string())
        })
        .await
    }

    /// Whether a password is the one of which `stored` is kept. Takes the same time without one.
    ///
    /// # Errors
    /// [`Error::Busy`], or [`Error::Internal`] when what is stored cannot be read.
    pub(crate) async fn verify(
        &self,
        password: String,
        stored: Option<String>,
    ) -> Result<Verdict, Error> {
        self.work(move || {
            let text = stored.as_deref().unwrap_or(NOBODYS);
            let hash = PasswordHash::new(text).map_err(internal)?;
            // What no password can be is compared all the same: its time must not tell.
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
        let place = tokio::time::timeout(PATIENCE, Arc::clone(&self.0).acquire_owned())
            .await
            .map_err(|_| Error::Busy)?
            .map_err(internal)?;
        tokio::task::spawn_blocking(move || {
            // Given back by the thread: a request that is given up does not free the processor.
            let _place = place;
            work()
        })
        .await
        .map_err(internal)?
    }
}

/// Whether a text may become a password.
///
/// # Errors
/// [`Error::Password`].
pub(crate) fn check(password: &str) -> Result<(), Error> {
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
    fn nobodys_password_costs_what_a_persons_does() {
        assert!(is_current(&PasswordHash::new(NOBODYS).unwrap()));
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
