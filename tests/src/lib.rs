//! Shared helpers of the platform's tests: real processes, a receiver, a client.
//! They start, observe and kill processes on a test database. For tests
//! only.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "used by tests only, which should stop at the first unexpected result"
)]

mod client;
mod platform;
mod process;

pub use client::{Answer, Client};
pub use harkara_kit::{Hit, Receiver, Reply};
pub use platform::{Fixture, Platform, everything, ready};
pub use process::{Process, binary, free_address};

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Polls until there is a value, for at most `timeout`; `what` names the condition in the failure.
///
/// # Panics
/// When the timeout has passed.
pub async fn until<T, F>(what: &str, timeout: Duration, mut poll: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(answer) = poll().await {
            return answer;
        }
        assert!(
            started.elapsed() < timeout,
            "timed out after {timeout:?} waiting until {what}"
        );
        // The poll interval.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The Python interpreter with the client and receiver packages that `.ci/run` installs.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn receiver_python() -> PathBuf {
    let python = workspace().join("target/receivers/bin/python");
    assert!(
        python.exists(),
        "{} is missing: .ci/run installs it",
        python.display()
    );
    python
}

/// The directory with the Node.js packages that `.ci/run` installs.
///
/// # Panics
/// When they are not installed.
#[must_use]
pub fn node_packages() -> PathBuf {
    let directory = workspace().join("target/clients");
    assert!(
        directory.join("node_modules").is_dir(),
        "{} has no packages: .ci/run installs them",
        directory.display()
    );
    directory
}

/// The root directory of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}
