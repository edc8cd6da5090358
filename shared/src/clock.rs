//! The local clock.
//!
//! For display, validation and measuring only. Due times, leases and slots are decided by the
//! database's clock, which all processes share.

use chrono::{DateTime, Utc};

/// The current time of this machine.
#[must_use]
pub fn now() -> DateTime<Utc> {
    #[cfg(feature = "testing")]
    if let Some(set) = testing::now() {
        return set;
    }
    #[expect(clippy::disallowed_methods, reason = "the one place the clock is read")]
    Utc::now()
}

/// A clock that tests set. Only compiled with the feature `testing`.
#[cfg(feature = "testing")]
pub mod testing {
    use std::future::Future;
    use std::sync::{Arc, Mutex, PoisonError};

    use chrono::{DateTime, SubsecRound as _, Utc};

    tokio::task_local! {
        static CLOCK: TestClock;
    }

    /// A clock that does not move until it is set. Clones share one time.
    #[derive(Debug, Clone)]
    pub struct TestClock(Arc<Mutex<DateTime<Utc>>>);

    impl TestClock {
        /// A clock set to this time, truncated to microseconds as in PostgreSQL.
        #[must_use]
        pub fn at(moment: DateTime<Utc>) -> Self {
            Self(Arc::new(Mutex::new(moment.trunc_subsecs(6))))
        }

        /// The time the clock is set to.
        #[must_use]
        pub fn now(&self) -> DateTime<Utc> {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Moves the clock to this time, truncated to microseconds.
        pub fn set(&self, moment: DateTime<Utc>) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = moment.trunc_subsecs(6);
        }

        /// Runs `future` with this clock as its source of time. Tasks that it spawns are not affected.
        pub async fn scope<F: Future>(&self, future: F) -> F::Output {
            CLOCK.scope(self.clone(), future).await
        }
    }

    pub(super) fn now() -> Option<DateTime<Utc>> {
        CLOCK.try_with(TestClock::now).ok()
    }
}
