//! Which schemas a process runs on: its own, and a later one that permits it.
//!
//! `migrations/README.md` describes how a schema declares the oldest release. How `migrate` itself behaves is tested in
//! `tests/database`.

use std::path::PathBuf;
use std::time::Duration;

use harkara_shared::database::query;
use harkara_test_database::TestDatabase;
use harkara_tests::{Client, Platform, Process, Receiver, Reply, ready, until};
use serde_json::json;

const EXIT_TIMEOUT: Duration = Duration::from_secs(30);

async fn execute(database: &TestDatabase, sql: &'static str) {
    query(sql).execute(&database.pool()).await.unwrap();
}

/// What the process reports when it refuses to start.
async fn refusal(database: &TestDatabase, name: &str, args: &[&str]) -> String {
    let environment = [
        ("DATABASE_URL", database.url()),
        (
            "HARKARA_MASTER_KEY",
            harkara_shared::vault::MasterKeys::generate(),
        ),
        ("HARKARA_API_ADDR", "127.0.0.1:0".to_owned()),
        ("HARKARA_WORKER_ADDR", "127.0.0.1:0".to_owned()),
        ("HARKARA_SCHEDULER_ADDR", "127.0.0.1:0".to_owned()),
    ];
    let mut process = Process::start(name, args, &environment);
    let code = process.ended(EXIT_TIMEOUT).await;
    assert_eq!(code, Some(1), "{name}: {}", process.output());
    process.output()
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_refuse_a_schema_without_their_functions() {
    let database = TestDatabase::create().await;
    execute(
        &database,
        "update app.schema_state set functions_history = '{}'",
    )
    .await;
    for name in ["harkara-api", "harkara-worker", "harkara-scheduler"] {
        let output = refusal(&database, name, &[]).await;
        assert!(output.contains("run `harkara migrate`"), "{name}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_refuse_a_schema_that_requires_a_newer_release() {
    let database = TestDatabase::create().await;
    execute(
        &database,
        "update app.schema_state set oldest_release = '99.0.0'",
    )
    .await;
    for (name, args) in [
        ("harkara-api", &[][..]),
        ("harkara-worker", &[]),
        ("harkara-scheduler", &[]),
        ("harkara", &["migrate"]),
        ("harkara", &["tenant", "create", "Acme"]),
    ] {
        let output = refusal(&database, name, args).await;
        assert!(
            output.contains("requires release 99.0.0 or newer: upgrade this process"),
            "{name}: {output}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_ends_when_the_schema_moves_beyond_a_running_process() {
    let database = TestDatabase::create().await;
    let platform = Platform::on(database.url(), database.pool());
    let (scheduler, address) = platform.scheduler();
    ready(&scheduler, address).await;
    execute(
        &database,
        "update app.schema_state set oldest_release = '99.0.0'",
    )
    .await;
    let answer = Client::new(address, "").try_get("/readyz").await.unwrap();
    assert_eq!(answer.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_refuse_a_database_of_a_pre_release_schema() {
    let database = TestDatabase::create_empty().await;
    execute(&database, "create schema app").await;
    execute(&database, "create table app.tenants (id uuid primary key)").await;
    let port = harkara_tests::free_address().port().to_string();
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    for args in [
        &["migrate"][..],
        &["up", "--port", &port, "--data-dir", data_dir],
    ] {
        let output = refusal(&database, "harkara", args).await;
        assert!(
            output
                .contains("created by a pre-release version of Harkara, which cannot be upgraded"),
            "{args:?}: {output}"
        );
    }
}

/// The binaries of the release before: `harkara-api`, `harkara-worker` and `harkara-scheduler`.
const PREVIOUS: &str = "HARKARA_PREVIOUS_BIN";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the binaries of the previous release: HARKARA_PREVIOUS_BIN=<directory> cargo test -- --ignored previous_release"]
#[expect(
    clippy::disallowed_methods,
    reason = "a setting of this test, not configuration"
)]
async fn previous_release_runs_on_the_schema_of_this_one() {
    let directory = std::env::var(PREVIOUS).expect("HARKARA_PREVIOUS_BIN");
    let database = TestDatabase::create().await;
    let platform =
        Platform::on(database.url(), database.pool()).with_binaries(PathBuf::from(directory));
    let (api, api_address) = platform.api().await;
    let (scheduler, scheduler_address) = platform.scheduler();
    ready(&scheduler, scheduler_address).await;
    let (worker, worker_address) = platform.worker("http=4", 30, 5);
    ready(&worker, worker_address).await;
    let client = platform.tenant("acme", api_address).await;
    let receiver = Receiver::start(|_| Reply::status(204)).await;
    let job = json!({"kind": "http.request", "payload": {"url": receiver.url}});
    let path = format!(
        "/v1/jobs/{}",
        client.post("/v1/jobs", &job).await.text("id")
    );
    until("the job succeeded", Duration::from_secs(60), || async {
        (client.get(&path).await.ok()["state"] == "succeeded").then_some(())
    })
    .await;
    // A worker of this release takes over what the other one has not finished.
    drop(worker);
    let path = format!(
        "/v1/jobs/{}",
        client.post("/v1/jobs", &job).await.text("id")
    );
    let current = Platform::on(database.url(), database.pool());
    let (_worker, _) = current.worker("http=4", 30, 5);
    until(
        "the second job succeeded",
        Duration::from_secs(60),
        || async { (client.get(&path).await.ok()["state"] == "succeeded").then_some(()) },
    )
    .await;
    drop((api, scheduler));
}
