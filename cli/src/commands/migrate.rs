//! `harkara migrate`: brings the database schema to this release.

use harkara_jobs::publish::publish;
use harkara_queue::Engine;
use harkara_shared::config::Settings;
use harkara_shared::database;
use harkara_shared::process::DATABASE_START_TIMEOUT;

use super::context::open_pool;
use crate::output::say;
use crate::target::Target;

pub(crate) async fn migrate(target: &Target, settings: &Settings) -> anyhow::Result<()> {
    let pool = open_pool(target, settings)?;
    database::wait_until_reachable(&pool, DATABASE_START_TIMEOUT).await?;
    database::migrate(&pool).await?;
    publish(&Engine::new(pool, settings.notify)).await?;
    say("the schema is up to date");
    Ok(())
}
