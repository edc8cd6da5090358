//! Packs jobs into parcels: rows of jobs that share every stored column.
//!
//! Never reorders the jobs of one parcel, and never exceeds the bounds of a parcel.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

/// Bytes of bodies in one parcel: a larger row would be slow to move.
const MAX_PARCEL_BYTES: usize = 64 * 1024;

/// The columns that all jobs of a parcel share. Tenant, queue, kind and lane are internal numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ParcelKey {
    pub(super) tenant: i32,
    pub(super) queue: i32,
    pub(super) kind: i32,
    pub(super) lane: i64,
    /// Whether the lane runs its jobs one after another.
    pub(super) strict: bool,
    pub(super) priority: i16,
    pub(super) max_attempts: i16,
    pub(super) run_at: Option<DateTime<Utc>>,
    pub(super) delay_ms: i64,
    pub(super) expires_at: Option<DateTime<Utc>>,
}

/// A job that can share a parcel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packable {
    /// Position of the job in the call.
    pub(super) index: usize,
    pub(super) parcel_key: ParcelKey,
    /// Size of its body.
    pub(super) bytes: usize,
    /// Maximum jobs of a parcel that holds it.
    pub(super) max_parcel_jobs: usize,
}

/// A parcel to be inserted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewParcel {
    pub(super) key: ParcelKey,
    /// Positions of its jobs in the call.
    pub(super) members: Vec<usize>,
    bytes: usize,
}

impl NewParcel {
    /// A parcel of one job that shares it with no other.
    pub(super) fn single(key: ParcelKey, member: usize) -> Self {
        Self {
            key,
            members: vec![member],
            bytes: 0,
        }
    }
}

/// Packs jobs into as few parcels as their order allows.
pub(super) fn pack(jobs: impl Iterator<Item = Packable>) -> Vec<NewParcel> {
    let mut parcels: Vec<NewParcel> = Vec::new();
    let mut open: HashMap<ParcelKey, usize> = HashMap::new();
    for job in jobs {
        let fitting = open.get(&job.parcel_key).copied().filter(|index| {
            parcels.get(*index).is_some_and(|parcel| {
                parcel.members.len() < job.max_parcel_jobs
                    && parcel.bytes + job.bytes <= MAX_PARCEL_BYTES
            })
        });
        match fitting.and_then(|index| parcels.get_mut(index)) {
            Some(parcel) => {
                parcel.members.push(job.index);
                parcel.bytes += job.bytes;
            }
            None => {
                open.insert(job.parcel_key, parcels.len());
                parcels.push(NewParcel {
                    key: job.parcel_key,
                    members: vec![job.index],
                    bytes: job.bytes,
                });
            }
        }
    }
    parcels
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parcel_key(lane: i64) -> ParcelKey {
        ParcelKey {
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

    /// Packs jobs given by lane and size.
    fn packed(jobs: &[(i64, usize)], max_parcel_jobs: usize) -> Vec<NewParcel> {
        pack(
            jobs.iter()
                .enumerate()
                .map(|(index, (lane, bytes))| Packable {
                    index,
                    parcel_key: parcel_key(*lane),
                    bytes: *bytes,
                    max_parcel_jobs,
                }),
        )
    }

    proptest! {
        #[test]
        fn every_job_is_in_one_parcel_with_its_key_in_order_and_within_bounds(
            jobs in prop::collection::vec((0i64..4, 0usize..40_000), 0..300),
            max_parcel_jobs in 1usize..20,
        ) {
            let parcels = packed(&jobs, max_parcel_jobs);
            let mut all: Vec<usize> = Vec::new();
            for parcel in &parcels {
                prop_assert!(parcel.members.len() <= max_parcel_jobs);
                prop_assert!(parcel.members.is_sorted());
                let bytes: usize = parcel.members.iter().map(|n| jobs[*n].1).sum();
                prop_assert!(bytes <= MAX_PARCEL_BYTES || parcel.members.len() == 1);
                prop_assert!(parcel.members.iter().all(|n| jobs[*n].0 == parcel.key.lane));
                all.extend(&parcel.members);
            }
            all.sort_unstable();
            prop_assert_eq!(all, (0..jobs.len()).collect::<Vec<_>>());
        }

        #[test]
        fn jobs_of_one_lane_keep_their_order_from_parcel_to_parcel(
            jobs in prop::collection::vec((0i64..3, 0usize..30_000), 0..200),
        ) {
            let parcels = packed(&jobs, 500);
            for lane in 0..3 {
                let order: Vec<usize> = parcels
                    .iter()
                    .filter(|parcel| parcel.key.lane == lane)
                    .flat_map(|parcel| parcel.members.clone())
                    .collect();
                prop_assert!(order.is_sorted());
            }
        }
    }
}
