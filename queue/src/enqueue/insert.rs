//! Inserts drafts: parcels with the bodies of their members, and the labels that jobs are found by.
//!
//! Takes drafts whose unique keys are decided. Sets the placement of each draft that becomes a job.

use chrono::{DateTime, Utc};
use harkara_shared::database::{query, query_as};
use harkara_shared::id::TenantId;
use sqlx::PgConnection;

use super::draft::{Draft, LARGE_PARCEL_JOBS, MAX_PARCELS_PER_INSERT, Placement};
use super::pack::{NewParcel, ParcelKey};
use super::receipt::Inserted;
use crate::error::Error;
use crate::ids;
use crate::job::{JobState, NewJob};

/// Bytes of bodies up to which a parcel stores no weight: a claim assumes at least this much for every
/// parcel.
const MIN_PARCEL_WEIGHT: usize = 1024;

/// One inserted row.
#[derive(sqlx::FromRow)]
struct InsertedRow {
    id: i64,
    created_at: DateTime<Utc>,
    run_at: DateTime<Utc>,
    state: String,
}

/// Inserts the drafts that become new jobs and returns the initial state of each parcel. `parcels` are
/// those of the drafts without unique keys; drafts that hold a key get a parcel each.
pub(super) async fn insert_parcels(
    connection: &mut PgConnection,
    notify: bool,
    drafts: &mut [Draft],
    mut parcels: Vec<NewParcel>,
) -> Result<Vec<Inserted>, Error> {
    // A unique key refers to the first position of a parcel, so its job gets a parcel of its own.
    let keyed = drafts.iter().enumerate().filter(|(_, draft)| {
        draft.unique_key.is_some() && matches!(draft.placement, Placement::OwnParcel(_))
    });
    parcels.extend(keyed.map(|(index, draft)| NewParcel::single(draft.parcel_key, index)));
    if parcels.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows: Vec<Option<InsertedRow>> = Vec::new();
    rows.resize_with(parcels.len(), || None);
    let is_alone = parcels.len() == 1;
    for (index, parcel) in parcels.iter().enumerate() {
        let is_plain = !parcel.key.strict
            && parcel.key.expires_at.is_none()
            && first_draft(parcel, drafts)
                .is_some_and(|draft| matches!(draft.placement, Placement::Undecided));
        if is_plain && (is_alone || parcel.members.len() >= LARGE_PARCEL_JOBS) {
            let row = insert_large_parcel(connection, notify, parcel, drafts).await?;
            if let Some(slot) = rows.get_mut(index) {
                *slot = Some(row);
            }
        }
    }
    let small: Vec<usize> = (0..parcels.len())
        .filter(|index| rows.get(*index).is_some_and(Option::is_none))
        .collect();
    for small in small.chunks(MAX_PARCELS_PER_INSERT) {
        let inserted = insert_small_parcels(connection, notify, &parcels, small, drafts).await?;
        for (index, row) in small.iter().zip(inserted) {
            if let Some(slot) = rows.get_mut(*index) {
                *slot = Some(row);
            }
        }
    }
    let mut states = Vec::with_capacity(parcels.len());
    for (index, (parcel, row)) in parcels.iter().zip(rows).enumerate() {
        let row = row.ok_or(Error::Database(sqlx::Error::RowNotFound))?;
        for (position, member) in (0..).zip(&parcel.members) {
            if let Some(draft) = drafts.get_mut(*member) {
                draft.placement = Placement::New {
                    job: ids::member_of(row.id, position),
                    parcel: index,
                };
            }
        }
        states.push(Inserted {
            created_at: row.created_at,
            run_at: row.run_at,
            state: JobState::from_letter(&row.state)
                .map_err(|unknown| Error::corrupt(ids::job_of(row.id), unknown))?,
        });
    }
    Ok(states)
}

async fn insert_large_parcel(
    connection: &mut PgConnection,
    notify: bool,
    parcel: &NewParcel,
    drafts: &mut [Draft],
) -> Result<InsertedRow, Error> {
    let key = parcel.key;
    let weight = weight(parcel, drafts);
    Ok(query_as(include_str!("insert_parcel.sql"))
        .bind(key.tenant)
        .bind(key.lane)
        .bind(key.run_at)
        .bind(key.delay_ms)
        .bind(key.queue)
        .bind(key.kind)
        .bind(key.priority)
        .bind(key.max_attempts)
        .bind(take_bodies(std::iter::once(parcel), drafts))
        .bind(notify)
        .bind(weight)
        .fetch_one(connection)
        .await?)
}

async fn insert_small_parcels(
    connection: &mut PgConnection,
    notify: bool,
    parcels: &[NewParcel],
    small: &[usize],
    drafts: &mut [Draft],
) -> Result<Vec<InsertedRow>, Error> {
    let parcels: Vec<&NewParcel> = small
        .iter()
        .filter_map(|index| parcels.get(*index))
        .collect();
    let reserved_id =
        |parcel: &&NewParcel| match first_draft(parcel, drafts).map(|draft| &draft.placement) {
            Some(Placement::OwnParcel(id)) => Some(*id),
            _ => None,
        };
    let reserved_ids: Vec<Option<i64>> = parcels.iter().map(reserved_id).collect();
    let keyed: Vec<bool> = parcels
        .iter()
        .map(|parcel| first_draft(parcel, drafts).is_some_and(|draft| draft.unique_key.is_some()))
        .collect();
    let sizes: Vec<i16> = parcels
        .iter()
        .map(|parcel| i16::try_from(parcel.members.len()).unwrap_or(i16::MAX))
        .collect();
    let weights: Vec<Option<i32>> = parcels
        .iter()
        .map(|parcel| weight(parcel, drafts))
        .collect();
    let bodies = take_bodies(parcels.iter().copied(), drafts);
    Ok(query_as(include_str!("insert_parcels.sql"))
        .bind(column(&parcels, |key| key.tenant))
        .bind(reserved_ids)
        .bind(column(&parcels, |key| key.lane))
        .bind(column(&parcels, |key| key.run_at))
        .bind(column(&parcels, |key| key.delay_ms))
        .bind(column(&parcels, |key| key.queue))
        .bind(column(&parcels, |key| key.kind))
        .bind(column(&parcels, |key| key.priority))
        .bind(column(&parcels, |key| key.max_attempts))
        .bind(keyed)
        .bind(column(&parcels, |key| key.strict))
        .bind(sizes)
        .bind(bodies)
        .bind(notify)
        .bind(column(&parcels, |key| key.expires_at))
        .bind(weights)
        .fetch_all(connection)
        .await?)
}

fn first_draft<'a>(parcel: &NewParcel, drafts: &'a [Draft]) -> Option<&'a Draft> {
    parcel.members.first().and_then(|first| drafts.get(*first))
}

fn column<T>(parcels: &[&NewParcel], value: impl Fn(&ParcelKey) -> T) -> Vec<T> {
    parcels.iter().map(|parcel| value(&parcel.key)).collect()
}

/// Total bytes of a parcel's bodies, where that is more than claims assume anyway.
fn weight(parcel: &NewParcel, drafts: &[Draft]) -> Option<i32> {
    let drafts = parcel
        .members
        .iter()
        .filter_map(|member| drafts.get(*member));
    let bytes: usize = drafts.map(|draft| draft.body.len()).sum();
    (bytes > MIN_PARCEL_WEIGHT).then(|| i32::try_from(bytes).unwrap_or(i32::MAX))
}

/// Moves the bodies of the parcels' members out of their drafts, in the order of the members.
fn take_bodies<'a>(
    parcels: impl Iterator<Item = &'a NewParcel>,
    drafts: &mut [Draft],
) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    for member in parcels.flat_map(|parcel| &parcel.members) {
        if let Some(draft) = drafts.get_mut(*member) {
            bodies.push(std::mem::take(&mut draft.body));
        }
    }
    bodies
}

/// Inserts the labels (tag, unique key, ordering key) by which new jobs can be found.
pub(super) async fn insert_labels(
    connection: &mut PgConnection,
    jobs: &[(TenantId, NewJob)],
    drafts: &[Draft],
) -> Result<(), Error> {
    let (mut tenants, mut names, mut values, mut job_ids) = (vec![], vec![], vec![], vec![]);
    for ((_, job), draft) in jobs.iter().zip(drafts) {
        let Placement::New { job: id, .. } = draft.placement else {
            continue;
        };
        let tags = job.tags.iter().map(|tag| ("tag", tag.as_str()));
        let unique = job
            .unique
            .iter()
            .map(|unique| ("unique_key", unique.key.as_str()));
        let ordering = draft
            .parcel_key
            .strict
            .then(|| ("ordering_key", job.lane.key()));
        for (name, value) in tags.chain(unique).chain(ordering) {
            tenants.push(draft.parcel_key.tenant);
            names.push(name);
            values.push(value);
            job_ids.push(id.as_i64());
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    query(include_str!("insert_labels.sql"))
        .bind(&tenants)
        .bind(&names)
        .bind(&values)
        .bind(&job_ids)
        .execute(connection)
        .await?;
    Ok(())
}
