//! Room: unique keys of new jobs.
//! Takes: drafts that want one. Gives: each a parcel id that holds its key, or the job that has it; and
//! ids in between to those that are to stand in line with them.
//! Never: decides a contended key by guessing: it is an error then.

use std::collections::HashMap;

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::JobId;
use sqlx::PgConnection;

use super::{Draft, Place};
use crate::error::Error;
use crate::ids;

/// Tenant, kind, key, and the job whose it is.
type KeyRow = (i32, i32, String, i64);

/// Gives every keyed draft a parcel id it holds its key with, or the job that holds it already.
pub(super) async fn take(connection: &mut PgConnection, drafts: &mut [Draft]) -> Result<(), Error> {
    if !drafts.iter().any(Draft::wants_key) {
        return Ok(());
    }
    let in_line = |draft: &Draft| draft.shared.strict && matches!(draft.place, Place::Wanted);
    let count = drafts.iter().filter(|one| one.wants_key() || in_line(one));
    let ids: Vec<i64> = query_scalar(include_str!("../sql/next_parcel_ids.sql"))
        .bind(i32::try_from(count.count()).unwrap_or(i32::MAX))
        .fetch_all(&mut *connection)
        .await?;
    let (mut ids, mut parcels) = (ids.into_iter(), Vec::new());
    let mut wanted: Vec<&mut Draft> = Vec::new();
    for draft in drafts.iter_mut() {
        if draft.wants_key() {
            parcels.extend(ids.next());
            wanted.push(draft);
        } else if in_line(draft)
            && let Some(parcel) = ids.next()
        {
            draft.place = Place::Own(parcel);
        }
    }
    let holds: Vec<Option<i64>> = wanted
        .iter()
        .map(|draft| draft.key.as_ref().and_then(|key| key.hold_ms))
        .collect();
    let jobs: Vec<i64> = parcels.iter().map(|id| ids::job_of(*id).as_i64()).collect();
    let names = Names::of(&wanted);
    let rows: Vec<KeyRow> = query_as(include_str!("../sql/take_unique_keys.sql"))
        .bind(names.tenants)
        .bind(names.kinds)
        .bind(names.keys)
        .bind(jobs)
        .bind(holds)
        .fetch_all(&mut *connection)
        .await?;
    place(&mut wanted, &parcels, rows);

    // What a neighbour took between the statement's first look and its own turn.
    wanted.retain(|draft| matches!(draft.place, Place::Wanted));
    if wanted.is_empty() {
        return Ok(());
    }
    let names = Names::of(&wanted);
    let rows: Vec<KeyRow> = query_as(include_str!("../sql/find_unique_keys.sql"))
        .bind(names.tenants)
        .bind(names.kinds)
        .bind(names.keys)
        .fetch_all(&mut *connection)
        .await?;
    place(&mut wanted, &[], rows);
    match wanted
        .iter()
        .find(|draft| matches!(draft.place, Place::Wanted))
    {
        None => Ok(()),
        Some(draft) => Err(Error::Contended(draft.key_text())),
    }
}

/// The keys of drafts, column by column.
struct Names {
    tenants: Vec<i32>,
    kinds: Vec<i32>,
    keys: Vec<String>,
}

impl Names {
    fn of(drafts: &[&mut Draft]) -> Self {
        Self {
            tenants: drafts.iter().map(|draft| draft.shared.tenant).collect(),
            kinds: drafts.iter().map(|draft| draft.shared.kind).collect(),
            keys: drafts.iter().map(|draft| draft.key_text()).collect(),
        }
    }
}

/// Gives the drafts their places: their own parcel where the key is theirs, or the job that has it.
fn place(drafts: &mut [&mut Draft], parcels: &[i64], rows: Vec<KeyRow>) {
    let owners: HashMap<(i32, i32, String), JobId> = rows
        .into_iter()
        .map(|(tenant, kind, key, job)| ((tenant, kind, key), JobId::from_i64(job)))
        .collect();
    for (index, draft) in drafts.iter_mut().enumerate() {
        let name = (draft.shared.tenant, draft.shared.kind, draft.key_text());
        let Some(owner) = owners.get(&name) else {
            continue;
        };
        draft.place = match parcels.get(index) {
            Some(parcel) if ids::job_of(*parcel) == *owner => Place::Own(*parcel),
            _ => Place::Existing(*owner),
        };
    }
}
