//! Deliveries are verified with the libraries that receivers use.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use harkara_shared::signature::{Ed25519Key, SigningKey, WebhookSecret, sign_all};
use harkara_tests::{Fixture, Receiver, Reply, node_packages, receiver_python, until};
use serde_json::{Value, json};

/// The verifying packages in both languages. Neither supports `v1a`, which is verified with the
/// built-in crypto of Node.js.
const PACKAGES: [&str; 2] = ["standardwebhooks", "svix"];

/// Verifies each message with the named package, and checks that a tampered one is rejected.
const PYTHON: &str = r#"
import importlib, json, sys
package = importlib.import_module(sys.argv[1] + ".webhooks")
for message in json.load(sys.stdin):
    webhook = package.Webhook(message["secret"])
    webhook.verify(message["body"], message["headers"])
    try:
        webhook.verify(message["body"].replace("12", "13"), message["headers"])
    except package.WebhookVerificationError:
        print("verified")
"#;

/// The same for Node.js.
const NODE: &str = r#"
import { readFileSync } from "node:fs";
const { Webhook, WebhookVerificationError } = await import(process.argv[1]);
for (const message of JSON.parse(readFileSync(0))) {
    const webhook = new Webhook(message.secret);
    webhook.verify(message.body, message.headers);
    try {
        webhook.verify(message.body.replace("12", "13"), message.headers);
    } catch (error) {
        if (error instanceof WebhookVerificationError) console.log("verified");
    }
}
"#;

/// Verifies `v1a` with the Ed25519 of Node.js (OpenSSL), and checks that a tampered message is rejected.
const NODE_ED25519: &str = r#"
import { readFileSync } from "node:fs";
import { createPublicKey, verify } from "node:crypto";
for (const { public: shown, body, headers } of JSON.parse(readFileSync(0))) {
    const x = Buffer.from(shown.replace(/^whpk_/, ""), "base64").toString("base64url");
    const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
    const signatures = headers["webhook-signature"].split(" ").map((one) => one.split(","));
    const signature = Buffer.from(signatures.find(([version]) => version === "v1a")[1], "base64");
    const before = `${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`;
    const isSigned = (text) => verify(null, Buffer.from(before + text), key, signature);
    if (isSigned(body) && !isSigned(body.replace("12", "13"))) console.log("verified");
}
"#;

const BODY: &str = r#"{"type":"invoice.paid","data":{"amount":12,"text":"für dich ✓"}}"#;

/// A command that runs the script given as its next argument.
fn interpreter(language: &str) -> Command {
    if language == "python" {
        let mut command = Command::new(receiver_python());
        command.arg("-c");
        return command;
    }
    let mut command = Command::new("node");
    command
        .args(["--input-type=module", "-e"])
        .current_dir(node_packages());
    command
}

/// Asserts that the script verifies every message.
fn assert_verified(mut script: Command, messages: &[Value]) {
    let mut verifier = script
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = Value::from(messages).to_string();
    let mut stdin = verifier.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = verifier.wait_with_output().unwrap();
    let output_text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output_text.lines().collect::<Vec<_>>(),
        vec!["verified"; messages.len()],
        "{script:?}"
    );
}

/// A message with all of these keys' signatures.
fn message(keys: &[SigningKey]) -> Value {
    let now = harkara_shared::clock::now().timestamp();
    json!({
        "body": BODY,
        "headers": {
            "webhook-id": "evt_1",
            "webhook-timestamp": now.to_string(),
            "webhook-signature": sign_all(keys, "evt_1", now, BODY.as_bytes()),
        },
    })
}

/// An event as received, with the secret of its endpoint.
async fn delivered() -> Value {
    let Fixture {
        platform, client, ..
    } = &Fixture::start().await;
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
    json!({
        "secret": endpoint["secret"],
        "body": String::from_utf8(hit.body.to_vec()).unwrap(),
        "headers": {
            "webhook-id": header("webhook-id"),
            "webhook-timestamp": header("webhook-timestamp"),
            "webhook-signature": header("webhook-signature"),
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the receiver libraries for Python and Node.js: run by .ci/run"]
async fn receiver_libraries_verify_a_delivery_and_a_message_with_several_keys() {
    let mut messages = vec![delivered().await];
    // During a rotation, each key matches its own signature among the others.
    let secrets = [WebhookSecret::generate(), WebhookSecret::generate()];
    let [new, old] = secrets.clone().map(SigningKey::from);
    let keys = [Ed25519Key::generate().into(), new, old];
    for secret in secrets {
        let mut message = message(&keys);
        message["secret"] = secret.expose().into();
        messages.push(message);
    }
    for (language, script) in [("python", PYTHON), ("node", NODE)] {
        for package in PACKAGES {
            let mut command = interpreter(language);
            command.args([script, package]);
            assert_verified(command, &messages);
        }
    }
}

#[test]
#[ignore = "needs Node.js: run by .ci/run"]
fn independent_ed25519_implementation_verifies_v1a() {
    let mut command = interpreter("node");
    command.arg(NODE_ED25519);
    let messages = [(); 8].map(|()| {
        let key = SigningKey::from(Ed25519Key::generate());
        let public = key.public();
        let mut message = message(&[WebhookSecret::generate().into(), key]);
        message["public"] = public.into();
        message
    });
    assert_verified(command, &messages);
}
