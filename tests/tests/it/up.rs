//! `harkara up`: one command starts the whole platform.

use std::path::Path;
use std::time::Duration;

use harkara_shared::egress::client_config;
use harkara_tests::{Client, Process, free_address};

const START_TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

fn up(data_dir: &Path, port: u16, more: &[&str]) -> Process {
    let port = port.to_string();
    let mut args = vec![
        "up",
        "--port",
        &port,
        "--data-dir",
        data_dir.to_str().unwrap(),
    ];
    args.extend_from_slice(more);
    Process::start("harkara", &args, &[])
}

/// The tenant's key as `up` prints it.
fn key(output: &str) -> String {
    let (_, after) = output
        .split_once("tenant     demo      key ")
        .expect("the key is printed");
    after.split_whitespace().next().unwrap().to_owned()
}

/// The sign-in link as `up` prints it.
fn link(output: &str) -> String {
    let (_, after) = output
        .split_once("sign in    ")
        .expect("the link is printed");
    after.split_whitespace().next().unwrap().to_owned()
}

/// Signs in by a link and returns the account page.
async fn account(link: &str) -> String {
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config().unwrap())
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let page = http.get(link).send().await.unwrap();
    assert_eq!(page.status(), 200);
    let answer = http.post(link).send().await.unwrap();
    assert_eq!(answer.status(), 303);
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let home = reqwest::Url::parse(link).unwrap().join("/").unwrap();
    let page = http
        .get(home)
        .header("cookie", cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(page.status(), 200);
    page.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn up_delivers_and_verifies_stops_on_ctrl_c_and_keeps_its_data() {
    let directory = tempfile::tempdir().unwrap();
    let address = free_address();
    let mut first = up(directory.path(), address.port(), &[]);
    let output = first.wait_for_output("Running.", START_TIMEOUT).await;
    assert!(
        output.contains("is delivered and verified: status 200"),
        "{output}"
    );
    let key_text = key(&output);
    let client = Client::new(address, &key_text);
    let first_link = link(&output);
    let page = account(&first_link).await;
    assert!(
        page.contains("admin@localhost") && page.contains("platform"),
        "{page}"
    );
    let before = client.get("/v1/deliveries").await.ok();
    assert_eq!(before["data"][0]["state"], "succeeded");

    // A command finds the running platform by its data directory.
    let args = [
        "tenant",
        "create",
        "Acme Trading",
        "--tier",
        "PRO",
        "--json",
        "--data-dir",
    ];
    let mut tool = Process::start(
        "harkara",
        &[&args[..], &[directory.path().to_str().unwrap()]].concat(),
        &[],
    );
    assert_eq!(tool.ended(STOP_TIMEOUT).await, Some(0), "{}", tool.output());
    let tenant: serde_json::Value = serde_json::from_str(tool.output().trim()).unwrap();
    assert_eq!(tenant["slug"], "acme-trading");
    assert!(tenant["id"].as_str().unwrap().starts_with("ten_"));

    first.signal("INT");
    assert_eq!(
        first.ended(STOP_TIMEOUT).await,
        Some(0),
        "{}",
        first.output()
    );

    let mut second = up(directory.path(), address.port(), &["--no-demo"]);
    let output = second.wait_for_output("Running.", START_TIMEOUT).await;
    assert!(!output.contains("delivered"), "{output}");
    assert_eq!(key(&output), key_text, "the key must be kept");
    assert_ne!(
        link(&output),
        first_link,
        "every start must print a new link"
    );
    account(&link(&output)).await;
    let after = client.get("/v1/deliveries").await.ok();
    assert_eq!(
        after["data"], before["data"],
        "the data of the first run must be kept"
    );
    second.signal("TERM");
    assert_eq!(
        second.ended(STOP_TIMEOUT).await,
        Some(0),
        "{}",
        second.output()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn up_restarts_on_its_data_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let address = free_address();
    let mut first = up(directory.path(), address.port(), &["--no-demo"]);
    let key_text = key(&first.wait_for_output("Running.", START_TIMEOUT).await);
    first.kill();
    let second = up(directory.path(), address.port(), &[]);
    let output = second.wait_for_output("Running.", START_TIMEOUT).await;
    assert_eq!(key(&output), key_text);
    assert!(output.contains("delivered and verified"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn up_refuses_a_private_database_in_production_and_a_used_port() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    let production = [("HARKARA_PRODUCTION", "on".to_owned())];
    let port = free_address().port().to_string();
    let args = ["up", "--port", &port, "--data-dir", data_dir];
    let mut process = Process::start("harkara", &args, &production);
    assert_eq!(
        process.ended(STOP_TIMEOUT).await,
        Some(1),
        "{}",
        process.output()
    );
    assert!(
        process.output().contains("DATABASE_URL"),
        "{}",
        process.output()
    );

    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let args = ["up", "--port", &port, "--data-dir", data_dir];
    let mut process = Process::start("harkara", &args, &[]);
    assert_eq!(
        process.ended(STOP_TIMEOUT).await,
        Some(1),
        "{}",
        process.output()
    );
    assert!(
        process.output().contains("cannot listen on"),
        "{}",
        process.output()
    );
}
