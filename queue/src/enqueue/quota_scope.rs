//! Counts the new jobs of a batch against their tenants' bounds of waiting jobs.

use std::collections::HashMap;

use super::draft::Draft;

/// The new jobs that `Engine::insert_batch` counts against their tenants' bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QuotaScope {
    None,
    /// Only jobs with a unique key: room for the others has been reserved already.
    Keyed,
    All,
}

/// New jobs of one tenant.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NewCount {
    /// Jobs that need room within the tenant's bound.
    pub(super) counted: i64,
    /// Jobs for which room has been reserved already.
    pub(super) reserved: i64,
}

impl QuotaScope {
    /// Counts the new jobs by tenant, once unique keys are decided.
    pub(super) fn count_new(self, drafts: &[Draft]) -> HashMap<i32, NewCount> {
        let mut new: HashMap<i32, NewCount> = HashMap::new();
        if self == Self::None {
            return new;
        }
        for draft in drafts.iter().filter(|draft| draft.is_new()) {
            let count = new.entry(draft.parcel_key.tenant).or_default();
            if self == Self::All || draft.unique_key.is_some() {
                count.counted += 1;
            } else {
                count.reserved += 1;
            }
        }
        new
    }
}
