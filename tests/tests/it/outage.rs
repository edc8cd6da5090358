//! Database outages: processes wait, report it, and recover by themselves.

use std::time::Duration;

use harkara_test_database::OwnCluster;
use harkara_tests::{Client, Platform, Receiver, Reply, ready, until};
use serde_json::json;

const RECOVERY_TIMEOUT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn processes_started_before_their_database_wait_for_it_and_recover_from_its_loss() {
    let mut cluster = OwnCluster::start().await;
    let platform = Platform::on(cluster.url(), cluster.pool());
    let (api, address) = platform.api().await;
    let client = platform.tenant("acme", address).await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    cluster.stop_immediate().await;

    // Started without a database: alive but not ready.
    let (worker, worker_address) = platform.worker("http=4", 5, 5);
    let (scheduler, scheduler_address) = platform.scheduler();
    for address in [worker_address, scheduler_address] {
        let client = Client::new(address, "");
        let what = format!("{address} is alive");
        until(&what, RECOVERY_TIMEOUT, || async {
            client.try_get("/healthz").await.ok()
        })
        .await;
        assert_eq!(client.get("/readyz").await.status, 503);
    }
    assert_eq!(client.get("/healthz").await.status, 200);
    assert_eq!(client.get("/readyz").await.status, 503);
    let job = json!({"kind": "http.request", "payload": {"url": receiver.url}});
    let refused = client.post("/v1/jobs", &job).await;
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (503, &json!("database_unavailable"))
    );
    assert!(refused.headers.contains_key("retry-after"));

    cluster.start_again().await;
    ready(&api, address).await;
    ready(&worker, worker_address).await;
    ready(&scheduler, scheduler_address).await;

    // Lost while they run: every process recovers by itself.
    for _ in 0..2 {
        let id = client.post("/v1/jobs", &job).await.text("id");
        until("the job has succeeded", RECOVERY_TIMEOUT, || async {
            let job = client.get(&format!("/v1/jobs/{id}")).await;
            (job.body["state"] == "succeeded").then_some(())
        })
        .await;
        cluster.stop_immediate().await;
        cluster.start_again().await;
        ready(&api, address).await;
    }
}
