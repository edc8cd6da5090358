//! Memory use of a worker process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harkara_tests::{Fixture, Process, Receiver, Reply, ready, until};
use serde_json::json;

const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// Payloads of the maximum size; together far more than the worker may hold.
const JOBS: usize = 200;

const MAX_EXTRA_MIB: u64 = 32;

/// The peak memory of a process, in MiB.
fn peak_of(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_memory_stays_bounded_for_large_payloads() {
    let Fixture {
        platform, client, ..
    } = &Fixture::start().await;
    let answered = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&answered);
    let receiver = Receiver::start(move |_| {
        counts.fetch_add(1, Ordering::Relaxed);
        Reply::status(204)
    })
    .await;
    let body = "x".repeat(255 * 1024);
    for _ in 0..JOBS / 20 {
        let jobs: Vec<_> = (0..20)
            .map(
                |_| json!({"kind": "http.request", "payload": {"url": receiver.url, "body": body}}),
            )
            .collect();
        client
            .post("/v1/jobs/batch", &json!({"jobs": jobs}))
            .await
            .ok();
    }
    let memory = [("HARKARA_WORKER_MEMORY_MIB", MAX_EXTRA_MIB.to_string())];
    let idle = {
        let (worker, address) = platform.worker_with("report=1", &memory);
        ready(&worker, address).await;
        peak_of(&worker)
    };
    let (worker, _) = platform.worker_with("http=256", &memory);
    until("all jobs have run", DELIVERY_TIMEOUT, || async {
        (answered.load(Ordering::Relaxed) >= JOBS).then_some(())
    })
    .await;
    let taken = peak_of(&worker).saturating_sub(idle);
    eprintln!("idle {idle} MiB, at work {taken} MiB more");
    assert!(
        taken <= MAX_EXTRA_MIB,
        "the worker used {taken} MiB more than the {idle} MiB of an idle one"
    );
}
