//! Room: enqueue.
//! Takes: checked [`NewJob`]s and the caller's connection. Gives: rows of up to 500 jobs, and an id
//! for each job. Never: opens or commits the caller's transaction: no commit, no job.

mod coalesce;
mod keys;
mod pack;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use chrono::{DateTime, Utc};
use harkara_shared::database::{query, query_as};
use harkara_shared::duration::milliseconds;
use harkara_shared::id::{JobId, TenantId};
use harkara_shared::telemetry::metric;
use sqlx::PgConnection;

use crate::engine::Engine;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::ids;
use crate::job::{Enqueued, Job, JobState, Lane, NewJob};
pub use coalesce::Coalescer;
use pack::{Bundle, Shared, pack};

/// Members from which a parcel among others is worth a statement of its own.
const LARGE: usize = 32;

/// Bytes that every row is reckoned to weigh at least: rows of no more do not say what they weigh.
const LIGHT: usize = 1024;

/// Most smaller ones in one statement.
const TOGETHER: usize = 500;

/// Whether the tenant's bound of waiting jobs (`max_waiting`) applies to an enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// It applies: for jobs that a client requests.
    Enforce,
    /// It does not: for jobs that follow from jobs already accepted, and for the platform's own.
    Skip,
}

/// What became of one enqueued job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The job.
    pub job: Enqueued,
    /// How it entered the queue; `None` for a job that was there before.
    pub inserted: Option<Inserted>,
}

/// How a new job stands in its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inserted {
    /// When it was enqueued, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// When it is due.
    pub run_at: DateTime<Utc>,
    /// Ready or scheduled.
    pub state: JobState,
}

impl Inserted {
    /// The job as it stands.
    #[must_use]
    pub fn into_job(self, id: JobId, tenant: TenantId, job: NewJob) -> Job {
        Job {
            id,
            tenant_id: tenant,
            kind: job.kind,
            queue: job.queue,
            state: self.state,
            priority: job.priority,
            attempt: 0,
            max_attempts: job.max_attempts,
            run_at: self.run_at,
            expires_at: job.expires_at,
            created_at: self.created_at,
            started_at: None,
            finished_at: None,
            unique_key: job.unique.map(|unique| unique.key),
            ordering_key: match job.lane {
                Lane::Ordered(key) => Some(key),
                Lane::Default | Lane::Named(_) => None,
            },
            tags: job.tags,
            payload: job.payload,
            result: None,
            progress: None,
            last_error: None,
            trace: job.trace,
        }
    }
}

impl Engine {
    /// Enqueues one job in the caller's transaction. See [`Engine::enqueue_all`].
    ///
    /// # Errors
    /// As [`Engine::enqueue_all`].
    pub async fn enqueue(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        job: NewJob,
        quota: Quota,
    ) -> Result<Enqueued, Error> {
        let kind = job.kind.clone();
        let answers = self
            .enqueue_all(connection, tenant, vec![job], quota)
            .await?;
        answers.into_iter().next().ok_or(Error::Contended(kind))
    }

    /// Enqueues jobs in the caller's transaction, in their order: all of them, or none if this fails or
    /// the caller rolls back. Returns one entry per job. A job whose unique key is taken, by a stored job
    /// or by an earlier job of the same call, gets the id of the job that holds the key.
    ///
    /// # Errors
    /// When the database refuses, or a unique key cannot be decided because it is contended.
    /// [`Error::DepthQuota`] under [`Quota::Enforce`] when the tenant would exceed its bound of waiting
    /// jobs; the caller then rolls back.
    pub async fn enqueue_all(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        jobs: Vec<NewJob>,
        quota: Quota,
    ) -> Result<Vec<Enqueued>, Error> {
        let jobs: Vec<(TenantId, NewJob)> = jobs.into_iter().map(|job| (tenant, job)).collect();
        let batch = self.batch(&jobs).await?;
        let bounded = match quota {
            Quota::Enforce => Bounded::All,
            Quota::Skip => Bounded::None,
        };
        let receipts = self.enter(connection, batch, bounded).await?;
        Ok(receipts.into_iter().map(|receipt| receipt.job).collect())
    }

    /// Makes jobs ready to be written.
    async fn batch<'a>(&self, jobs: &'a [(TenantId, NewJob)]) -> Result<Batch<'a>, Error> {
        let drafts = self.drafts(jobs).await?;
        let bundles = bundles(&drafts);
        Ok(Batch {
            jobs,
            drafts,
            bundles,
        })
    }

    /// Writes jobs, as [`Engine::enqueue_all`] does.
    async fn enter(
        &self,
        connection: &mut PgConnection,
        batch: Batch<'_>,
        bounded: Bounded,
    ) -> Result<Vec<Receipt>, Error> {
        let Batch {
            jobs,
            mut drafts,
            bundles,
        } = batch;
        keys::take(connection, &mut drafts).await?;
        for (tenant, (new, beside)) in bounded.count(&drafts) {
            let quotas = self.quotas();
            quotas.require(connection, tenant, new, beside).await?;
        }
        let entries = insert(connection, self.notify(), &mut drafts, bundles).await?;
        label(connection, jobs, &drafts).await?;
        count(jobs, &drafts);
        self.schedule_rollup();
        // An earlier job of the same call stands before the one that repeats its key.
        let mut receipts: Vec<Receipt> = Vec::with_capacity(drafts.len());
        for draft in &drafts {
            let receipt = match draft.place {
                Place::New { job, bundle } => Some(Receipt {
                    job: Enqueued::New(job),
                    inserted: entries.get(bundle).cloned(),
                }),
                Place::Existing(job) => Some(Receipt {
                    job: Enqueued::Existing(job),
                    inserted: None,
                }),
                Place::Repeats(earlier) => receipts.get(earlier).map(|first| Receipt {
                    job: Enqueued::Existing(first.job.id()),
                    inserted: None,
                }),
                Place::Wanted | Place::Own(_) => None,
            };
            receipts.push(receipt.ok_or_else(|| Error::Contended(draft.key_text()))?);
        }
        Ok(receipts)
    }

    async fn drafts(&self, jobs: &[(TenantId, NewJob)]) -> Result<Vec<Draft>, Error> {
        let mut drafts: Vec<Draft> = Vec::with_capacity(jobs.len());
        let mut keys: HashMap<(i32, i32, &str), usize> = HashMap::new();
        for (index, (tenant, job)) in jobs.iter().enumerate() {
            let tenant = self.interner().tenant_number(*tenant).await?;
            let queue = self.interner().queue_number(&job.queue).await?;
            let kind = self.interner().kind_number(&job.kind).await?;
            let lane = self.interner().lane(queue, tenant, job).await?;
            let key = job.unique.as_ref().map(|unique| Key {
                text: unique.key.clone(),
                hold_ms: unique.hold.map(milliseconds),
            });
            let place = match job.unique.as_ref() {
                Some(unique) => match keys.entry((tenant, kind, unique.key.as_str())) {
                    Entry::Occupied(first) => Place::Repeats(*first.get()),
                    Entry::Vacant(free) => {
                        free.insert(index);
                        Place::Wanted
                    }
                },
                None => Place::Wanted,
            };
            drafts.push(Draft {
                shared: Shared {
                    tenant,
                    queue,
                    kind,
                    lane: lane.id,
                    strict: lane.strict,
                    priority: i16::from(job.priority),
                    max_attempts: i16::try_from(job.max_attempts).unwrap_or(i16::MAX),
                    run_at: job.run_at,
                    delay_ms: milliseconds(job.delay),
                    expires_at: job.expires_at,
                },
                // One that may expire goes by itself.
                most: if job.expires_at.is_some() {
                    1
                } else {
                    lane.pack
                },
                body: Envelope::of(job).encode()?,
                key,
                place,
            });
        }
        Ok(drafts)
    }
}

/// Which new jobs the bound of waiting jobs holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bounded {
    None,
    /// Those with a unique key: of the others it is known that there is room.
    Keyed,
    All,
}

impl Bounded {
    /// How many there are of each tenant, once unique keys are taken, and how many others are new
    /// beside them.
    fn count(self, drafts: &[Draft]) -> HashMap<i32, (i64, i64)> {
        let mut new: HashMap<i32, (i64, i64)> = HashMap::new();
        for draft in drafts {
            if self == Self::None || !matches!(draft.place, Place::Wanted | Place::Own(_)) {
                continue;
            }
            let (counted, beside) = new.entry(draft.shared.tenant).or_default();
            if self == Self::All || draft.key.is_some() {
                *counted += 1;
            } else {
                *beside += 1;
            }
        }
        new
    }
}

/// A job on its way into the table.
struct Draft {
    shared: Shared,
    /// Most jobs of a parcel in its lane.
    most: usize,
    body: Vec<u8>,
    key: Option<Key>,
    place: Place,
}

struct Key {
    text: String,
    hold_ms: Option<i64>,
}

enum Place {
    /// Not decided yet.
    Wanted,
    /// This parcel is its own: its unique key names it, or it stands in line with such jobs.
    Own(i64),
    /// In the table, in this bundle of the call.
    New { job: JobId, bundle: usize },
    /// The job that holds its key.
    Existing(JobId),
    /// The same key as this earlier job of the call.
    Repeats(usize),
}

impl Draft {
    fn wants_key(&self) -> bool {
        self.key.is_some() && matches!(self.place, Place::Wanted)
    }

    fn key_text(&self) -> String {
        self.key
            .as_ref()
            .map(|key| key.text.clone())
            .unwrap_or_default()
    }
}

/// Jobs on their way into the table together, and the rows of those that may share one.
struct Batch<'a> {
    jobs: &'a [(TenantId, NewJob)],
    drafts: Vec<Draft>,
    bundles: Vec<Bundle>,
}

impl Batch<'_> {
    /// Whether one statement writes all of it, so that it may be its own transaction.
    fn is_one_statement(&self) -> bool {
        let bundles = &self.bundles;
        let plain = self.jobs.iter().zip(&self.drafts).all(|((_, job), draft)| {
            job.unique.is_none() && job.tags.is_empty() && !draft.shared.strict
        });
        let small = |bundle: &Bundle| bundle.members.len() < LARGE;
        plain && (bundles.len() == 1 || bundles.len() <= TOGETHER && bundles.iter().all(small))
    }
}

/// The rows of the drafts that need no row to themselves.
fn bundles(drafts: &[Draft]) -> Vec<Bundle> {
    pack(drafts.iter().enumerate().filter_map(|(index, draft)| {
        draft
            .key
            .is_none()
            .then_some((index, draft.shared, draft.body.len(), draft.most))
    }))
}

/// One row that was made.
#[derive(sqlx::FromRow)]
struct Made {
    id: i64,
    created_at: DateTime<Utc>,
    run_at: DateTime<Utc>,
    state: String,
}

/// Writes the drafts that want a row, and answers how each bundle of them stands.
async fn insert(
    connection: &mut PgConnection,
    notify: bool,
    drafts: &mut [Draft],
    mut bundles: Vec<Bundle>,
) -> Result<Vec<Inserted>, Error> {
    // A key names the first place of a parcel: its job has a row to itself.
    let own = drafts
        .iter()
        .enumerate()
        .filter(|(_, draft)| draft.key.is_some() && matches!(draft.place, Place::Own(_)));
    bundles.extend(own.map(|(index, draft)| Bundle::of_one(draft.shared, index)));
    if bundles.is_empty() {
        return Ok(Vec::new());
    }
    let mut made: Vec<Option<Made>> = Vec::new();
    made.resize_with(bundles.len(), || None);
    let alone = bundles.len() == 1;
    for (index, bundle) in bundles.iter().enumerate() {
        let is_plain = !bundle.shared.strict
            && bundle.shared.expires_at.is_none()
            && bundle
                .members
                .first()
                .and_then(|first| drafts.get(*first))
                .is_some_and(|draft| matches!(draft.place, Place::Wanted));
        if is_plain && (alone || bundle.members.len() >= LARGE) {
            let row = insert_large(connection, notify, bundle, drafts).await?;
            if let Some(slot) = made.get_mut(index) {
                *slot = Some(row);
            }
        }
    }
    let small: Vec<usize> = (0..bundles.len())
        .filter(|index| made.get(*index).is_some_and(Option::is_none))
        .collect();
    for small in small.chunks(TOGETHER) {
        let rows = insert_small(connection, notify, &bundles, small, drafts).await?;
        for (index, row) in small.iter().zip(rows) {
            if let Some(slot) = made.get_mut(*index) {
                *slot = Some(row);
            }
        }
    }
    let mut entries = Vec::with_capacity(bundles.len());
    for (index, (bundle, row)) in bundles.iter().zip(made).enumerate() {
        let row = row.ok_or(Error::Database(sqlx::Error::RowNotFound))?;
        for (place, member) in (0..).zip(&bundle.members) {
            if let Some(draft) = drafts.get_mut(*member) {
                draft.place = Place::New {
                    job: ids::member_of(row.id, place),
                    bundle: index,
                };
            }
        }
        entries.push(Inserted {
            created_at: row.created_at,
            run_at: row.run_at,
            state: JobState::from_letter(&row.state)
                .map_err(|unknown| Error::corrupt(ids::job_of(row.id), unknown))?,
        });
    }
    Ok(entries)
}

async fn insert_large(
    connection: &mut PgConnection,
    notify: bool,
    bundle: &Bundle,
    drafts: &mut [Draft],
) -> Result<Made, Error> {
    let shared = bundle.shared;
    let weight = weight(bundle, drafts);
    Ok(query_as(include_str!("../sql/insert_parcel.sql"))
        .bind(shared.tenant)
        .bind(shared.lane)
        .bind(shared.run_at)
        .bind(shared.delay_ms)
        .bind(shared.queue)
        .bind(shared.kind)
        .bind(shared.priority)
        .bind(shared.max_attempts)
        .bind(bodies(std::iter::once(bundle), drafts))
        .bind(notify)
        .bind(weight)
        .fetch_one(connection)
        .await?)
}

async fn insert_small(
    connection: &mut PgConnection,
    notify: bool,
    bundles: &[Bundle],
    small: &[usize],
    drafts: &mut [Draft],
) -> Result<Vec<Made>, Error> {
    let rows: Vec<&Bundle> = small
        .iter()
        .filter_map(|index| bundles.get(*index))
        .collect();
    let own = |bundle: &&Bundle| {
        let first = bundle.members.first().and_then(|first| drafts.get(*first));
        match first.map(|draft| &draft.place) {
            Some(Place::Own(parcel)) => Some(*parcel),
            _ => None,
        }
    };
    let parcels: Vec<Option<i64>> = rows.iter().map(own).collect();
    let keyed: Vec<bool> = rows
        .iter()
        .map(|bundle| {
            let first = bundle.members.first().and_then(|first| drafts.get(*first));
            first.is_some_and(|draft| draft.key.is_some())
        })
        .collect();
    let sizes: Vec<i16> = rows
        .iter()
        .map(|bundle| i16::try_from(bundle.members.len()).unwrap_or(i16::MAX))
        .collect();
    let weights: Vec<Option<i32>> = rows.iter().map(|bundle| weight(bundle, drafts)).collect();
    let bodies = bodies(rows.iter().copied(), drafts);
    Ok(query_as(include_str!("../sql/insert_parcels.sql"))
        .bind(column(&rows, |shared| shared.tenant))
        .bind(parcels)
        .bind(column(&rows, |shared| shared.lane))
        .bind(column(&rows, |shared| shared.run_at))
        .bind(column(&rows, |shared| shared.delay_ms))
        .bind(column(&rows, |shared| shared.queue))
        .bind(column(&rows, |shared| shared.kind))
        .bind(column(&rows, |shared| shared.priority))
        .bind(column(&rows, |shared| shared.max_attempts))
        .bind(keyed)
        .bind(column(&rows, |shared| shared.strict))
        .bind(sizes)
        .bind(bodies)
        .bind(notify)
        .bind(column(&rows, |shared| shared.expires_at))
        .bind(weights)
        .fetch_all(connection)
        .await?)
}

fn column<T>(rows: &[&Bundle], value: impl Fn(&Shared) -> T) -> Vec<T> {
    rows.iter().map(|bundle| value(&bundle.shared)).collect()
}

/// What a bundle's bodies weigh, where that is more than claims reckon with in any case.
fn weight(bundle: &Bundle, drafts: &[Draft]) -> Option<i32> {
    let drafts = bundle
        .members
        .iter()
        .filter_map(|member| drafts.get(*member));
    let bytes: usize = drafts.map(|draft| draft.body.len()).sum();
    (bytes > LIGHT).then(|| i32::try_from(bytes).unwrap_or(i32::MAX))
}

/// The bodies of the bundles' members, in their order. They are not needed any more where they were.
fn bodies<'a>(bundles: impl Iterator<Item = &'a Bundle>, drafts: &mut [Draft]) -> Vec<Vec<u8>> {
    let mut body = |member: &usize| {
        let draft = drafts.get_mut(*member);
        draft.map(|draft| std::mem::take(&mut draft.body))
    };
    bundles
        .flat_map(|bundle| &bundle.members)
        .map(|member| body(member).unwrap_or_default())
        .collect()
}

async fn label(
    connection: &mut PgConnection,
    jobs: &[(TenantId, NewJob)],
    drafts: &[Draft],
) -> Result<(), Error> {
    let (mut tenants, mut names, mut values, mut job_ids) = (vec![], vec![], vec![], vec![]);
    for ((_, job), draft) in jobs.iter().zip(drafts) {
        let Place::New { job: id, .. } = draft.place else {
            continue;
        };
        let tags = job.tags.iter().map(|tag| ("tag", tag.as_str()));
        let unique = job
            .unique
            .iter()
            .map(|unique| ("unique_key", unique.key.as_str()));
        let ordering = draft
            .shared
            .strict
            .then(|| ("ordering_key", job.lane.key()));
        for (name, value) in tags.chain(unique).chain(ordering) {
            tenants.push(draft.shared.tenant);
            names.push(name);
            values.push(value);
            job_ids.push(id.as_i64());
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    query(include_str!("../sql/insert_labels.sql"))
        .bind(&tenants)
        .bind(&names)
        .bind(&values)
        .bind(&job_ids)
        .execute(connection)
        .await?;
    Ok(())
}

/// Counts new jobs, once a run of jobs of one kind.
fn count(jobs: &[(TenantId, NewJob)], drafts: &[Draft]) {
    let mut new: HashMap<&str, u64> = HashMap::new();
    for ((_, job), draft) in jobs.iter().zip(drafts) {
        if matches!(draft.place, Place::New { .. }) {
            *new.entry(job.kind.as_str()).or_default() += 1;
        }
    }
    for (kind, jobs) in new {
        metrics::counter!(metric::JOBS_ENQUEUED, "kind" => kind.to_owned()).increment(jobs);
    }
}
