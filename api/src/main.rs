//! The binary `harkara-api`, which serves the API of this crate.

use std::process::ExitCode;

use harkara_shared::process;

#[tokio::main]
async fn main() -> ExitCode {
    process::exit(process::run_service(harkara_api::NEEDED, harkara_api::run).await)
}
