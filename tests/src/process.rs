//! Runs the platform's binaries as child processes.
//! Takes a binary's name and environment, and returns a child that ends with its test.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::{until, workspace};

/// Path of one of the platform's binaries, built from the sources under test.
///
/// # Panics
/// When the build fails.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let status = Command::new(env!("CARGO"))
            .current_dir(workspace())
            .args(["build", "--quiet", "--bins"])
            .args(["-p", "harkara", "-p", "harkara-api", "-p", "harkara-worker"])
            .args(["-p", "harkara-scheduler"])
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the platform's binaries build");
        // This test runs from target/debug/deps.
        let test = std::env::current_exe().expect("this test has a path");
        test.ancestors().nth(2).expect("target/debug").to_owned()
    });
    directory.join(name)
}

/// An address with a free port.
#[must_use]
pub fn free_address() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A running process of the platform; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

impl Process {
    /// Starts a binary with exactly this environment plus `PATH`, and keeps its output in a file.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, args: &[&str], environment: &[(&str, String)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let output = std::fs::File::create(&log).unwrap();
        let child = Command::new(binary(name))
            .args(args)
            .current_dir(directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .expect("the binary starts");
        Self {
            name: name.to_owned(),
            child,
            log,
            _directory: directory,
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All its output so far.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Sends a signal by name, such as `TERM`.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.pid().to_string())
            .status()
            .expect("kill runs");
        assert!(status.success(), "the signal is sent");
    }

    /// Waits until it has ended by itself, and returns its exit code.
    ///
    /// # Panics
    /// When it has not within `timeout`.
    pub async fn ended(&mut self, timeout: Duration) -> Option<i32> {
        let what = format!("{} has ended; its output:\n{}", self.name, self.output());
        let child = &mut self.child;
        until(&what, timeout, || {
            let ended = child.try_wait().unwrap();
            async move { ended }
        })
        .await
        .code()
    }

    /// Waits until its output holds `text`.
    ///
    /// # Panics
    /// When it does not within `timeout`.
    pub async fn wait_for_output(&self, text: &str, timeout: Duration) -> String {
        let what = format!("{} prints `{text}`", self.name);
        let found = until(&what, timeout, || async {
            let output = self.output();
            output.contains(text).then_some(output)
        });
        match tokio::time::timeout(timeout, found).await {
            Ok(output) => output,
            Err(_) => panic!(
                "timed out waiting until {what}; its output:\n{}",
                self.output()
            ),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
