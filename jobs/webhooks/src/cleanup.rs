//! The nightly clean-up of webhooks: old events, payloads and hours of statistics.

use std::pin::Pin;

use harkara_kind::{CleanupError, RemovedRows, TenantCleanup};
use harkara_queue::{Engine, Retention};
use harkara_shared::database::TenantTx;
use harkara_shared::id::{DeliveryId, TenantId};
use sqlx::PgPool;
use sqlx::types::Uuid;

use crate::delivery::{reconcile_old_deliveries, remove_old_events, remove_old_statistics};
use crate::endpoint::list_endpoints;
use crate::error::Error;
use crate::lane;
use crate::settings::remove_old_payloads;

/// Removes old events with their deliveries, and payloads earlier if their tenant has set a shorter retention. Applies
/// the endpoints' limits to the engine again.
#[derive(Debug, Clone)]
pub struct Cleanup {
    pool: PgPool,
    engine: Engine,
}

impl Cleanup {
    /// A clean-up in the database of these services.
    #[must_use]
    pub fn new(services: &harkara_kind::Services) -> Self {
        Self {
            pool: services.pool.clone(),
            engine: services.engine.clone(),
        }
    }

    async fn run(&self, tenant: TenantId, keep: &Retention) -> Result<RemovedRows, Error> {
        let (mut events, mut payloads) = (0, 0);
        // Deliveries first: the outcome of some is recorded only in jobs that are about to be removed.
        let mut after = Some(DeliveryId::from_uuid(Uuid::nil()));
        while let Some(last) = after {
            let mut tx = TenantTx::begin(&self.pool, tenant).await?;
            after = reconcile_old_deliveries(&mut tx, last).await?;
            tx.commit().await?;
        }
        loop {
            let mut tx = TenantTx::begin(&self.pool, tenant).await?;
            let removed = remove_old_events(&mut tx, keep.dead).await?;
            tx.commit().await?;
            events += removed;
            if removed == 0 {
                break;
            }
        }
        let mut tx = TenantTx::begin(&self.pool, tenant).await?;
        remove_old_statistics(&mut tx, keep.dead).await?;
        tx.commit().await?;
        self.apply_endpoint_limits(tenant).await?;
        loop {
            let mut tx = TenantTx::begin(&self.pool, tenant).await?;
            let removed = remove_old_payloads(&mut tx).await?;
            tx.commit().await?;
            payloads += removed;
            if removed == 0 {
                break;
            }
        }
        Ok(vec![events, payloads])
    }

    /// Applies the limits of a tenant's endpoints to the engine, which can lack them: a process may have died
    /// between the commit of an endpoint and its limits, or an earlier release created the endpoint.
    async fn apply_endpoint_limits(&self, tenant: TenantId) -> Result<(), Error> {
        let mut before = None;
        loop {
            let mut tx = TenantTx::begin(&self.pool, tenant).await?;
            let endpoints = list_endpoints(&mut tx, before, 200).await?;
            tx.commit().await?;
            let Some(last) = endpoints.last().map(|endpoint| endpoint.id) else {
                return Ok(());
            };
            before = Some(last);
            for endpoint in endpoints {
                lane::apply_limits(&self.engine, tenant, &endpoint).await?;
            }
        }
    }
}

impl TenantCleanup for Cleanup {
    fn count_names(&self) -> &'static [&'static str] {
        &["events", "payloads"]
    }

    fn clean_up(
        &self,
        tenant: TenantId,
        keep: &Retention,
    ) -> Pin<Box<dyn Future<Output = Result<RemovedRows, CleanupError>> + Send + '_>> {
        let keep = *keep;
        Box::pin(async move {
            self.run(tenant, &keep).await.map_err(|error| match error {
                Error::Database(error) | Error::Queue(harkara_queue::Error::Database(error)) => {
                    CleanupError::Database(error)
                }
                other => CleanupError::Other(other.to_string()),
            })
        })
    }
}
