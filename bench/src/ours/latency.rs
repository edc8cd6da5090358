//! Harkara's time from the enqueue call to the start of the handler, in milliseconds.
//!
//! A job is sent when it is due, whether or not earlier ones have started.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use harkara_queue::Run;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::enqueue::EnqueueMode;
use super::{CountingHandler, Harkara};

/// Jobs at the start that are not counted, because caches and connections are cold.
const WARM: usize = 20;

/// The payload of this measure.
#[derive(Deserialize)]
struct Numbered {
    n: usize,
}

/// The number of a run's job, if it has one.
pub(crate) fn number(run: &Run) -> Option<usize> {
    serde_json::from_str(run.job.payload().get())
        .ok()
        .map(|Numbered { n }| n)
}

impl Harkara {
    /// Sends jobs at an even pace and returns the wait of each in milliseconds.
    pub(crate) async fn latency(
        &self,
        mode: EnqueueMode,
        jobs: usize,
        per_second: u32,
    ) -> anyhow::Result<Vec<f64>> {
        let starts = Arc::new(Mutex::new(Vec::with_capacity(jobs + WARM)));
        let kept = Arc::clone(&starts);
        let tally = CountingHandler::seeing(move |run| {
            let start = (number(run), Instant::now());
            kept.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(start);
        });
        let working = self.start_with(&tally, 64)?;
        sleep(Duration::from_millis(500)).await;
        let from = tokio::time::Instant::now();
        let mut called = Vec::with_capacity(jobs + WARM);
        let mut calling = JoinSet::new();
        for n in 0..jobs + WARM {
            sleep_until(from + Duration::from_secs(1) * u32::try_from(n)? / per_second).await;
            called.push(Instant::now());
            let harkara = self.clone();
            let payload = format!(r#"{{"n":{n}}}"#);
            calling.spawn(async move { harkara.enqueue_one(mode, &payload).await });
        }
        for called in calling.join_all().await {
            called?;
        }
        let all = tally.reaches(jobs + WARM);
        let ended = timeout(Duration::from_secs(20), all).await;
        working.end().await?;
        ensure!(ended.is_ok(), "{} of {jobs} jobs ran", tally.ran());
        let starts = starts.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(starts
            .iter()
            .filter_map(|&(n, start)| Some((n.filter(|&n| n >= WARM)?, start)))
            .filter_map(|(n, start)| Some(start.duration_since(*called.get(n)?)))
            .map(|wait| wait.as_secs_f64() * 1000.0)
            .collect())
    }
}
