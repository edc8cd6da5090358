//! The other job queues of the run, each behind a small program that prints one JSON line.
//!
//! Tunes no peer: its program does, and names the source of the advice.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};

/// What runs a peer's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runtime {
    Rust,
    Node,
    Python,
}

/// Another job queue.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its name on the command line.
    pub(crate) id: &'static str,
    /// Its name in the tables.
    pub(crate) name: &'static str,
    /// Version measured; the lock files pin it.
    pub(crate) version: &'static str,
    /// How it is tuned.
    pub(crate) tuned: &'static str,
    /// Name of its database.
    pub(crate) database: &'static str,
    runtime: Runtime,
    program: &'static str,
    /// Fraction of the common number of jobs that it runs in a drain: slow peers run fewer.
    pub(crate) share: f64,
    /// Jobs of a drain with its author's defaults; `None` if that is not measured.
    pub(crate) defaults: Option<usize>,
    /// Whether it takes part in the measures that need hundreds of thousands of jobs first.
    pub(crate) enduring: bool,
    /// Whether it runs on Redis instead of PostgreSQL.
    pub(crate) redis: bool,
}

/// All peers.
pub(crate) const PEERS: &[Peer] = &[
    Peer {
        id: "graphile_worker",
        name: "graphile-worker",
        version: "0.18.0 on Node.js 22.23.3",
        tuned: "local queue of 500, refetch delay 10 ms, completions batched without delay, 24 jobs \
                at once (its page on performance); latency with its defaults, 10 at once",
        database: "peer_graphile_worker",
        runtime: Runtime::Node,
        program: "graphile-worker.mjs",
        share: 1.0,
        defaults: Some(2000),
        enduring: true,
        redis: false,
    },
    Peer {
        id: "pg_boss",
        name: "pg-boss",
        version: "12.35.0 on Node.js 22.23.3",
        tuned: "`fetch` and `complete` of 1000 jobs in four loops, the fastest form of its public \
                calls; latency by `work()` with LISTEN/NOTIFY, two workers of 10 that go on while batches are full",
        database: "peer_pg_boss",
        runtime: Runtime::Node,
        program: "pg-boss.mjs",
        share: 1.0,
        defaults: None,
        enduring: true,
        redis: false,
    },
    Peer {
        id: "apalis_postgres",
        name: "apalis-postgres",
        version: "1.0.0",
        tuned: "batch of 1000, `lock_tasks` off; latency with LISTEN/NOTIFY and a poll every 100 ms",
        database: "peer_apalis_postgres",
        runtime: Runtime::Rust,
        program: "apalis_postgres",
        share: 1.0,
        defaults: Some(5000),
        enduring: true,
        redis: false,
    },
    Peer {
        id: "graphile_worker_rs",
        name: "graphile_worker (Rust)",
        version: "0.14.1",
        tuned: "local queue of 5000, 500 jobs at once, completions batched for 5 ms, poll every 5 ms \
                (its own throughput benchmark); latency without a local queue, 24 at once, poll every 10 ms",
        database: "peer_graphile_worker_rs",
        runtime: Runtime::Rust,
        program: "graphile_worker_rs",
        share: 1.0,
        // Without a local queue each slot polls once a second: 24 jobs/s.
        defaults: Some(240),
        enduring: false,
        redis: false,
    },
    Peer {
        id: "riverqueue",
        name: "riverqueue",
        version: "0.5.0",
        tuned: "2000 workers, fetch cooldown 2 ms, poll every 20 ms",
        database: "peer_riverqueue",
        runtime: Runtime::Rust,
        program: "riverqueue",
        share: 0.3,
        defaults: Some(1000),
        enduring: false,
        redis: false,
    },
    Peer {
        id: "awa",
        name: "awa",
        version: "0.6.9",
        tuned: "1024 workers, claim batch 512, poll every 50 ms, no deadlines (its own benchmark); \
                bulk through its COPY call",
        database: "peer_awa",
        runtime: Runtime::Rust,
        program: "awa",
        share: 0.5,
        defaults: Some(5000),
        enduring: true,
        redis: false,
    },
    Peer {
        id: "procrastinate",
        name: "procrastinate",
        version: "3.10.0 on Python 3",
        tuned: "20 jobs at once, successful jobs deleted, LISTEN/NOTIFY",
        database: "peer_procrastinate",
        runtime: Runtime::Python,
        program: "procrastinate_peer.py",
        share: 0.05,
        defaults: None,
        enduring: false,
        redis: false,
    },
    Peer {
        id: "bullmq",
        name: "BullMQ on Redis",
        version: "6.7.0 on Node.js 22.23.3",
        tuned: "100 jobs at once, finished jobs removed; Redis with an append-only file synced every \
                second, so an answer does not mean that the job is on the disk",
        database: "peer_bullmq",
        runtime: Runtime::Node,
        program: "bullmq.mjs",
        share: 0.5,
        defaults: None,
        enduring: false,
        redis: true,
    },
];

/// The paths of the peers' programs, as `bench/run` installed them.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PeerPaths {
    /// Directory of the peers' sources
    #[arg(long, default_value = "bench/peers")]
    peers_dir: PathBuf,
    /// Directory of the peers' Rust programs
    #[arg(long, default_value = "target/bench-peers/release")]
    peers_bin: PathBuf,
    /// Python with the peers' packages
    #[arg(long, default_value = "target/bench-python/bin/python")]
    python: PathBuf,
}

/// How long a peer's program can run.
const PEER_TIMEOUT: Duration = Duration::from_secs(300);

impl Peer {
    /// Whether its program is installed.
    pub(crate) fn is_installed(&self, paths: &PeerPaths) -> bool {
        let (program, script) = self.command(paths);
        program.exists() && script.is_none_or(|script| script.exists())
    }

    fn command(&self, paths: &PeerPaths) -> (PathBuf, Option<PathBuf>) {
        let node = paths.peers_dir.join("node");
        match self.runtime {
            Runtime::Rust => (paths.peers_bin.join(self.program), None),
            Runtime::Node => (
                node.join("node_modules/.bin/node"),
                Some(node.join(self.program)),
            ),
            Runtime::Python => (
                paths.python.clone(),
                Some(paths.peers_dir.join("python").join(self.program)),
            ),
        }
    }

    /// Runs its program with these arguments and returns the JSON object that it prints.
    pub(crate) async fn run(
        &self,
        paths: &PeerPaths,
        url: &str,
        redis: &Path,
        arguments: &[&str],
    ) -> anyhow::Result<Value> {
        let (program, script) = self.command(paths);
        let child = Command::new(program)
            .args(script)
            .args(arguments)
            .env("DATABASE_URL", url)
            .env("REDIS_SOCKET", redis)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = tokio::time::timeout(PEER_TIMEOUT, child.wait_with_output())
            .await
            .with_context(|| format!("`{}` took too long", arguments.join(" ")))??;
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().last().unwrap_or_default();
        ensure!(
            output.status.success(),
            "`{}` failed: {last}",
            arguments.join(" ")
        );
        let printed = String::from_utf8_lossy(&output.stdout);
        let line = printed.lines().last().context("it printed nothing")?;
        serde_json::from_str(line).with_context(|| format!("it printed {line}"))
    }
}

/// A private Redis server; killed when dropped.
pub(crate) struct Redis {
    _child: Child,
    pub(crate) socket: PathBuf,
}

impl Redis {
    /// Starts it in `directory`; fails if it is not installed.
    pub(crate) async fn start(directory: &Path) -> anyhow::Result<Self> {
        let socket = directory.join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "everysec", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("redis-server")?;
        for _ in 0..100 {
            if socket.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ensure!(socket.exists(), "redis-server did not start");
        Ok(Self {
            _child: child,
            socket,
        })
    }
}
