//! Room: the local clock.
//! Takes: nothing. Gives: now. Never: decides about a job: due times, leases and slots are the
//! database's, whose clock all processes share.

use chrono::{DateTime, Utc};

/// Now, by this machine.
#[must_use]
pub fn now() -> DateTime<Utc> {
    #[expect(clippy::disallowed_methods, reason = "the one place the clock is read")]
    Utc::now()
}
