//! Measures Harkara beside other job queues on this machine.
//!
//! Needs PostgreSQL's programs, and the peers as `bench/run` installs them. Prints tables of medians with
//! their spread, and every target beside its figure. Never measures with `fsync` off, and measures only
//! what a user's call would do.

mod arena;
mod child;
mod measures;
mod ours;
mod peers;
mod plan;
mod report;
mod sections;
mod table;
mod targets;
mod wire;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use harkara_shared::process;

use child::Part;
use measures::{Bench, MEASURES};
use peers::{PEERS, Peer, PeerPaths};
use plan::Plan;

/// Measures Harkara beside other job queues.
#[derive(Debug, Parser)]
struct Args {
    /// Measure with small sizes, within five minutes
    #[arg(long)]
    quick: bool,
    /// Number of rounds (default: 3, or 1 with --quick)
    #[arg(long)]
    rounds: Option<usize>,
    /// Only these measures
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(MEASURES))]
    only: Vec<String>,
    /// Only these peers, or `none`
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Write RESULTS.md and results.json into this directory instead of printing the former
    #[arg(long)]
    out: Option<PathBuf>,
    /// Concurrency of Harkara's worker
    #[arg(long, default_value_t = 1000)]
    places: u32,
    #[command(flatten)]
    installed: PeerPaths,
    #[command(subcommand)]
    part: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one of the platform's processes
    #[command(hide = true)]
    Process {
        /// Which process
        part: Part,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(Command::Process { part }) = args.part {
        return child::run(part).await;
    }
    // When this program is stopped early, everything it started ends as well.
    let stop = process::stop_on_signal()?;
    tokio::select! {
        ended = run(args) => ended,
        () = stop.cancelled() => anyhow::bail!("stopped before the end"),
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    for id in args.peers.iter().filter(|id| *id != "none") {
        let known: Vec<&str> = PEERS.iter().map(|peer| peer.id).collect();
        anyhow::ensure!(
            known.contains(&id.as_str()),
            "unknown peer `{id}`; known peers: {}",
            known.join(", ")
        );
    }
    let wanted = |peer: &Peer| args.peers.is_empty() || args.peers.iter().any(|id| id == peer.id);
    let plan = if args.quick {
        Plan::quick(args.rounds.unwrap_or(1))
    } else {
        Plan::full(args.rounds.unwrap_or(3))
    };
    let mut bench = Bench::start(plan, wanted, args.installed, args.places).await?;
    let measures: Vec<&str> = MEASURES
        .iter()
        .copied()
        .filter(|measure| args.only.is_empty() || args.only.iter().any(|only| only == measure))
        .collect();
    for round in 0..plan.rounds {
        for measure in &measures {
            print_line(&format!(
                "round {} of {}: {measure}",
                round + 1,
                plan.rounds
            ));
            bench.measure(measure, round == 0).await?;
        }
        // A long run that is stopped keeps the rounds completed so far.
        if let Some(out) = &args.out {
            report::write(&bench, out)?;
        }
    }
    if args.out.is_none() {
        print_line(&report::markdown(&bench));
    }
    bench.arena.stop().await
}

/// Prints a line of progress.
#[expect(clippy::print_stdout, reason = "this is the program's output")]
pub(crate) fn print_line(line: &str) {
    println!("{line}");
}
