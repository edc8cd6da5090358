//! Stores how much service each tenant has had in each queue, summed over all workers.
//!
//! Workers load the totals when they start and add to them about once a second. Which tenant is served
//! next is decided by [`crate::run`].

use harkara_shared::database::query_as;

use crate::engine::Engine;
use crate::error::Error;

/// What a tenant has been served in a queue: jobs divided by the tenant's weight. Tenant number 0 stands
/// for the floor of the queue: the total of the least served tenant that has work.
#[derive(Debug, Clone, Copy, PartialEq, sqlx::FromRow)]
pub(crate) struct ServedTotal {
    /// Internal number of the queue.
    pub(crate) queue: i32,
    /// Internal number of the tenant.
    pub(crate) tenant: i32,
    pub(crate) served: f64,
}

impl Engine {
    /// Returns the totals of these (queue, tenant) pairs; pairs without a total are left out.
    pub(crate) async fn load_served_totals(
        &self,
        pairs: &[(i32, i32)],
    ) -> Result<Vec<ServedTotal>, Error> {
        let (queues, tenants): (Vec<i32>, Vec<i32>) = pairs.iter().copied().unzip();
        Ok(
            query_as(include_str!("fair_share_store/load_served_totals.sql"))
                .bind(queues)
                .bind(tenants)
                .fetch_all(self.pool())
                .await?,
        )
    }

    /// Adds to totals and returns the new sums. Each entry holds the total as this worker knew it
    /// before, and what to add to it; the sum is at least that total plus the addition.
    pub(crate) async fn add_served_totals(
        &self,
        added: &[(ServedTotal, f64)],
    ) -> Result<Vec<ServedTotal>, Error> {
        let queues: Vec<i32> = added.iter().map(|(total, _)| total.queue).collect();
        let tenants: Vec<i32> = added.iter().map(|(total, _)| total.tenant).collect();
        let bases: Vec<f64> = added.iter().map(|(total, _)| total.served).collect();
        let additions: Vec<f64> = added.iter().map(|(_, addition)| *addition).collect();
        Ok(
            query_as(include_str!("fair_share_store/add_served_totals.sql"))
                .bind(queues)
                .bind(tenants)
                .bind(bases)
                .bind(additions)
                .fetch_all(self.pool())
                .await?,
        )
    }
}
