//! Room: the memory of fairness.
//! Takes: what a worker served. Gives: what all workers served, now and before.
//! Never: decides who is next: that is the run room's `fair`.

use harkara_shared::database::query_as;

use crate::engine::Engine;
use crate::error::Error;

/// What a tenant was served in a queue, in jobs divided by weight. Of tenant 0: what the least served
/// of those with work stood at.
#[derive(Debug, Clone, Copy, PartialEq, sqlx::FromRow)]
pub(crate) struct Share {
    pub(crate) queue: i32,
    pub(crate) tenant: i32,
    pub(crate) served: f64,
}

impl Engine {
    /// What these tenants, given by queue and tenant, were served so far; nothing for those that
    /// never were.
    pub(crate) async fn load_shares(&self, tenants: &[(i32, i32)]) -> Result<Vec<Share>, Error> {
        let (queues, tenants): (Vec<i32>, Vec<i32>) = tenants.iter().copied().unzip();
        Ok(query_as(include_str!("sql/load_shares.sql"))
            .bind(queues)
            .bind(tenants)
            .fetch_all(self.pool())
            .await?)
    }

    /// Adds to what tenants were served: each `served` here is where it stood before, and the number
    /// beside it is what was added. Answers where they now stand.
    pub(crate) async fn save_shares(&self, added: &[(Share, f64)]) -> Result<Vec<Share>, Error> {
        let column = |value: fn(&Share) -> i32| -> Vec<i32> {
            added.iter().map(|(share, _)| value(share)).collect()
        };
        Ok(query_as(include_str!("sql/save_shares.sql"))
            .bind(column(|share| share.queue))
            .bind(column(|share| share.tenant))
            .bind(
                added
                    .iter()
                    .map(|(share, _)| share.served)
                    .collect::<Vec<_>>(),
            )
            .bind(added.iter().map(|(_, added)| *added).collect::<Vec<_>>())
            .fetch_all(self.pool())
            .await?)
    }
}
