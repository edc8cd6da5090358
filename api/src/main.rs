//! The binary `harkara-api`, which serves the API of this crate.

use std::process::ExitCode;

use harkara_shared::config::Settings;
use harkara_shared::{process, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Settings::from_environment(harkara_api::NEEDED) {
        Ok(settings) => {
            telemetry::start_log(&settings);
            harkara_api::run(settings).await
        }
        Err(mistakes) => Err(mistakes.into()),
    };
    process::exit(result)
}
