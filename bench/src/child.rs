//! Runs this program as one of Harkara's processes, on a database of the benchmark.
//!
//! A process runs the code of its own library and nothing else, and ends with the benchmark.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use harkara_shared::config::Settings;
use harkara_shared::telemetry;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::ours::{CountingHandler, Harkara};
use crate::wire::{Connection, get};

/// Harkara's processes, and one of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// `harkara-api`
    Api,
    /// `harkara-worker`
    Worker,
    /// `harkara-scheduler`
    Scheduler,
    /// A worker with 1000 slots whose handlers sleep
    Sleeper,
}

/// What [`Part::Sleeper`] prints once all its slots are taken.
const ALL_SLOTS_TAKEN: &str = "full";

/// Runs the process until it is stopped.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub(crate) async fn run(part: Part) -> anyhow::Result<()> {
    let needed = match part {
        Part::Api => harkara_api::NEEDED,
        Part::Worker => harkara_worker::NEEDED,
        Part::Scheduler | Part::Sleeper => harkara_scheduler::NEEDED,
    };
    let settings = Settings::from_environment(needed)?;
    telemetry::start_log(&settings);
    match part {
        Part::Api => harkara_api::run(settings).await,
        Part::Worker => harkara_worker::run(settings).await,
        Part::Scheduler => harkara_scheduler::run(settings).await,
        Part::Sleeper => {
            let url = settings.database.context("DATABASE_URL")?.url;
            let harkara = Harkara::open(url.as_str(), 1000)?;
            let tally = CountingHandler::sleeping(Duration::from_secs(20));
            let working = harkara.start(&tally)?;
            tally.reaches(1000).await;
            println!("{ALL_SLOTS_TAKEN}");
            std::future::pending::<()>().await;
            working.end().await
        }
    }
}

/// A process of the platform; killed when dropped.
pub(crate) struct Process {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts a process on a database.
    pub(crate) fn start(part: Part, url: &str, master_key: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        drop(listener);
        let name = part.to_possible_value().context("a part without a name")?;
        let address_variable = match part {
            Part::Api => "HARKARA_API_ADDR",
            Part::Worker | Part::Sleeper => "HARKARA_WORKER_ADDR",
            Part::Scheduler => "HARKARA_SCHEDULER_ADDR",
        };
        let child = Command::new(std::env::current_exe()?)
            .args(["process", name.get_name()])
            .env_clear()
            .env("DATABASE_URL", url)
            .env("HARKARA_MASTER_KEY", master_key)
            .env("HARKARA_EGRESS_ALLOW", "127.0.0.0/8")
            .env("HARKARA_LOG", "warn")
            .env(address_variable, address.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, address })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// Waits until it reports that it is ready.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        for _ in 0..600 {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("a process of the platform ended: {status}");
            }
            if let Ok(mut connection) = Connection::open(self.address).await
                && let Ok((200, _)) = connection.ask(&get("/readyz")).await
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("a process of the platform was not ready in time")
    }

    /// Waits until all slots of a [`Part::Sleeper`] are taken.
    pub(crate) async fn full(&mut self) -> anyhow::Result<()> {
        let output = self
            .child
            .stdout
            .take()
            .context("its output was taken already")?;
        let mut lines = BufReader::new(output).lines();
        let wait = async {
            while let Some(line) = lines.next_line().await? {
                if line == ALL_SLOTS_TAKEN {
                    return Ok(());
                }
            }
            anyhow::bail!("the worker ended before its slots were taken")
        };
        tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .context("the worker's slots were not taken in time")?
    }

    /// Kills it and waits for its end.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}
