//! Room: how a job's id is made of the id of the parcel it was enqueued in and its place there.
//! Takes: one. Gives: the other. Never: looks anything up.

use harkara_shared::id::JobId;

/// Places of a parcel, a power of two above the 500 members it may have.
const PLACES: i64 = 1024;

/// The parcel that a job was enqueued in.
pub(crate) fn parcel_of(job: JobId) -> i64 {
    job.as_i64().div_euclid(PLACES)
}

/// The first job of a parcel.
pub(crate) fn job_of(parcel: i64) -> JobId {
    member_of(parcel, 0)
}

/// The job in a place of a parcel.
pub(crate) fn member_of(parcel: i64, place: i64) -> JobId {
    JobId::from_i64(parcel.saturating_mul(PLACES).saturating_add(place))
}
