//! Room: how a job's id is made of its parcel's id and its place in it.
//! Takes: one. Gives: the other. Never: looks anything up.

use harkara_shared::id::JobId;

/// Places of a parcel, a power of two above the 500 members it may have.
const PLACES: i64 = 1024;

/// The job of a single-member parcel.
pub(crate) fn job_of(parcel: i64) -> JobId {
    JobId::from_i64(parcel.saturating_mul(PLACES))
}

/// The parcel a job was enqueued in.
pub(crate) fn parcel_of(job: JobId) -> i64 {
    job.as_i64().div_euclid(PLACES)
}

/// The job's place in that parcel.
pub(crate) fn place_of(job: JobId) -> i64 {
    job.as_i64().rem_euclid(PLACES)
}
