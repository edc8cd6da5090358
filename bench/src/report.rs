//! The results for people and programs: `RESULTS.md` and `results.json`. Contains only measured figures.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::arena::SETTINGS;
use crate::measures::Bench;
use crate::peers::PEERS;
use crate::sections::SECTIONS;
use crate::table::number;
use crate::targets::evaluate_targets;

/// Writes `RESULTS.md` and `results.json` into a directory.
pub(crate) fn write(bench: &Bench, out: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(out)?;
    fs::write(out.join("RESULTS.md"), markdown(bench))?;
    let mut text = serde_json::to_string_pretty(&data(bench))?;
    text.push('\n');
    fs::write(out.join("results.json"), text)?;
    Ok(())
}

/// The machine of the run.
struct Machine {
    cores: usize,
    processor: String,
    memory_gib: f64,
    kernel: String,
    system: String,
}

impl Machine {
    fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| -> String {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|rest| rest.trim_matches([':', '=', '"', ' ', '\t']).to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: f64 = memory
            .trim_end_matches("kB")
            .trim()
            .parse()
            .unwrap_or(f64::NAN);
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            memory_gib: kib / f64::from(1 << 20),
            // The version number is followed by the distribution's own suffix.
            kernel: read("/proc/sys/kernel/osrelease")
                .trim()
                .split('-')
                .next()
                .unwrap_or_default()
                .to_owned(),
            system: field(&read("/etc/os-release"), "PRETTY_NAME"),
        }
    }
}

/// The whole text of `RESULTS.md`.
pub(crate) fn markdown(bench: &Bench) -> String {
    let machine = Machine::look();
    let plan = &bench.plan;
    let mut text =
        String::from("# Results\n\nMade by `bench/run`; see [README.md](README.md).\n\n");
    let size = if plan.quick { "quick run" } else { "full run" };
    writeln!(
        text,
        "{}, {size}, {} round(s). {} cores ({}), {:.0} GiB, {}, Linux {}. PostgreSQL {}. \
         Harkara {}.\n\n\
         **Server and contenders share the cores**, so figures of one run compare with each other and \
         with nothing else. In each round every contender is measured after every other; a figure is \
         the median of the rounds, with `[least - most]` where there was more than one. Measures that take \
         minutes (peers beside backlogs, histories and snapshots, and the limit of 30 per minute) are \
         made in the first round only.\n",
        harkara_shared::clock::now().format("%Y-%m-%d"),
        plan.rounds,
        machine.cores,
        machine.processor,
        machine.memory_gib,
        machine.system,
        machine.kernel,
        bench.arena.version(),
        env!("CARGO_PKG_VERSION"),
    )
    .ok();
    if plan.quick {
        text.push_str(
            "A quick run uses small sizes: short drains favour no contender but vary more, the \
             peers are left out beside backlogs, histories and snapshots, and the limit of 30 per \
             minute is not observed.\n\n",
        );
    }
    text.push_str("## Targets\n\n| | target | measured | |\n|---|---|---|---|\n");
    for target in evaluate_targets(&bench.results) {
        let met = match target.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        writeln!(
            text,
            "| {} | {} | {} | {met} |",
            target.name, target.wanted, target.shown
        )
        .ok();
    }
    text.push_str("\n## Measures\n\n");
    for section in SECTIONS {
        text.push_str(&bench.results.markdown(section));
    }
    if !bench.results.notes().is_empty() {
        text.push_str("## Not measured\n\n");
        for note in bench.results.notes() {
            writeln!(text, "- {note}").ok();
        }
        text.push('\n');
    }
    sizes(&mut text, bench);
    text.push_str("## Peers\n\n| | version | as tuned |\n|---|---|---|\n");
    for peer in PEERS {
        let tuned = peer.tuned.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(text, "| {} | {} | {tuned} |", peer.name, peer.version).ok();
    }
    text.push_str("\n## Server\n\nThe same for every contender, over its Unix socket:\n\n");
    for (name, value) in SETTINGS {
        writeln!(text, "    {name} = {value}").ok();
    }
    text
}

fn sizes(text: &mut String, bench: &Bench) {
    let plan = &bench.plan;
    let jobs = |count: usize| number(crate::table::count(count));
    let peer_backlog = if plan.quick {
        String::new()
    } else {
        let (backlog, first) = (jobs(plan.peer_backlog), jobs(plan.peer_drain));
        format!("; peers: {backlog}, the first {first}")
    };
    writeln!(
        text,
        "## Sizes\n\n\
         - drain and bulk: {} jobs for Harkara, {} for a peer; a third of that for riverqueue, half \
         for awa and BullMQ, a twentieth for procrastinate, which are slower to fill or to drain\n\
         - snapshot: {} jobs run under it, then {} timed\n\
         - backlog: {} jobs, of which the first {} are timed{peer_backlog}\n\
         - history: {} jobs\n\
         - noisy tenant: {} jobs of one row each; the smallest of the 100 shares: {} jobs\n\
         - HTTP: {} requests; at an even pace: {} requests, and {} charges of a hot key; \
         webhooks: {} events to five endpoints, {} events to a hundred\n",
        jobs(plan.drain),
        jobs(plan.peer_drain),
        jobs(plan.dead),
        jobs(plan.held),
        jobs(plan.backlog),
        jobs(plan.drain),
        jobs(plan.history),
        jobs(plan.noisy),
        jobs(plan.zipf),
        jobs(plan.http),
        jobs(plan.paced),
        jobs(plan.hot),
        jobs(plan.webhooks),
        jobs(plan.paced_events),
    )
    .ok();
}

/// The content of `results.json`, with every sample.
fn data(bench: &Bench) -> Value {
    let machine = Machine::look();
    let sections: Vec<Value> = SECTIONS
        .iter()
        .map(|section| bench.results.json(section))
        .collect();
    let targets: Vec<Value> = evaluate_targets(&bench.results)
        .map(|target| {
            json!({
                "target": target.name,
                "wanted": target.wanted,
                "measured": target.measured,
                "met": target.met,
            })
        })
        .collect();
    let peers: Vec<Value> = PEERS
        .iter()
        .map(|peer| json!({"name": peer.name, "version": peer.version}))
        .collect();
    let settings: serde_json::Map<String, Value> = SETTINGS
        .iter()
        .map(|&(name, value)| (name.to_owned(), Value::from(value)))
        .collect();
    json!({
        "machine": {
            "cores": machine.cores,
            "processor": machine.processor,
            "memory_gib": machine.memory_gib,
            "system": machine.system,
            "kernel": machine.kernel,
        },
        "postgres": {"version": bench.arena.version(), "settings": settings},
        "quick": bench.plan.quick,
        "rounds": bench.plan.rounds,
        "peers": peers,
        "targets": targets,
        "sections": sections,
        "notes": bench.results.notes(),
    })
}
