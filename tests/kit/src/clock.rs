//! Room: the clock of a test.
//! Takes: moments. Gives: one clock for the database, for handlers and for the test.
//! Never: changes what is stored: what was written at a moment stays written at it.
//!
//! Due times, backoffs, limits, breakers, leases, expiry and retention go by the database's `now()`.
//! That function is found by its name, so the kit puts its own in front of it
//! (`sql/set_up_clock.sql`); a test looks for anything that would still reach the real one. Handlers
//! read `harkara_shared::clock::now`, which answers the same moment in all that the kit runs.
//!
//! What waits in a handler itself (a request's timeout, the job's) goes by real time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::clock::testing::TestClock;
use harkara_shared::database::{query, query_scalar};
use sqlx::{Connection, PgConnection};

use crate::Kit;

/// Gives a database its clock. Connections that are there already keep the real one.
pub(crate) async fn set_up(url: &str) -> TestClock {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    query(include_str!("sql/set_up_clock.sql"))
        .execute(&mut connection)
        .await
        .expect("a clock");
    let moment = query_scalar(include_str!("sql/read_clock.sql"))
        .fetch_one(&mut connection)
        .await
        .expect("the moment");
    connection.close().await.expect("an end");
    TestClock::at(moment)
}

impl Kit {
    /// The moment, for the database, for handlers and for the test. It stays so until it is set.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Lets so much time pass.
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
