//! Room: enqueue.
//! Takes: checked [`NewJob`]s and the caller's connection. Gives: rows, and an id for each job.
//! Never: opens or commits the caller's transaction: no commit, no job.

use std::collections::HashMap;

use harkara_shared::database::{query, query_as, query_scalar};
use harkara_shared::duration::milliseconds;
use harkara_shared::id::{JobId, TenantId};
use harkara_shared::telemetry::metric;
use sqlx::PgConnection;

use crate::engine::{Engine, Error};
use crate::envelope::Envelope;
use crate::ids;
use crate::job::{Enqueued, NewJob};

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
    ) -> Result<Enqueued, Error> {
        let kind = job.kind.clone();
        let answers = self.enqueue_all(connection, tenant, vec![job]).await?;
        answers.into_iter().next().ok_or(Error::Contended(kind))
    }

    /// Enqueues jobs in the caller's transaction, in their order: all, or none if it fails or the
    /// caller rolls back. Answers one entry a job; a job whose unique key is taken, in the table or
    /// by an earlier job of the same call, is answered with the job that holds it.
    ///
    /// # Errors
    /// When the database refuses, or a unique key cannot be decided because it is contended.
    pub async fn enqueue_all(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Enqueued>, Error> {
        let tenant = self.names().tenant(tenant).await?;
        let mut drafts = self.drafts(tenant, &jobs).await?;
        self.take_unique_keys(connection, tenant, &mut drafts)
            .await?;
        insert(connection, tenant, self.notify(), &mut drafts).await?;
        label(connection, tenant, &jobs, &drafts).await?;
        for (job, draft) in jobs.iter().zip(&drafts) {
            if matches!(draft.place, Place::New(_)) {
                metrics::counter!(metric::JOBS_ENQUEUED, "kind" => job.kind.clone()).increment(1);
            }
        }
        // An earlier job of the same call stands before the one that repeats its key.
        let mut answers: Vec<Enqueued> = Vec::with_capacity(drafts.len());
        for draft in &drafts {
            let answer = match draft.place {
                Place::New(id) => Some(Enqueued::New(ids::job_of(id))),
                Place::Existing(id) => Some(Enqueued::Existing(id)),
                Place::Repeats(earlier) => answers
                    .get(earlier)
                    .map(|first| Enqueued::Existing(first.id())),
                Place::Wanted => None,
            };
            answers.push(answer.ok_or_else(|| Error::Contended(draft.key_text()))?);
        }
        Ok(answers)
    }

    async fn drafts(&self, tenant: i32, jobs: &[NewJob]) -> Result<Vec<Draft>, Error> {
        let mut drafts: Vec<Draft> = Vec::with_capacity(jobs.len());
        let mut keys: HashMap<(i32, &str), usize> = HashMap::new();
        for (index, job) in jobs.iter().enumerate() {
            let queue = self.names().queue(&job.queue).await?;
            let kind = self.names().kind(&job.kind).await?;
            let lane = self.names().lane(queue, tenant).await?;
            let key = job.unique.as_ref().map(|unique| Key {
                text: unique.key.clone(),
                hold_ms: unique.hold.map(milliseconds),
            });
            let place = match job.unique.as_ref() {
                Some(unique) => match keys.entry((kind, unique.key.as_str())) {
                    std::collections::hash_map::Entry::Occupied(first) => {
                        Place::Repeats(*first.get())
                    }
                    std::collections::hash_map::Entry::Vacant(free) => {
                        free.insert(index);
                        Place::Wanted
                    }
                },
                None => Place::Wanted,
            };
            drafts.push(Draft {
                queue,
                kind,
                lane,
                run_at: job.run_at,
                delay_ms: milliseconds(job.delay),
                priority: i16::from(job.priority),
                max_attempts: i16::try_from(job.max_attempts).unwrap_or(i16::MAX),
                body: Envelope::of(job).encode()?,
                key,
                place,
            });
        }
        Ok(drafts)
    }

    /// Gives every keyed draft a parcel id it holds its key with, or the job that holds it already.
    async fn take_unique_keys(
        &self,
        connection: &mut PgConnection,
        tenant: i32,
        drafts: &mut [Draft],
    ) -> Result<(), Error> {
        let mut wanted: Vec<&mut Draft> = drafts
            .iter_mut()
            .filter(|draft| draft.key.is_some() && matches!(draft.place, Place::Wanted))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let parcels: Vec<i64> = query_scalar(include_str!("sql/next_parcel_ids.sql"))
            .bind(i32::try_from(wanted.len()).unwrap_or(i32::MAX))
            .fetch_all(&mut *connection)
            .await?;
        let holds: Vec<Option<i64>> = wanted
            .iter()
            .map(|draft| draft.key.as_ref().and_then(|key| key.hold_ms))
            .collect();
        let (kinds, keys) = kinds_and_keys(&wanted);
        let rows: Vec<KeyRow> = query_as(include_str!("sql/take_unique_keys.sql"))
            .bind(tenant)
            .bind(kinds)
            .bind(keys)
            .bind(
                parcels
                    .iter()
                    .map(|id| ids::job_of(*id).as_i64())
                    .collect::<Vec<_>>(),
            )
            .bind(holds)
            .fetch_all(&mut *connection)
            .await?;
        settle_places(&mut wanted, &parcels, rows);

        // What a neighbour took between the statement's first look and its own turn.
        wanted.retain(|draft| matches!(draft.place, Place::Wanted));
        if wanted.is_empty() {
            return Ok(());
        }
        let (kinds, keys) = kinds_and_keys(&wanted);
        let rows: Vec<KeyRow> = query_as(include_str!("sql/find_unique_keys.sql"))
            .bind(tenant)
            .bind(kinds)
            .bind(keys)
            .fetch_all(&mut *connection)
            .await?;
        settle_places(&mut wanted, &[], rows);
        match wanted
            .iter()
            .find(|draft| matches!(draft.place, Place::Wanted))
        {
            None => Ok(()),
            Some(draft) => Err(Error::Contended(draft.key_text())),
        }
    }
}

/// Kind, key, and the job whose it is.
type KeyRow = (i32, String, i64);

fn kinds_and_keys(drafts: &[&mut Draft]) -> (Vec<i32>, Vec<String>) {
    drafts
        .iter()
        .map(|draft| (draft.kind, draft.key_text()))
        .unzip()
}

/// Gives the drafts their places: their own parcel where the key is theirs, or the job that has it.
fn settle_places(drafts: &mut [&mut Draft], parcels: &[i64], rows: Vec<KeyRow>) {
    let owners: HashMap<(i32, String), JobId> = rows
        .into_iter()
        .map(|(kind, key, job)| ((kind, key), JobId::from_i64(job)))
        .collect();
    for (index, draft) in drafts.iter_mut().enumerate() {
        let Some(owner) = owners.get(&(draft.kind, draft.key_text())) else {
            continue;
        };
        draft.place = match parcels.get(index) {
            Some(parcel) if ids::job_of(*parcel) == *owner => Place::New(*parcel),
            _ => Place::Existing(*owner),
        };
    }
}

/// A job on its way into the table.
struct Draft {
    queue: i32,
    kind: i32,
    lane: i64,
    run_at: Option<chrono::DateTime<chrono::Utc>>,
    delay_ms: i64,
    priority: i16,
    max_attempts: i16,
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
    /// Its own parcel.
    New(i64),
    /// The job that holds its key.
    Existing(JobId),
    /// The same key as this earlier job of the call.
    Repeats(usize),
}

impl Draft {
    fn key_text(&self) -> String {
        self.key
            .as_ref()
            .map(|key| key.text.clone())
            .unwrap_or_default()
    }

    fn is_inserted(&self) -> bool {
        matches!(self.place, Place::Wanted | Place::New(_))
    }
}

async fn insert(
    connection: &mut PgConnection,
    tenant: i32,
    notify: bool,
    drafts: &mut [Draft],
) -> Result<(), Error> {
    let mut new: Vec<&mut Draft> = drafts
        .iter_mut()
        .filter(|draft| draft.is_inserted())
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    let parcels: Vec<Option<i64>> = new
        .iter()
        .map(|draft| match draft.place {
            Place::New(id) => Some(id),
            _ => None,
        })
        .collect();
    let bodies: Vec<Vec<u8>> = new
        .iter_mut()
        .map(|draft| std::mem::take(&mut draft.body))
        .collect();
    let ids: Vec<(i64, Option<String>)> = query_as(include_str!("sql/insert_parcels.sql"))
        .bind(tenant)
        .bind(&parcels)
        .bind(new.iter().map(|draft| draft.lane).collect::<Vec<_>>())
        .bind(new.iter().map(|draft| draft.run_at).collect::<Vec<_>>())
        .bind(new.iter().map(|draft| draft.delay_ms).collect::<Vec<_>>())
        .bind(new.iter().map(|draft| draft.queue).collect::<Vec<_>>())
        .bind(new.iter().map(|draft| draft.kind).collect::<Vec<_>>())
        .bind(new.iter().map(|draft| draft.priority).collect::<Vec<_>>())
        .bind(
            new.iter()
                .map(|draft| draft.max_attempts)
                .collect::<Vec<_>>(),
        )
        .bind(
            new.iter()
                .map(|draft| draft.key.is_some())
                .collect::<Vec<_>>(),
        )
        .bind(&bodies)
        .bind(notify)
        .fetch_all(connection)
        .await?;
    for (draft, (id, _)) in new.iter_mut().zip(ids) {
        draft.place = Place::New(id);
    }
    Ok(())
}

async fn label(
    connection: &mut PgConnection,
    tenant: i32,
    jobs: &[NewJob],
    drafts: &[Draft],
) -> Result<(), Error> {
    let (mut names, mut values, mut job_ids) = (Vec::new(), Vec::new(), Vec::new());
    for (job, draft) in jobs.iter().zip(drafts) {
        let Place::New(id) = draft.place else {
            continue;
        };
        let tags = job.tags.iter().map(|tag| ("tag", tag));
        let keys = job.unique.iter().map(|unique| ("unique_key", &unique.key));
        for (name, value) in tags.chain(keys) {
            names.push(name);
            values.push(value.as_str());
            job_ids.push(ids::job_of(id).as_i64());
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    query(include_str!("sql/insert_labels.sql"))
        .bind(tenant)
        .bind(&names)
        .bind(&values)
        .bind(&job_ids)
        .execute(connection)
        .await?;
    Ok(())
}
