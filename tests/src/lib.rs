//! Room: what the tests of the whole platform share: its real processes, a receiver, a client.
//! Takes: a database. Gives: processes that are started, watched and killed. Never: is used outside
//! of tests.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "used by tests only, where stopping at the first surprise is the aim"
)]

mod client;
mod platform;
mod process;

pub use client::{Answer, Client};
pub use harkara_kit::{Hit, Receiver, Reply};
pub use platform::{Fixture, Platform, everything, ready};
pub use process::{Process, binary, free_address};

use std::future::Future;
use std::time::{Duration, Instant};

/// Asks again until there is an answer, at most `timeout`; `what` is said when there is none.
///
/// # Panics
/// When the time is over.
pub async fn until<T, F>(what: &str, timeout: Duration, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            started.elapsed() < timeout,
            "after {timeout:?} still not so: {what}"
        );
        // The pace of asking, not a wait for the thing.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The workspace's directory.
#[must_use]
pub fn workspace() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}
