//! Converts between a job's id and the parcel it was enqueued in: an id is parcel times 1024 plus position.

use harkara_shared::id::JobId;

/// Ids reserved for each parcel: a power of two above the 500 members a parcel can have.
const IDS_PER_PARCEL: i64 = 1024;

/// The parcel that a job was enqueued in.
pub(crate) fn parcel_of(job: JobId) -> i64 {
    job.as_i64().div_euclid(IDS_PER_PARCEL)
}

/// The first job of a parcel.
pub(crate) fn job_of(parcel: i64) -> JobId {
    member_of(parcel, 0)
}

/// The job at a position of a parcel, counted from 0.
pub(crate) fn member_of(parcel: i64, position: i64) -> JobId {
    JobId::from_i64(
        parcel
            .saturating_mul(IDS_PER_PARCEL)
            .saturating_add(position),
    )
}
