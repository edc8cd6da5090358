//! `harkara-scheduler`: the binary of this crate's library.

use std::process::ExitCode;

use harkara_shared::config::Settings;
use harkara_shared::{process, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Settings::from_environment(harkara_scheduler::NEEDED) {
        Ok(settings) => {
            telemetry::start_log(&settings);
            harkara_scheduler::run(settings).await
        }
        Err(errors) => Err(errors.into()),
    };
    process::exit(result)
}
