//! Room: the local clock.
//! Takes: nothing. Gives: now. Never: decides about a job: due times, leases and slots are the
//! database's, whose clock all processes share.

use chrono::{DateTime, Utc};

/// Now, by this machine.
#[must_use]
pub fn now() -> DateTime<Utc> {
    #[cfg(feature = "testing")]
    if let Some(set) = testing::now() {
        return set;
    }
    #[expect(clippy::disallowed_methods, reason = "the one place the clock is read")]
    Utc::now()
}

/// A clock that tests set. Not compiled into anything else.
#[cfg(feature = "testing")]
pub mod testing {
    use std::future::Future;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use chrono::{DateTime, Utc};

    tokio::task_local! {
        static CLOCK: TestClock;
    }

    /// A clock that stands still until it is set; its clones are the same clock.
    #[derive(Debug, Clone)]
    pub struct TestClock(Arc<AtomicI64>);

    impl TestClock {
        /// A clock that stands at this moment, to the microsecond.
        #[must_use]
        pub fn at(moment: DateTime<Utc>) -> Self {
            Self(Arc::new(AtomicI64::new(moment.timestamp_micros())))
        }

        /// Where it stands.
        #[must_use]
        pub fn now(&self) -> DateTime<Utc> {
            let micros = self.0.load(Ordering::Acquire);
            DateTime::from_timestamp_micros(micros).unwrap_or_default()
        }

        /// Sets it.
        pub fn set(&self, moment: DateTime<Utc>) {
            self.0.store(moment.timestamp_micros(), Ordering::Release);
        }

        /// Has this clock be the one that `future` reads, but not the tasks that it spawns.
        pub async fn scope<F: Future>(&self, future: F) -> F::Output {
            CLOCK.scope(self.clone(), future).await
        }
    }

    pub(super) fn now() -> Option<DateTime<Utc>> {
        CLOCK.try_with(TestClock::now).ok()
    }
}
