//! The API's process: see the library.

use std::process::ExitCode;

use harkara_shared::config::Settings;
use harkara_shared::process::exit;

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Settings::from_environment() {
        Ok(settings) => harkara_api::run(settings).await,
        Err(errors) => Err(errors.into()),
    };
    exit(result)
}
