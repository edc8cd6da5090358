//! Runs an external fuzzer against the API: it reads the OpenAPI document and sends valid and invalid
//! requests for every operation.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use harkara_accounts::{Scope, ensure_platform};
use tokio::process::Command;

use crate::support::Platform;

/// Test cases per operation.
const CASES: &str = "10";

/// The fuzzer installed by `.ci/run`, or one from `PATH`.
fn tool() -> PathBuf {
    let prepared =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/receivers/bin/schemathesis");
    if prepared.exists() {
        prepared
    } else {
        "schemathesis".into()
    }
}

/// Runs the fuzzer with this key, and fails with its output if a response contradicts the document.
/// `HARKARA_FUZZ` holds further arguments, for a longer or a narrower manual run.
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
    let stdout = String::from_utf8_lossy(&run.stdout);
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{stdout}\n{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and needs schemathesis: run by .ci/run"]
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
#[ignore = "takes minutes and needs schemathesis: run by .ci/run"]
async fn fuzzing_as_the_platform_finds_no_undocumented_response() {
    let platform = Platform::start().await;
    let all = ensure_platform(&platform.pool).await.unwrap();
    let key = platform.key(&all, Scope::ALL, None).await;
    // Routes that are refused to other callers.
    let only = ["--include-path-regex", "^/v1/(tenants|enterprise|queues)"];
    fuzz(&platform, &key, &only).await;
}
