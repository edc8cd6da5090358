//! The clock of a test.
//! One clock for the database, for handlers and for the test.
//! Setting it never changes stored times.
//!
//! Due times, backoffs, limits, breakers, leases, expiry and retention use the database's `now()`.
//! That function is resolved by name, so the kit puts its own first in the search path
//! (`sql/set_up_clock.sql`); a test finds anything that would still reach the real one. Handlers
//! read `harkara_shared::clock::now`, which returns the same time in everything that the kit runs.
//!
//! Timeouts inside a handler (of a request, of the job) use real time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::clock::testing::TestClock;
use harkara_shared::database::{query, query_scalar};
use sqlx::{Connection, PgConnection};

use crate::Kit;

/// Installs the clock in a database. Existing connections keep the real one.
pub(crate) async fn set_up(url: &str) -> TestClock {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    query(include_str!("sql/set_up_clock.sql"))
        .execute(&mut connection)
        .await
        .expect("a clock");
    let moment = query_scalar(include_str!("sql/read_clock.sql"))
        .fetch_one(&mut connection)
        .await
        .expect("the time");
    connection.close().await.expect("a closed connection");
    TestClock::at(moment)
}

impl Kit {
    /// The current time for the database, for handlers and for the test. It changes only when it is set.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Advances the clock.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn advance(&self, by: Duration) {
        self.set_clock(self.now() + by).await;
    }

    /// Sets the clock, forwards or backwards, to the microsecond.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn set_clock(&self, moment: DateTime<Utc>) {
        self.clock.set(moment);
        query(include_str!("sql/set_clock.sql"))
            .bind(self.clock.now())
            .execute(&self.services.pool)
            .await
            .expect("a set clock");
    }
}
