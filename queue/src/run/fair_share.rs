//! Shares a worker's free capacity among the lanes of one queue: weighted fair queueing, tenants first,
//! then the lanes of each tenant.
//!
//! A lane holds jobs of one tenant that share limits and pauses. Jobs are claimed in whole parcels of up to
//! 500. [`FairShare::allocate`] takes the lanes that have ready jobs and returns how many jobs each should
//! get next.
//!
//! Each tenant and each lane has a *served total*: its claimed jobs divided by its weight, which is the
//! virtual time of weighted fair queueing. Jobs go to the least totals first, until all totals are equal.
//! A lane can get more than its share in one claim, because parcels are taken whole; the excess counts
//! against the lane in the next claim. The *floor* is the least total of the tenants, or of
//! the lanes of one tenant, that have ready jobs. A tenant or lane that had no ready jobs for a while returns
//! at the floor: idle time is not saved up.
//!
//! Applies no limits, which the claim enforces. Never talks to the database.

use std::collections::HashMap;

/// How far a served total may be ahead of the floor, in jobs. Bounds the debt of a tenant to a few parcels,
/// whatever total was stored.
const MAX_LEAD_JOBS: f64 = 2000.0;

/// Lanes without ready jobs for this many rounds are removed.
const REMOVE_AFTER_ROUNDS: u64 = 1_000;

/// Served totals of the tenants and lanes of one queue, as one worker knows them.
#[derive(Debug, Default)]
pub(super) struct FairShare {
    tenants: HashMap<i32, TenantState>,
    /// The floor of the tenants. Never decreases.
    floor: f64,
    /// Number of calls of [`FairShare::allocate`].
    round: u64,
}

#[derive(Debug)]
struct TenantState {
    total: ShareTotal,
    lanes: HashMap<i64, ShareTotal>,
    /// The floor of the tenant's lanes. Never decreases.
    lane_floor: f64,
}

/// The served total of one tenant or lane.
#[derive(Debug, Clone, Copy)]
struct ShareTotal {
    weight: f64,
    /// Claimed jobs divided by weight.
    served_total: f64,
    /// The part of `served_total` that is not stored in the database yet.
    unsaved_part: f64,
    /// The last round in which the tenant or lane had ready jobs.
    last_round: u64,
}

impl ShareTotal {
    fn new(weight: i16, served_total: f64) -> Self {
        Self {
            weight: f64::from(weight.max(1)),
            served_total,
            unsaved_part: 0.0,
            last_round: 0,
        }
    }

    fn add_jobs(&mut self, jobs: f64) {
        self.served_total += jobs / self.weight;
        self.unsaved_part += jobs / self.weight;
    }
}

/// The served total of a tenant, split into what is stored in the database and what is not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct UnsavedTotal {
    /// Internal number of the tenant.
    pub(super) tenant: i32,
    /// The stored part, as this worker knows it.
    pub(super) saved_part: f64,
    /// The part to be added to the stored total.
    pub(super) unsaved_part: f64,
}

/// A lane with its tenant and the weights of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WeightedLane {
    pub(super) lane: i64,
    /// Internal number of the tenant.
    pub(super) tenant: i32,
    pub(super) lane_weight: i16,
    pub(super) tenant_weight: i16,
}

impl FairShare {
    /// Divides `budget` jobs among `ready_lanes`. Returns (lane, jobs) pairs, the least served total
    /// first, without the lanes that get no job.
    pub(super) fn allocate(
        &mut self,
        ready_lanes: &[WeightedLane],
        budget: u32,
    ) -> Vec<(i64, u32)> {
        self.round += 1;
        let mut lanes_by_tenant: HashMap<i32, Vec<i64>> = HashMap::new();
        for lane in ready_lanes {
            self.record_ready(*lane);
            lanes_by_tenant
                .entry(lane.tenant)
                .or_default()
                .push(lane.lane);
        }
        let mut tenants: Vec<(i32, ShareTotal)> = lanes_by_tenant
            .keys()
            .filter_map(|id| Some((*id, self.tenants.get(id)?.total)))
            .collect();
        sort_by_served(&mut tenants);
        if let Some((_, least)) = tenants.first() {
            self.floor = self.floor.max(least.served_total);
        }
        let mut allocation = Vec::with_capacity(ready_lanes.len());
        for (id, jobs) in raise_to_level(&tenants, budget) {
            let (Some(tenant), Some(lanes)) = (self.tenants.get_mut(&id), lanes_by_tenant.get(&id))
            else {
                continue;
            };
            let mut lanes: Vec<(i64, ShareTotal)> = lanes
                .iter()
                .filter_map(|lane| Some((*lane, *tenant.lanes.get(lane)?)))
                .collect();
            sort_by_served(&mut lanes);
            if let Some((_, least)) = lanes.first() {
                tenant.lane_floor = tenant.lane_floor.max(least.served_total);
            }
            allocation.extend(raise_to_level(&lanes, jobs));
        }
        allocation
    }

    /// Records that a lane has ready jobs in this round, and updates its weights.
    fn record_ready(&mut self, lane: WeightedLane) {
        let (round, floor) = (self.round, self.floor);
        let tenant = self
            .tenants
            .entry(lane.tenant)
            .or_insert_with(|| TenantState {
                total: ShareTotal::new(lane.tenant_weight, floor),
                lanes: HashMap::new(),
                lane_floor: 0.0,
            });
        tenant.total.weight = f64::from(lane.tenant_weight.max(1));
        if tenant.total.last_round + 1 < round {
            tenant.total.served_total = tenant.total.served_total.max(floor);
        }
        tenant.total.last_round = round;
        let lane_floor = tenant.lane_floor;
        let total = tenant
            .lanes
            .entry(lane.lane)
            .or_insert_with(|| ShareTotal::new(lane.lane_weight, lane_floor));
        total.weight = f64::from(lane.lane_weight.max(1));
        if total.last_round + 1 < round {
            total.served_total = total.served_total.max(lane_floor);
        }
        total.last_round = round;
    }

    /// Records that jobs of a lane were claimed.
    pub(super) fn record_claimed(&mut self, tenant: i32, lane: i64, jobs: u32) {
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.total.add_jobs(f64::from(jobs));
            if let Some(lane) = tenant.lanes.get_mut(&lane) {
                lane.add_jobs(f64::from(jobs));
            }
        }
    }

    /// Removes lanes and tenants that have had no ready jobs for a long time. If they return, they start at
    /// the floor.
    pub(super) fn remove_idle(&mut self) {
        let round = self.round;
        for tenant in self.tenants.values_mut() {
            tenant
                .lanes
                .retain(|_, total| total.last_round + REMOVE_AFTER_ROUNDS > round);
        }
        self.tenants
            .retain(|_, tenant| !tenant.lanes.is_empty() || tenant.total.unsaved_part > 0.0);
    }

    /// Returns the totals of tenants that are not completely stored yet.
    pub(super) fn unsaved_totals(&self) -> Vec<UnsavedTotal> {
        let tenants = self.tenants.iter();
        tenants
            .filter(|(_, tenant)| tenant.total.unsaved_part > 0.0)
            .map(|(id, TenantState { total, .. })| UnsavedTotal {
                tenant: *id,
                saved_part: total.served_total - total.unsaved_part,
                unsaved_part: total.unsaved_part,
            })
            .collect()
    }

    /// The floor of the tenants.
    pub(super) fn floor(&self) -> f64 {
        self.floor
    }

    /// Raises the floor of the tenants to the one that other workers have stored.
    pub(super) fn raise_floor(&mut self, floor: f64) {
        self.floor = self.floor.max(floor);
    }

    /// Records that `added` was stored for a tenant, and that the tenant's stored total over all workers
    /// is now `saved`.
    pub(super) fn record_saved(&mut self, tenant: i32, added: f64, saved: f64) {
        let floor = self.floor;
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            let total = &mut tenant.total;
            total.unsaved_part = (total.unsaved_part - added).max(0.0);
            total.served_total =
                (saved + total.unsaved_part).min(floor + MAX_LEAD_JOBS / total.weight);
        }
    }

    /// Adopts the stored total of a lane's tenant. Called in a worker that has just started, after
    /// [`FairShare::raise_floor`].
    pub(super) fn restore(&mut self, lane: WeightedLane, saved: f64) {
        self.record_ready(lane);
        self.record_saved(lane.tenant, 0.0, saved.max(self.floor));
    }
}

fn sort_by_served<K: Ord + Copy>(totals: &mut [(K, ShareTotal)]) {
    totals.sort_by(|(one, a), (other, b)| {
        a.served_total
            .total_cmp(&b.served_total)
            .then(one.cmp(other))
    });
}

/// Divides `budget` jobs so that the least of `totals`, which are sorted, rise to a common level. Each of
/// these gets at least one job while the budget lasts.
fn raise_to_level<K: Copy>(totals: &[(K, ShareTotal)], budget: u32) -> Vec<(K, u32)> {
    // The level that the first totals reach with the whole budget falls until the next total is above it.
    let mut level = f64::INFINITY;
    let (mut weights, mut jobs_before) = (0.0, 0.0);
    for (index, (_, total)) in totals.iter().enumerate() {
        weights += total.weight;
        jobs_before += total.weight * total.served_total;
        level = (f64::from(budget) + jobs_before) / weights;
        match totals.get(index + 1) {
            Some((_, next)) if next.served_total < level => {}
            _ => break,
        }
    }
    let mut remaining = budget;
    let mut allocation = Vec::new();
    for (key, total) in totals {
        if remaining == 0 || total.served_total >= level {
            break;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between zero and the budget"
        )]
        let jobs = ((level - total.served_total) * total.weight).round() as u32;
        let jobs = jobs.clamp(1, remaining);
        remaining -= jobs;
        allocation.push((*key, jobs));
    }
    allocation
}

#[cfg(test)]
mod tests;
