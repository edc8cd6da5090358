//! Stores the served total of each tenant in each queue, summed over all workers.
//!
//! The served total is the number of claimed jobs divided by the tenant's weight. Workers load the totals
//! when they start and add to them about once a second. [`crate::run`] decides which tenant's jobs to claim
//! next.

use harkara_shared::database::query_as;

use crate::engine::Engine;
use crate::error::Error;

/// The served total of a tenant in a queue. Tenant number 0 is no tenant: its total is the floor of the
/// queue, the least total of the tenants that have ready jobs.
#[derive(Debug, Clone, Copy, PartialEq, sqlx::FromRow)]
pub(crate) struct ServedTotal {
    /// Internal number of the queue.
    pub(crate) queue: i32,
    /// Internal number of the tenant.
    pub(crate) tenant: i32,
    #[sqlx(rename = "served")]
    pub(crate) total: f64,
}

impl Engine {
    /// Returns the totals stored for these (queue, tenant) pairs.
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

    /// Adds to stored totals and returns the sums. Each entry holds a total as this worker knows it, and
    /// the addition. The sum is never less than that total plus the addition, even if the stored total
    /// was.
    pub(crate) async fn add_served_totals(
        &self,
        additions: &[(ServedTotal, f64)],
    ) -> Result<Vec<ServedTotal>, Error> {
        let queues: Vec<i32> = additions.iter().map(|(known, _)| known.queue).collect();
        let tenants: Vec<i32> = additions.iter().map(|(known, _)| known.tenant).collect();
        let known_totals: Vec<f64> = additions.iter().map(|(known, _)| known.total).collect();
        let additions: Vec<f64> = additions.iter().map(|(_, addition)| *addition).collect();
        Ok(
            query_as(include_str!("fair_share_store/add_served_totals.sql"))
                .bind(queues)
                .bind(tenants)
                .bind(known_totals)
                .bind(additions)
                .fetch_all(self.pool())
                .await?,
        )
    }
}
