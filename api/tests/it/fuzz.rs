//! The API against an outside fuzzer, which reads the OpenAPI document and asks all it allows, and much
//! that it does not.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use harkara_api::access::{Scope, ensure_platform};
use tokio::process::Command;

use crate::support::Platform;

/// Cases for each operation.
const CASES: &str = "10";

/// The tool: that which `.ci/run` has prepared, or one of the machine's.
fn tool() -> PathBuf {
    let prepared =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/receivers/bin/schemathesis");
    if prepared.exists() {
        prepared
    } else {
        "schemathesis".into()
    }
}

/// Lets the tool ask all that the document tells, with a key, and fails with what it says if there is an
/// answer that should not be. `HARKARA_FUZZ` holds more arguments, for a longer or a narrower run by hand.
async fn fuzz(platform: &Platform, key: &str, arguments: &[&str]) {
    let more = std::env::var_os("HARKARA_FUZZ").unwrap_or_default();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let run = Command::new(tool())
        .arg("--config-file")
        .arg(tests.join("schemathesis.toml"))
        .args(["run", "--no-color", "--max-examples", CASES])
        .args(arguments)
        .args(more.to_string_lossy().split_whitespace())
        .arg(format!("{}/openapi.json", platform.client.base))
        .env("HARKARA_KEY", key)
        .env("SCHEMATHESIS_HOOKS", tests.join("schemathesis_hooks.py"))
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .await
        .expect("schemathesis runs: pip install schemathesis");
    let said = String::from_utf8_lossy(&run.stdout);
    let wrong = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}\n{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and schemathesis: run by .ci/run"]
async fn fuzzing_as_a_tenant_finds_no_undocumented_response() {
    let platform = Platform::start().await;
    let every: Vec<Scope> = Scope::ALL
        .iter()
        .copied()
        .filter(|scope| *scope != Scope::PlatformAdmin)
        .collect();
    let key = platform.key(&platform.acme, &every, None).await;
    fuzz(&platform, &key, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and schemathesis: run by .ci/run"]
async fn fuzzing_as_the_platform_finds_no_undocumented_response() {
    let platform = Platform::start().await;
    let all = ensure_platform(&platform.pool).await.unwrap();
    let key = platform.key(&all, Scope::ALL, None).await;
    // What others are refused.
    let only = ["--include-path-regex", "^/v1/(tenants|enterprise|queues)"];
    fuzz(&platform, &key, &only).await;
}
