//! Prepares jobs for their insert: resolves names to internal numbers, encodes bodies and packs jobs
//! into parcels.
//!
//! Takes jobs of any number of tenants. Writes nothing but names seen for the first time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use harkara_shared::duration::milliseconds;
use harkara_shared::id::{JobId, TenantId};

use super::pack::{NewParcel, Packable, ParcelKey, pack};
use crate::engine::Engine;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::job::NewJob;

/// Fewest members of a parcel that, among other parcels, gets an insert statement of its own.
pub(super) const LARGE_PARCEL_JOBS: usize = 32;

/// Maximum smaller parcels in one insert statement.
pub(super) const MAX_PARCELS_PER_INSERT: usize = 500;

/// A job on its way into the table.
pub(super) struct Draft {
    pub(super) parcel_key: ParcelKey,
    /// Maximum jobs of one parcel in the job's lane.
    pub(super) max_parcel_jobs: usize,
    /// The encoded [`Envelope`]; empty once it was handed to the insert.
    pub(super) body: Vec<u8>,
    pub(super) unique_key: Option<UniqueKey>,
    pub(super) placement: Placement,
}

/// The unique key that a draft asks for.
pub(super) struct UniqueKey {
    pub(super) text: String,
    /// How long the key stays taken, from the enqueue; `None`: until the job has finished.
    pub(super) hold_ms: Option<i64>,
}

/// Where a draft ends up.
pub(super) enum Placement {
    /// Not decided yet.
    Undecided,
    /// A parcel of its own with this id: its unique key refers to the id, or it is queued in an
    /// ordered lane with such jobs and its id must keep their order.
    OwnParcel(i64),
    /// Stored as `job`, in the parcel with this index in the call.
    New { job: JobId, parcel: usize },
    /// The stored job that holds its unique key.
    Existing(JobId),
    /// It has the unique key of the job with this index in the call.
    Repeats(usize),
}

impl Draft {
    /// Whether the draft becomes a new job, as far as is decided.
    pub(super) fn is_new(&self) -> bool {
        matches!(
            self.placement,
            Placement::Undecided | Placement::OwnParcel(_)
        )
    }

    /// Whether the draft has a unique key whose holder is not decided yet.
    pub(super) fn needs_key(&self) -> bool {
        self.unique_key.is_some() && matches!(self.placement, Placement::Undecided)
    }

    /// Why a draft that should have been stored or matched has neither a row nor a key's holder.
    pub(super) fn not_placed(&self) -> Error {
        match &self.unique_key {
            Some(key) => Error::Contended(key.text.clone()),
            None => Error::Database(sqlx::Error::RowNotFound),
        }
    }
}

/// Jobs with their drafts, and the parcels of those drafts that need no parcel of their own.
pub(super) struct PreparedBatch<'a> {
    pub(super) jobs: &'a [(TenantId, NewJob)],
    pub(super) drafts: Vec<Draft>,
    pub(super) parcels: Vec<NewParcel>,
}

impl PreparedBatch<'_> {
    /// Whether one statement writes the whole batch, so that no explicit transaction is needed.
    pub(super) fn is_one_statement(&self) -> bool {
        let parcels = &self.parcels;
        let is_plain = self.jobs.iter().zip(&self.drafts).all(|((_, job), draft)| {
            job.unique.is_none() && job.tags.is_empty() && !draft.parcel_key.strict
        });
        let is_small = |parcel: &NewParcel| parcel.members.len() < LARGE_PARCEL_JOBS;
        is_plain
            && (parcels.len() == 1
                || parcels.len() <= MAX_PARCELS_PER_INSERT && parcels.iter().all(is_small))
    }
}

impl Engine {
    /// Makes jobs ready to be inserted.
    pub(super) async fn prepare_batch<'a>(
        &self,
        jobs: &'a [(TenantId, NewJob)],
    ) -> Result<PreparedBatch<'a>, Error> {
        let drafts = self.drafts(jobs).await?;
        let shareable = drafts.iter().enumerate().filter_map(|(index, draft)| {
            draft.unique_key.is_none().then_some(Packable {
                index,
                parcel_key: draft.parcel_key,
                bytes: draft.body.len(),
                max_parcel_jobs: draft.max_parcel_jobs,
            })
        });
        let parcels = pack(shareable);
        Ok(PreparedBatch {
            jobs,
            drafts,
            parcels,
        })
    }

    async fn drafts(&self, jobs: &[(TenantId, NewJob)]) -> Result<Vec<Draft>, Error> {
        let mut drafts: Vec<Draft> = Vec::with_capacity(jobs.len());
        let mut first_by_key: HashMap<(i32, i32, &str), usize> = HashMap::new();
        for (index, (tenant, job)) in jobs.iter().enumerate() {
            let tenant = self.interner().tenant_number(*tenant).await?;
            let queue = self.interner().queue_number(&job.queue).await?;
            let kind = self.interner().kind_number(&job.kind).await?;
            let lane = self.interner().lane(queue, tenant, job).await?;
            let unique_key = job.unique.as_ref().map(|unique| UniqueKey {
                text: unique.key.clone(),
                hold_ms: unique.hold.map(milliseconds),
            });
            let placement = match job.unique.as_ref() {
                Some(unique) => match first_by_key.entry((tenant, kind, unique.key.as_str())) {
                    Entry::Occupied(first) => Placement::Repeats(*first.get()),
                    Entry::Vacant(free) => {
                        free.insert(index);
                        Placement::Undecided
                    }
                },
                None => Placement::Undecided,
            };
            drafts.push(Draft {
                parcel_key: ParcelKey {
                    tenant,
                    queue,
                    kind,
                    lane: lane.id,
                    strict: lane.strict,
                    priority: i16::from(job.priority),
                    // The column's range; no kind allows nearly as many.
                    max_attempts: i16::try_from(job.max_attempts).unwrap_or(i16::MAX),
                    run_at: job.run_at,
                    delay_ms: milliseconds(job.delay),
                    expires_at: job.expires_at,
                },
                // A job that can expire needs a parcel of its own.
                max_parcel_jobs: if job.expires_at.is_some() {
                    1
                } else {
                    lane.max_parcel_jobs
                },
                body: Envelope::of(job).encode()?,
                unique_key,
                placement,
            });
        }
        Ok(drafts)
    }
}
