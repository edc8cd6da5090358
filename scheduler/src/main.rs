//! `harkara-scheduler`: see the library of this crate.

use std::process::ExitCode;

use harkara_shared::process;

#[tokio::main]
async fn main() -> ExitCode {
    process::exit(process::run_service(harkara_scheduler::NEEDED, harkara_scheduler::run).await)
}
