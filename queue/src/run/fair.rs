//! Room: fairness: how a worker's free places are shared out.
//! Takes: the lanes of one queue that have work, and what each was served so far. Gives: how many
//! jobs each should have next. Never: knows limits (those are decided by the claim), talks to the
//! database.
//!
//! Tenants first, by weight, then the lanes of each tenant: whoever was served least for its weight
//! is filled up first, until all stand level. Whole parcels are taken, so a lane may get more than
//! its share in one claim: that counts against it in the next. A tenant or lane that comes back from
//! having had nothing to do starts level with the least served: idleness saves nothing up.

use std::collections::HashMap;

/// What one worker remembers of one queue.
#[derive(Debug, Default)]
pub(super) struct Fair {
    tenants: HashMap<i32, Tenant>,
    /// What the least served of those with work stood at: only ever more.
    floor: f64,
    turn: u64,
}

#[derive(Debug)]
struct Tenant {
    account: Account,
    lanes: HashMap<i64, Account>,
    floor: f64,
}

/// Jobs served, divided by weight.
#[derive(Debug, Clone, Copy)]
struct Account {
    weight: f64,
    served: f64,
    /// Part of `served` that the database does not know of.
    unsaved: f64,
    /// The last turn in which it had work.
    turn: u64,
}

impl Account {
    fn new(weight: i16, served: f64) -> Self {
        Self {
            weight: f64::from(weight.max(1)),
            served,
            unsaved: 0.0,
            turn: 0,
        }
    }

    fn serve(&mut self, jobs: f64) {
        self.served += jobs / self.weight;
        self.unsaved += jobs / self.weight;
    }
}

/// A tenant's account to write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Saving {
    pub(super) tenant: i32,
    /// What it stood at before.
    pub(super) base: f64,
    /// What it was served since.
    pub(super) added: f64,
}

/// How far, in jobs, an account may be ahead of the least served: no debt is larger than a few
/// parcels, whatever was written down.
const MOST_AHEAD: f64 = 2000.0;

/// A lane with work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) lane: i64,
    pub(super) tenant: i32,
    pub(super) lane_weight: i16,
    pub(super) tenant_weight: i16,
}

impl Fair {
    /// Shares out `budget` jobs; lanes without a share are left out, the least served come first.
    pub(super) fn shares(&mut self, waiting: &[Waiting], budget: u32) -> Vec<(i64, u32)> {
        self.turn += 1;
        let mut lanes_of: HashMap<i32, Vec<i64>> = HashMap::new();
        for lane in waiting {
            self.enter(*lane);
            lanes_of.entry(lane.tenant).or_default().push(lane.lane);
        }
        let mut tenants: Vec<(i32, Account)> = lanes_of
            .keys()
            .filter_map(|id| Some((*id, self.tenants.get(id)?.account)))
            .collect();
        sort(&mut tenants);
        if let Some((_, least)) = tenants.first() {
            self.floor = self.floor.max(least.served);
        }
        let mut shares = Vec::with_capacity(waiting.len());
        for (id, share) in fill(&tenants, budget) {
            let (Some(tenant), Some(lanes)) = (self.tenants.get_mut(&id), lanes_of.get(&id)) else {
                continue;
            };
            let mut lanes: Vec<(i64, Account)> = lanes
                .iter()
                .filter_map(|lane| Some((*lane, *tenant.lanes.get(lane)?)))
                .collect();
            sort(&mut lanes);
            if let Some((_, least)) = lanes.first() {
                tenant.floor = tenant.floor.max(least.served);
            }
            shares.extend(fill(&lanes, share));
        }
        shares
    }

    /// Sees a lane with work, at its weight of now.
    fn enter(&mut self, waiting: Waiting) {
        let (turn, floor) = (self.turn, self.floor);
        let tenant = self
            .tenants
            .entry(waiting.tenant)
            .or_insert_with(|| Tenant {
                account: Account::new(waiting.tenant_weight, floor),
                lanes: HashMap::new(),
                floor: 0.0,
            });
        tenant.account.weight = f64::from(waiting.tenant_weight.max(1));
        if tenant.account.turn + 1 < turn {
            tenant.account.served = tenant.account.served.max(floor);
        }
        tenant.account.turn = turn;
        let floor = tenant.floor;
        let lane = tenant
            .lanes
            .entry(waiting.lane)
            .or_insert_with(|| Account::new(waiting.lane_weight, floor));
        lane.weight = f64::from(waiting.lane_weight.max(1));
        if lane.turn + 1 < turn {
            lane.served = lane.served.max(floor);
        }
        lane.turn = turn;
    }

    /// A lane was given so many jobs.
    pub(super) fn served(&mut self, tenant: i32, lane: i64, jobs: u32) {
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.account.serve(f64::from(jobs));
            if let Some(lane) = tenant.lanes.get_mut(&lane) {
                lane.serve(f64::from(jobs));
            }
        }
    }

    /// What is to be written down. Accounts that had no work for long are forgotten here: whoever
    /// comes back starts at the floor, which is remembered.
    pub(super) fn unsaved(&mut self) -> Vec<Saving> {
        const LONG: u64 = 1_000;
        let turn = self.turn;
        let mut savings = Vec::new();
        for (id, tenant) in &mut self.tenants {
            let account = tenant.account;
            if account.unsaved > 0.0 {
                savings.push(Saving {
                    tenant: *id,
                    base: account.served - account.unsaved,
                    added: account.unsaved,
                });
            }
            tenant.lanes.retain(|_, account| account.turn + LONG > turn);
        }
        self.tenants
            .retain(|_, tenant| !tenant.lanes.is_empty() || tenant.account.unsaved > 0.0);
        savings
    }

    /// What the least served of those with work stands at.
    pub(super) fn floor(&self) -> f64 {
        self.floor
    }

    /// What the least served stood at in any worker, now or before.
    pub(super) fn raise_floor(&mut self, floor: f64) {
        self.floor = self.floor.max(floor);
    }

    /// The database knows of this much of a tenant's account, other workers' part included.
    pub(super) fn saved(&mut self, tenant: i32, added: f64, served: f64) {
        let floor = self.floor;
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            let account = &mut tenant.account;
            account.unsaved = (account.unsaved - added).max(0.0);
            account.served = (served + account.unsaved).min(floor + MOST_AHEAD / account.weight);
        }
    }

    /// What the database remembers of a tenant, for a worker that has just begun and knows the floor.
    pub(super) fn remember(&mut self, waiting: Waiting, served: f64) {
        self.enter(waiting);
        self.saved(waiting.tenant, 0.0, served.max(self.floor));
    }
}

fn sort<K: Ord + Copy>(accounts: &mut [(K, Account)]) {
    accounts.sort_by(|(one, a), (other, b)| a.served.total_cmp(&b.served).then(one.cmp(other)));
}

/// Fills up accounts, sorted by what they were served, to one level with `budget` jobs; at least one
/// job goes to each as long as there are any.
fn fill<K: Copy>(accounts: &[(K, Account)], budget: u32) -> Vec<(K, u32)> {
    let mut level = f64::INFINITY;
    let (mut weights, mut weighted) = (0.0, 0.0);
    for (index, (_, account)) in accounts.iter().enumerate() {
        weights += account.weight;
        weighted += account.weight * account.served;
        level = (f64::from(budget) + weighted) / weights;
        match accounts.get(index + 1) {
            Some((_, next)) if next.served < level => {}
            _ => break,
        }
    }
    let mut left = budget;
    let mut shares = Vec::new();
    for (key, account) in accounts {
        if left == 0 || account.served >= level {
            break;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between nothing and the budget"
        )]
        let share = ((level - account.served) * account.weight).round() as u32;
        let share = share.clamp(1, left);
        left -= share;
        shares.push((*key, share));
    }
    shares
}

#[cfg(test)]
mod tests;
