//! Deliveries are verified by the library that receivers use.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use harkara_test_database::TestDatabase;
use harkara_tests::{Platform, Receiver, Reply, until, workspace};
use serde_json::json;

/// Verifies one message, then a tampered one.
const SCRIPT: &str = r#"
import json, sys
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
message = json.load(sys.stdin)
webhook = Webhook(message["secret"])
event = webhook.verify(message["body"], message["headers"])
assert event["type"] == "invoice.paid", event
try:
    webhook.verify(message["body"].replace("12", "13"), message["headers"])
except WebhookVerificationError:
    print("verified")
"#;

/// A Python that has `standardwebhooks`, made if there is a Python at all.
fn python() -> Option<PathBuf> {
    let home = workspace().join("target/receivers");
    let python = home.join("bin/python");
    let has_library = || {
        Command::new(&python)
            .args(["-c", "import standardwebhooks"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if has_library() {
        return Some(python);
    }
    let run = |program: &str, args: &[&str]| {
        Command::new(program)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let made = run("python3", &["-m", "venv", home.to_str()?])
        && run(
            home.join("bin/pip").to_str()?,
            &["install", "--quiet", "standardwebhooks==1.1.0"],
        );
    (made && has_library()).then_some(python)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_written_with_the_standardwebhooks_package_verifies_a_delivery() {
    let Some(python) = python() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI has Python and its package index"
        );
        eprintln!("skipped: no Python with the standardwebhooks package can be had here");
        return;
    };
    let database = TestDatabase::create().await;
    let platform = Platform::on(database.url(), database.pool());
    let (_api, address) = platform.api().await;
    let client = platform.tenant("acme", address).await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let (_worker, _) = platform.worker("webhook=4", 30, 5);
    let endpoint = json!({"url": receiver.url, "event_types": ["invoice.paid"]});
    let endpoint = client.post("/v1/webhook-endpoints", &endpoint).await.ok();
    let event = json!({"type": "invoice.paid", "data": {"amount": 12, "text": "für dich ✓"}});
    client.post("/v1/events", &event).await.ok();
    let hit = until(
        "the delivery has arrived",
        Duration::from_secs(60),
        || async { receiver.hits().pop() },
    )
    .await;

    let header = |name: &str| hit.headers[name].to_str().unwrap().to_owned();
    let message = json!({
        "secret": endpoint["secret"],
        "body": String::from_utf8(hit.body.to_vec()).unwrap(),
        "headers": {
            "webhook-id": header("webhook-id"),
            "webhook-timestamp": header("webhook-timestamp"),
            "webhook-signature": header("webhook-signature"),
        },
    });
    let mut verifier = Command::new(python)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    verifier
        .stdin
        .take()
        .unwrap()
        .write_all(message.to_string().as_bytes())
        .unwrap();
    let output = verifier.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "verified");
}
