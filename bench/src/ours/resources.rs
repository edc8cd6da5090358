//! What Harkara's processes use of the machine: memory with jobs in flight, and the cost of being idle.
//!
//! Reads only the figures of its own child processes.

use std::time::{Duration, Instant};

use anyhow::Context;
use harkara_shared::vault::MasterKeys;

use super::{Harkara, Rows};
use crate::arena::Arena;
use crate::child::{Part, Process};

/// Processor time is reported in this fraction of a second (`USER_HZ`), on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// The cost of an idle platform.
pub(crate) struct Idle {
    /// Percent of one core, for API, worker and scheduler together.
    pub(crate) processor: f64,
    /// Transactions per second.
    pub(crate) transactions: f64,
    /// Resident memory of the three processes in MiB.
    pub(crate) memory: f64,
}

impl Harkara {
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

    /// The cost of an idle platform over a time.
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
        // Wait for the work of the start to end.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let processor_time = || -> anyhow::Result<f64> {
            processes
                .iter()
                .map(|process| processor(process.pid()?))
                .sum()
        };
        let (from, busy) = (Instant::now(), processor_time()?);
        let transactions = arena.transactions(name).await?;
        tokio::time::sleep(during).await;
        let seconds = from.elapsed().as_secs_f64();
        let idle = Idle {
            processor: (processor_time()? - busy) / seconds * 100.0,
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
    // The second field, the program's name, can contain any character, but ends at the last bracket.
    let (_, fields) = stat.rsplit_once(')').context("stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| -> anyhow::Result<f64> { Ok(fields.get(at).context("stat")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}
