//! Synchronizes a worker's served totals with the database, so that all workers together share fairly.
//!
//! The served total of a tenant is the number of its claimed jobs divided by its weight. The floor of a queue
//! is the least total of the tenants that have ready jobs.

use std::collections::HashMap;

use super::known_lanes::KnownLanes;
use crate::engine::Engine;
use crate::error::Error;
use crate::fair_share_store::ServedTotal;

/// The tenant number under which the floor of a queue is stored. No tenant has this number.
const FLOOR_TENANT: i32 = 0;

/// Loads the stored totals of all tenants with known lanes. Called once, when a worker has started.
/// `lanes_by_queue` is in the order of `queue_numbers`.
pub(super) async fn load(
    engine: &Engine,
    queue_numbers: &[i32],
    lanes_by_queue: &mut [KnownLanes],
) -> Result<(), Error> {
    let mut pairs = Vec::new();
    for (queue, lanes) in queue_numbers.iter().zip(&*lanes_by_queue) {
        pairs.push((*queue, FLOOR_TENANT));
        pairs.extend(lanes.all().map(|lane| (*queue, lane.tenant)));
    }
    let stored_totals = engine.load_served_totals(&pairs).await?;
    let stored_totals: HashMap<(i32, i32), f64> = stored_totals
        .into_iter()
        .map(|stored| ((stored.queue, stored.tenant), stored.total))
        .collect();
    for (queue, lanes) in queue_numbers.iter().zip(lanes_by_queue) {
        // No total is stored for a tenant that has had no job claimed.
        let total_of = |tenant| {
            let stored = stored_totals.get(&(*queue, tenant));
            stored.copied().unwrap_or(0.0)
        };
        lanes.fair_share.raise_floor(total_of(FLOOR_TENANT));
        let all_lanes: Vec<_> = lanes.all().collect();
        for lane in all_lanes {
            lanes.fair_share.restore(lane, total_of(lane.tenant));
        }
    }
    Ok(())
}

/// Adds the jobs that this worker claimed since the last call to the stored totals, and adopts the sums,
/// which include the claims of other workers. `lanes_by_queue` is in the order of `queue_numbers`.
pub(super) async fn save(
    engine: &Engine,
    queue_numbers: &[i32],
    lanes_by_queue: &mut [KnownLanes],
) -> Result<(), Error> {
    let mut additions = Vec::new();
    for (queue, lanes) in queue_numbers.iter().zip(&mut *lanes_by_queue) {
        let served_total = |tenant, total| ServedTotal {
            queue: *queue,
            tenant,
            total,
        };
        let unsaved_totals = lanes.fair_share.unsaved_totals();
        lanes.fair_share.remove_idle();
        if !unsaved_totals.is_empty() {
            let floor = served_total(FLOOR_TENANT, lanes.fair_share.floor());
            additions.push((floor, 0.0));
        }
        additions.extend(unsaved_totals.into_iter().map(|total| {
            (
                served_total(total.tenant, total.saved_part),
                total.unsaved_part,
            )
        }));
    }
    if additions.is_empty() {
        return Ok(());
    }
    let sums = engine.add_served_totals(&additions).await?;
    let additions: HashMap<(i32, i32), f64> = additions
        .iter()
        .map(|(known, addition)| ((known.queue, known.tenant), *addition))
        .collect();
    for sum in sums {
        let index = queue_numbers.iter().position(|number| *number == sum.queue);
        let lanes = index.and_then(|index| lanes_by_queue.get_mut(index));
        let addition = additions.get(&(sum.queue, sum.tenant));
        if let (Some(lanes), Some(addition)) = (lanes, addition) {
            match sum.tenant {
                FLOOR_TENANT => lanes.fair_share.raise_floor(sum.total),
                tenant => lanes.fair_share.record_saved(tenant, *addition, sum.total),
            }
        }
    }
    Ok(())
}
