//! `harkara worker …`: lists live workers.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use harkara_api::representation;
use harkara_queue::LiveWorker;
use harkara_queue::settings::QueueView;
use harkara_shared::config::Settings;
use serde_json::{Value, json};

use super::context::{CommonArgs, open_engine};
use crate::output::say;

/// Workers read per page.
const PAGE_SIZE: u32 = 1000;

/// `harkara worker …`
#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// List live workers
    Ls {
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(crate) async fn worker(command: WorkerCommand, settings: &Settings) -> anyhow::Result<()> {
    let WorkerCommand::Ls { common } = command;
    let engine = open_engine(&common, settings).await?;
    let mut workers: Vec<LiveWorker> = Vec::new();
    loop {
        let after = workers.last().map(|worker| worker.id);
        let page = engine.workers(QueueView::All, after, PAGE_SIZE).await?;
        if page.is_empty() {
            break;
        }
        workers.extend(page);
    }
    if common.json {
        let data: Result<Vec<Value>, _> = workers.into_iter().map(representation::worker).collect();
        say(&json!({ "data": data? }).to_string());
        return Ok(());
    }
    for worker in workers {
        let queues: Vec<String> = worker
            .queues
            .iter()
            .map(|(queue, slots)| format!("{queue}={slots}"))
            .collect();
        say(&format!(
            "{} {:<16} {:<8} since {}, seen {}, {} running, {}",
            worker.id,
            // The host of a remote worker is not known.
            worker.host.unwrap_or_default(),
            worker.version,
            format_second(worker.started_at),
            format_second(worker.last_seen_at),
            worker.running,
            queues.join(",")
        ));
    }
    Ok(())
}

fn format_second(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
