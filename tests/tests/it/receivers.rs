//! Deliveries are verified by the library that receivers use.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use harkara_tests::{Receiver, Reply, Stand, until, workspace};
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

/// A Python that has `standardwebhooks`: the one `.ci/run` prepares, else one made in `directory` if
/// there is a Python at all.
fn python(directory: &Path) -> Option<PathBuf> {
    let run = |program: &Path, args: &[&str]| {
        Command::new(program)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let has_library = |python: &Path| run(python, &["-c", "import standardwebhooks"]);
    let prepared = workspace().join("target/receivers/bin/python");
    if has_library(&prepared) {
        return Some(prepared);
    }
    let made = run(Path::new("python3"), &["-m", "venv", directory.to_str()?])
        && run(
            &directory.join("bin/pip"),
            &["install", "--quiet", "standardwebhooks==1.1.0"],
        );
    let python = directory.join("bin/python");
    (made && has_library(&python)).then_some(python)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_written_with_the_standardwebhooks_package_verifies_a_delivery() {
    let directory = tempfile::tempdir().unwrap();
    let Some(python) = python(directory.path()) else {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI has Python and its package index"
        );
        eprintln!("skipped: no Python with the standardwebhooks package can be had here");
        return;
    };
    let Stand {
        platform, client, ..
    } = &Stand::start().await;
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
