//! Slots of a process for deliveries that have failed before.
//!
//! The slots keep slow or failing endpoints from taking all of a worker's concurrency. Taking a slot never waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use harkara_shared::id::TenantId;

type TakenSlots = Arc<Mutex<HashMap<TenantId, u32>>>;

/// The slots of a process, counted by tenant.
#[derive(Debug)]
pub(super) struct RetrySlots {
    /// Maximum number of slots taken.
    total: u32,
    /// Maximum number of slots taken by one tenant.
    per_tenant: u32,
    taken: TakenSlots,
}

/// A slot, taken until this is dropped.
#[derive(Debug)]
pub struct RetrySlot {
    tenant: TenantId,
    taken: TakenSlots,
}

impl RetrySlots {
    /// Makes half of a process's `slots` available to retries, and half of these to one tenant; at least one each.
    pub(super) fn new(slots: u32) -> Self {
        Self {
            total: (slots / 2).max(1),
            per_tenant: (slots / 4).max(1),
            taken: TakenSlots::default(),
        }
    }

    /// Takes a slot; `None` when all of the process or of this tenant are taken.
    pub(super) fn take(&self, tenant: TenantId) -> Option<RetrySlot> {
        let mut taken = lock(&self.taken);
        let total: u32 = taken.values().sum();
        let own = taken.get(&tenant).copied().unwrap_or(0);
        if total >= self.total || own >= self.per_tenant {
            return None;
        }
        taken.insert(tenant, own + 1);
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
            Some(slots) if *slots > 1 => *slots -= 1,
            _ => {
                taken.remove(&self.tenant);
            }
        }
    }
}

fn lock(taken: &TakenSlots) -> MutexGuard<'_, HashMap<TenantId, u32>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_take_half_of_the_slots_and_one_tenant_half_of_these() {
        let (slots, one, two, three) = (
            RetrySlots::new(8),
            TenantId::new(),
            TenantId::new(),
            TenantId::new(),
        );
        let mut held = vec![slots.take(one).unwrap(), slots.take(one).unwrap()];
        assert!(slots.take(one).is_none());
        held.extend([slots.take(two).unwrap(), slots.take(three).unwrap()]);
        assert!(slots.take(two).is_none(), "all are taken");
        held.remove(0);
        assert!(slots.take(two).is_some());
        drop(held);
        assert!(lock(&slots.taken).is_empty());
    }

    #[test]
    fn worker_with_one_slot_has_one_for_retries() {
        let (slots, tenant) = (RetrySlots::new(1), TenantId::new());
        let slot = slots.take(tenant);
        assert!(slot.is_some() && slots.take(tenant).is_none());
        drop(slot);
        assert!(slots.take(tenant).is_some());
    }
}
