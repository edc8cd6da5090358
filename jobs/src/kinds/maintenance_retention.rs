//! Room: the kind `maintenance.retention`: forgets what is old.
//! Takes: nothing. Gives: how much was removed. Never: touches a job that has not finished.

use std::sync::Arc;
use std::time::Duration;

use harkara_queue::job::JobError;
use harkara_queue::{Error, Removed, Run, Verdict};
use harkara_shared::database::TenantTx;
use harkara_shared::id::{DeliveryId, TenantId};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::types::Uuid;
use utoipa::ToSchema;

use crate::catalogue::JobKind;
use crate::kinds::database_verdict;
use crate::kinds::maintenance_usage_reset::remove_idle_counters;
use crate::services::Services;
use crate::webhook;

/// - Changes: removes succeeded and cancelled jobs after 7 days, dead ones, attempts, and events with
///   their deliveries after 30, their payloads earlier where their tenant wants that; numbers of minutes after 2 days, of hours after 90; counters of request
///   limits that are whole again. Sets endpoints' lanes anew.
/// - Twice: the second finds nothing left to remove.
/// - Calls: nobody.
/// - Dead: the tables grow until the next day's run; look at its error.
#[derive(Debug)]
pub struct Retention;

/// Payload of `maintenance.retention`: none.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {}

impl JobKind for Retention {
    const KIND: &'static str = "maintenance.retention";
    const QUEUE: &'static str = "maintenance";
    const MAX_ATTEMPTS: u16 = 5;
    const TIMEOUT: Duration = Duration::from_secs(30 * 60);
    const PLATFORM_ONLY: bool = true;
    type Args = Args;

    async fn run(_: Args, _: Run, services: Arc<Services>) -> Verdict {
        match retain(&services).await {
            Ok(result) => Verdict::Done {
                result: Some(result),
                follow_ups: Vec::new(),
            },
            Err(
                webhook::Error::Database(error) | webhook::Error::Queue(Error::Database(error)),
            ) => database_verdict(&error),
            Err(error) => Verdict::retry(JobError::new("retention", error.to_string()), None),
        }
    }
}

async fn retain(services: &Services) -> Result<Value, webhook::Error> {
    let keep = harkara_queue::Retention::default();
    let (mut events, mut payloads) = (0, 0);
    for tenant in services.engine.tenants().await? {
        // Deliveries first: jobs that are about to be forgotten tell what became of them.
        let mut after = Some(DeliveryId::from_uuid(Uuid::nil()));
        while let Some(last) = after {
            let mut tx = TenantTx::begin(&services.pool, tenant).await?;
            after = webhook::catch_up(&mut tx, last).await?;
            tx.commit().await?;
        }
        loop {
            let mut tx = TenantTx::begin(&services.pool, tenant).await?;
            let removed = webhook::forget(&mut tx, keep.dead).await?;
            tx.commit().await?;
            events += removed;
            if removed == 0 {
                break;
            }
        }
        let mut tx = TenantTx::begin(&services.pool, tenant).await?;
        webhook::forget_hours(&mut tx, keep.dead).await?;
        tx.commit().await?;
        hold_endpoints(services, tenant).await?;
        loop {
            let mut tx = TenantTx::begin(&services.pool, tenant).await?;
            let removed = webhook::forget_payloads(&mut tx).await?;
            tx.commit().await?;
            payloads += removed;
            if removed == 0 {
                break;
            }
        }
    }
    // Named one by one, so that nothing that is removed is left untold.
    let Removed {
        jobs,
        unique_keys,
        workers,
        lanes,
        limits,
        attempt_days,
        history,
    } = services.engine.retain(keep).await?;
    Ok(json!({
        "jobs": jobs,
        "unique_keys": unique_keys,
        "workers": workers,
        "lanes": lanes,
        "limits": limits,
        "attempt_days": attempt_days,
        "history": history,
        "events": events,
        "payloads": payloads,
        "request_counters": remove_idle_counters(&services.pool).await?,
    }))
}

/// Has the engine hold what a tenant's endpoints are set to: where a process ended in between, or a release
/// before this one made them, it does not yet.
async fn hold_endpoints(services: &Services, tenant: TenantId) -> Result<(), webhook::Error> {
    let mut before = None;
    loop {
        let mut tx = TenantTx::begin(&services.pool, tenant).await?;
        let endpoints = webhook::list_endpoints(&mut tx, before, 200).await?;
        tx.commit().await?;
        let Some(last) = endpoints.last().map(|endpoint| endpoint.id) else {
            return Ok(());
        };
        before = Some(last);
        for endpoint in endpoints {
            webhook::lane::apply(&services.engine, tenant, &endpoint).await?;
        }
    }
}
