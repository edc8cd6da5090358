//! Room: a process's places for deliveries that are late.
//! Takes: a tenant. Gives: a place, until it is dropped. Never: has anybody wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use harkara_shared::id::TenantId;

type Taken = Arc<Mutex<HashMap<TenantId, u32>>>;

/// The places.
#[derive(Debug)]
pub(super) struct RetrySlots {
    all: u32,
    of_one: u32,
    taken: Taken,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct RetrySlot {
    tenant: TenantId,
    taken: Taken,
}

impl RetrySlots {
    /// Half of `places`, and half of those for one tenant; one at least.
    pub(super) fn new(places: u32) -> Self {
        Self {
            all: (places / 2).max(1),
            of_one: (places / 4).max(1),
            taken: Taken::default(),
        }
    }

    pub(super) fn take(&self, tenant: TenantId) -> Option<RetrySlot> {
        let mut taken = lock(&self.taken);
        let all: u32 = taken.values().sum();
        let of_one = taken.get(&tenant).copied().unwrap_or_default();
        if all >= self.all || of_one >= self.of_one {
            return None;
        }
        taken.insert(tenant, of_one + 1);
        Some(RetrySlot {
            tenant,
            taken: Arc::clone(&self.taken),
        })
    }
}

impl Drop for RetrySlot {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        match taken.get_mut(&self.tenant) {
            Some(places) if *places > 1 => *places -= 1,
            _ => {
                taken.remove(&self.tenant);
            }
        }
    }
}

fn lock(taken: &Taken) -> MutexGuard<'_, HashMap<TenantId, u32>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_places_are_for_late_ones_and_half_of_those_for_one_tenant() {
        let (late, one, two, three) = (
            RetrySlots::new(8),
            TenantId::new(),
            TenantId::new(),
            TenantId::new(),
        );
        let mut held = vec![late.take(one).unwrap(), late.take(one).unwrap()];
        assert!(late.take(one).is_none());
        held.extend([late.take(two).unwrap(), late.take(three).unwrap()]);
        assert!(late.take(two).is_none(), "all are taken");
        held.remove(0);
        assert!(late.take(two).is_some());
        drop(held);
        assert!(lock(&late.taken).is_empty());
    }

    #[test]
    fn a_worker_of_one_place_has_one_for_late_ones_too() {
        let (late, tenant) = (RetrySlots::new(1), TenantId::new());
        let place = late.take(tenant);
        assert!(place.is_some() && late.take(tenant).is_none());
        drop(place);
        assert!(late.take(tenant).is_some());
    }
}
