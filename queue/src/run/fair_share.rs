//! Shares a worker's free capacity among the lanes of one queue: weighted fair queueing, tenants first,
//! then the lanes of each tenant.
//!
//! A lane holds jobs of one tenant that are limited and parked together; jobs are claimed in parcels of up
//! to 500. Takes the lanes that have work and returns how many jobs each should get next. Each tenant and lane
//! has a *served* total: jobs divided by weight, its virtual time. The least served are filled up first,
//! until all are level. Whole parcels are claimed, so a lane can get more than its share in one claim,
//! which counts against it in the next. A tenant or lane that returns after having no work starts level
//! with the least served: idle time is not saved up.
//!
//! Knows nothing of limits, which the claim enforces. Never talks to the database.

use std::collections::HashMap;

/// How many jobs' worth of service a total may be ahead of the floor. Bounds the debt of a tenant to a
/// few parcels, whatever total was stored.
const MAX_LEAD_JOBS: f64 = 2000.0;

/// Lanes without work for this many rounds are forgotten.
const FORGET_AFTER_ROUNDS: u64 = 1_000;

/// Served totals of the tenants and lanes of one queue, as one worker knows them.
#[derive(Debug, Default)]
pub(super) struct FairShare {
    tenants: HashMap<i32, TenantShare>,
    /// Total of the least served tenant that has work. Never decreases.
    floor: f64,
    /// Number of calls of [`FairShare::allocate`].
    round: u64,
}

#[derive(Debug)]
struct TenantShare {
    share: Share,
    lanes: HashMap<i64, Share>,
    /// Total of the least served lane that has work. Never decreases.
    lane_floor: f64,
}

/// What one tenant or lane has been served.
#[derive(Debug, Clone, Copy)]
struct Share {
    weight: f64,
    /// Jobs divided by weight.
    served: f64,
    /// Part of `served` that is not stored in the database yet.
    unsaved: f64,
    /// The last round in which it had work.
    last_round: u64,
}

impl Share {
    fn new(weight: i16, served: f64) -> Self {
        Self {
            weight: f64::from(weight.max(1)),
            served,
            unsaved: 0.0,
            last_round: 0,
        }
    }

    fn add(&mut self, jobs: f64) {
        self.served += jobs / self.weight;
        self.unsaved += jobs / self.weight;
    }
}

/// Service of a tenant that is not stored yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct UnsavedShare {
    /// Internal number of the tenant.
    pub(super) tenant: i32,
    /// The served total without the unsaved part.
    pub(super) base: f64,
    /// The unsaved part.
    pub(super) added: f64,
}

/// A lane that has work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WaitingLane {
    pub(super) lane: i64,
    /// Internal number of the tenant.
    pub(super) tenant: i32,
    pub(super) lane_weight: i16,
    pub(super) tenant_weight: i16,
}

impl FairShare {
    /// Shares out `budget` jobs. Returns (lane, jobs), the least served first; lanes that get nothing
    /// are left out.
    pub(super) fn allocate(&mut self, waiting: &[WaitingLane], budget: u32) -> Vec<(i64, u32)> {
        self.round += 1;
        let mut lanes_by_tenant: HashMap<i32, Vec<i64>> = HashMap::new();
        for lane in waiting {
            self.enter(*lane);
            lanes_by_tenant
                .entry(lane.tenant)
                .or_default()
                .push(lane.lane);
        }
        let mut tenants: Vec<(i32, Share)> = lanes_by_tenant
            .keys()
            .filter_map(|id| Some((*id, self.tenants.get(id)?.share)))
            .collect();
        sort_by_served(&mut tenants);
        if let Some((_, least)) = tenants.first() {
            self.floor = self.floor.max(least.served);
        }
        let mut allocation = Vec::with_capacity(waiting.len());
        for (id, jobs) in fill_up(&tenants, budget) {
            let (Some(tenant), Some(lanes)) = (self.tenants.get_mut(&id), lanes_by_tenant.get(&id))
            else {
                continue;
            };
            let mut lanes: Vec<(i64, Share)> = lanes
                .iter()
                .filter_map(|lane| Some((*lane, *tenant.lanes.get(lane)?)))
                .collect();
            sort_by_served(&mut lanes);
            if let Some((_, least)) = lanes.first() {
                tenant.lane_floor = tenant.lane_floor.max(least.served);
            }
            allocation.extend(fill_up(&lanes, jobs));
        }
        allocation
    }

    /// Records that a lane has work in this round, and its current weights.
    fn enter(&mut self, waiting: WaitingLane) {
        let (round, floor) = (self.round, self.floor);
        let tenant = self
            .tenants
            .entry(waiting.tenant)
            .or_insert_with(|| TenantShare {
                share: Share::new(waiting.tenant_weight, floor),
                lanes: HashMap::new(),
                lane_floor: 0.0,
            });
        tenant.share.weight = f64::from(waiting.tenant_weight.max(1));
        if tenant.share.last_round + 1 < round {
            tenant.share.served = tenant.share.served.max(floor);
        }
        tenant.share.last_round = round;
        let lane_floor = tenant.lane_floor;
        let lane = tenant
            .lanes
            .entry(waiting.lane)
            .or_insert_with(|| Share::new(waiting.lane_weight, lane_floor));
        lane.weight = f64::from(waiting.lane_weight.max(1));
        if lane.last_round + 1 < round {
            lane.served = lane.served.max(lane_floor);
        }
        lane.last_round = round;
    }

    /// Records that jobs of a lane were claimed.
    pub(super) fn record_served(&mut self, tenant: i32, lane: i64, jobs: u32) {
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.share.add(f64::from(jobs));
            if let Some(lane) = tenant.lanes.get_mut(&lane) {
                lane.add(f64::from(jobs));
            }
        }
    }

    /// Returns what is to be stored. Forgets lanes and tenants that had no work for a long time: when
    /// they return, they start at the floor, which is kept.
    pub(super) fn unsaved(&mut self) -> Vec<UnsavedShare> {
        let round = self.round;
        let mut unsaved = Vec::new();
        for (id, tenant) in &mut self.tenants {
            let share = tenant.share;
            if share.unsaved > 0.0 {
                unsaved.push(UnsavedShare {
                    tenant: *id,
                    base: share.served - share.unsaved,
                    added: share.unsaved,
                });
            }
            tenant
                .lanes
                .retain(|_, share| share.last_round + FORGET_AFTER_ROUNDS > round);
        }
        self.tenants
            .retain(|_, tenant| !tenant.lanes.is_empty() || tenant.share.unsaved > 0.0);
        unsaved
    }

    /// Total of the least served tenant that has work.
    pub(super) fn floor(&self) -> f64 {
        self.floor
    }

    /// Raises the floor to that of other workers.
    pub(super) fn raise_floor(&mut self, floor: f64) {
        self.floor = self.floor.max(floor);
    }

    /// Records that `added` was stored for a tenant, and that its stored total, including what other
    /// workers served, is now `served`.
    pub(super) fn record_saved(&mut self, tenant: i32, added: f64, served: f64) {
        let floor = self.floor;
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            let share = &mut tenant.share;
            share.unsaved = (share.unsaved - added).max(0.0);
            share.served = (served + share.unsaved).min(floor + MAX_LEAD_JOBS / share.weight);
        }
    }

    /// Takes over the stored total of a tenant, in a worker that has just started and knows the floor.
    pub(super) fn restore(&mut self, waiting: WaitingLane, served: f64) {
        self.enter(waiting);
        self.record_saved(waiting.tenant, 0.0, served.max(self.floor));
    }
}

fn sort_by_served<K: Ord + Copy>(shares: &mut [(K, Share)]) {
    shares.sort_by(|(one, a), (other, b)| a.served.total_cmp(&b.served).then(one.cmp(other)));
}

/// Fills shares, sorted by what they were served, up to a common level with `budget` jobs in total. Each
/// gets at least one job as long as there are any.
fn fill_up<K: Copy>(shares: &[(K, Share)], budget: u32) -> Vec<(K, u32)> {
    let mut level = f64::INFINITY;
    let (mut weights, mut weighted) = (0.0, 0.0);
    for (index, (_, share)) in shares.iter().enumerate() {
        weights += share.weight;
        weighted += share.weight * share.served;
        level = (f64::from(budget) + weighted) / weights;
        match shares.get(index + 1) {
            Some((_, next)) if next.served < level => {}
            _ => break,
        }
    }
    let mut left = budget;
    let mut filled = Vec::new();
    for (key, share) in shares {
        if left == 0 || share.served >= level {
            break;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between zero and the budget"
        )]
        let jobs = ((level - share.served) * share.weight).round() as u32;
        let jobs = jobs.clamp(1, left);
        left -= jobs;
        filled.push((*key, jobs));
    }
    filled
}

#[cfg(test)]
mod tests;
