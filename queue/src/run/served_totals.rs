//! Synchronizes a worker's served totals with the database, so that all workers share fairly together.

use std::collections::HashMap;

use super::known_lanes::KnownLanes;
use crate::engine::Engine;
use crate::error::Error;
use crate::fair_share_store::ServedTotal;

/// The tenant number under which the floor of a queue's totals is stored. No tenant has it.
const FLOOR_TENANT: i32 = 0;

/// Loads what tenants with work were served before this worker started. `lanes` has one entry for each
/// of `queue_numbers`.
pub(super) async fn load(
    engine: &Engine,
    queue_numbers: &[i32],
    lanes: &mut [KnownLanes],
) -> Result<(), Error> {
    let mut pairs = Vec::new();
    for (queue, lanes) in queue_numbers.iter().zip(&*lanes) {
        pairs.push((*queue, FLOOR_TENANT));
        pairs.extend(lanes.waiting().map(|waiting| (*queue, waiting.tenant)));
    }
    let totals = engine.load_served_totals(&pairs).await?;
    let served: HashMap<(i32, i32), f64> = totals
        .into_iter()
        .map(|total| ((total.queue, total.tenant), total.served))
        .collect();
    for (queue, lanes) in queue_numbers.iter().zip(lanes) {
        // A tenant without a stored total has been served nothing.
        let served_to = |tenant| served.get(&(*queue, tenant)).copied().unwrap_or(0.0);
        lanes.fair_share.raise_floor(served_to(FLOOR_TENANT));
        let waiting: Vec<_> = lanes.waiting().collect();
        for lane in waiting {
            lanes.fair_share.restore(lane, served_to(lane.tenant));
        }
    }
    Ok(())
}

/// Stores what this worker served since the last call, and takes over what other workers served.
pub(super) async fn save(
    engine: &Engine,
    queue_numbers: &[i32],
    lanes: &mut [KnownLanes],
) -> Result<(), Error> {
    let mut added = Vec::new();
    for (queue, lanes) in queue_numbers.iter().zip(&mut *lanes) {
        let total = |tenant, served| ServedTotal {
            queue: *queue,
            tenant,
            served,
        };
        let unsaved = lanes.fair_share.unsaved();
        if !unsaved.is_empty() {
            added.push((total(FLOOR_TENANT, lanes.fair_share.floor()), 0.0));
        }
        added.extend(
            unsaved
                .into_iter()
                .map(|share| (total(share.tenant, share.base), share.added)),
        );
    }
    if added.is_empty() {
        return Ok(());
    }
    let totals = engine.add_served_totals(&added).await?;
    let added: HashMap<(i32, i32), f64> = added
        .iter()
        .map(|(total, added)| ((total.queue, total.tenant), *added))
        .collect();
    for total in totals {
        let index = queue_numbers
            .iter()
            .position(|number| *number == total.queue);
        let lanes = index.and_then(|index| lanes.get_mut(index));
        let added = added.get(&(total.queue, total.tenant));
        if let (Some(lanes), Some(added)) = (lanes, added) {
            match total.tenant {
                FLOOR_TENANT => lanes.fair_share.raise_floor(total.served),
                tenant => lanes.fair_share.record_saved(tenant, *added, total.served),
            }
        }
    }
    Ok(())
}
