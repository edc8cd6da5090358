//! Room: packing.
//! Takes: what new jobs are stored by. Gives: parcels of jobs that share all of it.
//! Never: reorders jobs of one parcel, and never makes one larger than it may be.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

/// Bytes of bodies after which a parcel is full: more would make one row slow to move.
const FULL: usize = 64 * 1024;

/// What all members of a parcel share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shared {
    pub(super) tenant: i32,
    pub(super) queue: i32,
    pub(super) kind: i32,
    pub(super) lane: i64,
    pub(super) strict: bool,
    pub(super) priority: i16,
    pub(super) max_attempts: i16,
    pub(super) run_at: Option<DateTime<Utc>>,
    pub(super) delay_ms: i64,
    pub(super) expires_at: Option<DateTime<Utc>>,
}

/// Jobs on their way into one row, by their places among the packed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bundle {
    pub(super) shared: Shared,
    pub(super) members: Vec<usize>,
    bytes: usize,
}

impl Bundle {
    pub(super) fn of_one(shared: Shared, member: usize) -> Self {
        Self {
            shared,
            members: vec![member],
            bytes: 0,
        }
    }
}

/// Packs jobs, each given by what it shares, the size of its body and how many such jobs one parcel
/// may hold.
pub(super) fn pack(jobs: impl Iterator<Item = (usize, Shared, usize, usize)>) -> Vec<Bundle> {
    let mut bundles: Vec<Bundle> = Vec::new();
    let mut open: HashMap<Shared, usize> = HashMap::new();
    for (member, shared, bytes, most) in jobs {
        let room = open.get(&shared).copied().filter(|index| {
            bundles
                .get(*index)
                .is_some_and(|bundle| bundle.members.len() < most && bundle.bytes + bytes <= FULL)
        });
        match room.and_then(|index| bundles.get_mut(index)) {
            Some(bundle) => {
                bundle.members.push(member);
                bundle.bytes += bytes;
            }
            None => {
                open.insert(shared, bundles.len());
                bundles.push(Bundle {
                    shared,
                    members: vec![member],
                    bytes,
                });
            }
        }
    }
    bundles
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shared(lane: i64) -> Shared {
        Shared {
            tenant: 1,
            queue: 1,
            kind: 1,
            lane,
            strict: false,
            priority: 5,
            max_attempts: 3,
            run_at: None,
            delay_ms: 0,
            expires_at: None,
        }
    }

    proptest! {
        #[test]
        fn every_job_is_in_one_parcel_of_its_like_in_order_and_within_its_bounds(
            jobs in prop::collection::vec((0i64..4, 0usize..40_000), 0..300),
            most in 1usize..20,
        ) {
            let bundles = pack(
                jobs.iter().enumerate().map(|(n, (lane, bytes))| (n, shared(*lane), *bytes, most)),
            );
            let mut all: Vec<usize> = Vec::new();
            for bundle in &bundles {
                prop_assert!(bundle.members.len() <= most);
                prop_assert!(bundle.members.is_sorted());
                let bytes: usize = bundle.members.iter().map(|n| jobs[*n].1).sum();
                prop_assert!(bytes <= FULL || bundle.members.len() == 1);
                prop_assert!(bundle.members.iter().all(|n| jobs[*n].0 == bundle.shared.lane));
                all.extend(&bundle.members);
            }
            all.sort_unstable();
            prop_assert_eq!(all, (0..jobs.len()).collect::<Vec<_>>());
        }

        #[test]
        fn jobs_of_one_lane_keep_their_order_from_parcel_to_parcel(
            jobs in prop::collection::vec((0i64..3, 0usize..30_000), 0..200),
        ) {
            let bundles = pack(
                jobs.iter().enumerate().map(|(n, (lane, bytes))| (n, shared(*lane), *bytes, 500)),
            );
            for lane in 0..3 {
                let order: Vec<usize> = bundles
                    .iter()
                    .filter(|bundle| bundle.shared.lane == lane)
                    .flat_map(|bundle| bundle.members.clone())
                    .collect();
                prop_assert!(order.is_sorted());
            }
        }
    }
}
