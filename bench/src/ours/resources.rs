//! Room: what Harkara's processes take of the machine.
//! Takes: real processes. Gives: memory in flight, and the cost of having nothing to do.
//! Never: looks at another process than its own children.

use std::time::{Duration, Instant};

use anyhow::Context;
use harkara_shared::vault::MasterKeys;

use super::{Rows, Stand};
use crate::arena::Arena;
use crate::child::{Part, Process};

/// Processor time is told in these parts of a second (`USER_HZ`), on every Linux.
const TICKS: f64 = 100.0;

/// The cost of having nothing to do.
pub(crate) struct Idle {
    /// Percent of one core, of API, worker and scheduler together.
    pub(crate) processor: f64,
    /// Transactions a second.
    pub(crate) transactions: f64,
    /// Resident memory of the three, MiB.
    pub(crate) memory: f64,
}

impl Stand {
    /// Resident memory of a worker process that runs 1000 jobs at once, in MiB.
    pub(crate) async fn memory(&self) -> anyhow::Result<f64> {
        self.fill(self.tenant, 1000, Rows::Packed).await?;
        let mut process = Process::start(Part::Sleeper, &self.url, &MasterKeys::generate())?;
        process.full().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let memory = resident(process.pid()?)?;
        process.end().await?;
        Ok(memory)
    }

    /// What an idle platform costs, over a time.
    pub(crate) async fn idle(
        &self,
        arena: &Arena,
        name: &str,
        during: Duration,
    ) -> anyhow::Result<Idle> {
        let master_key = MasterKeys::generate();
        let mut processes = Vec::new();
        for part in [Part::Api, Part::Worker, Part::Scheduler] {
            let mut process = Process::start(part, &self.url, &master_key)?;
            process.ready().await?;
            processes.push(process);
        }
        // What comes with a start is over.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let look = || -> anyhow::Result<f64> {
            processes
                .iter()
                .map(|process| processor(process.pid()?))
                .sum()
        };
        let (from, busy) = (Instant::now(), look()?);
        let transactions = arena.transactions(name).await?;
        tokio::time::sleep(during).await;
        let seconds = from.elapsed().as_secs_f64();
        let idle = Idle {
            processor: (look()? - busy) / seconds * 100.0,
            transactions: (arena.transactions(name).await? - transactions) / seconds,
            memory: processes
                .iter()
                .map(|process| resident(process.pid()?))
                .sum::<anyhow::Result<f64>>()?,
        };
        for process in processes {
            process.end().await?;
        }
        Ok(idle)
    }
}

/// Resident memory of a process, in MiB.
fn resident(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .context("VmRSS")?
        .trim()
        .parse()?;
    Ok(kib / 1024.0)
}

/// Processor time a process has used, in seconds.
fn processor(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the program's name, may hold anything, but ends with the last bracket.
    let (_, fields) = stat.rsplit_once(')').context("stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| -> anyhow::Result<f64> { Ok(fields.get(at).context("stat")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}
