//! Decides the unique keys of new jobs.
//!
//! Each draft with a key gets either a parcel id under which it holds the key, or the job that holds
//! the key already. Drafts of ordered lanes enqueued beside them get parcel ids in between, so that
//! ids keep the order of the call. A key whose holder keeps changing is an error, never a guess.

use std::collections::HashMap;

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::JobId;
use sqlx::PgConnection;

use super::draft::{Draft, Placement};
use crate::error::Error;
use crate::ids;

/// Tenant, kind and key, with the job that holds the key.
type HolderRow = (i32, i32, String, i64);

/// Places every draft that has a unique key: [`Placement::OwnParcel`] if it now holds the key,
/// [`Placement::Existing`] if another job does.
pub(super) async fn take(connection: &mut PgConnection, drafts: &mut [Draft]) -> Result<(), Error> {
    if !drafts.iter().any(Draft::needs_key) {
        return Ok(());
    }
    let is_ordered =
        |draft: &Draft| draft.parcel_key.strict && matches!(draft.placement, Placement::Undecided);
    let count = drafts
        .iter()
        .filter(|draft| draft.needs_key() || is_ordered(draft));
    let ids: Vec<i64> = query_scalar(include_str!("next_parcel_ids.sql"))
        .bind(i32::try_from(count.count()).unwrap_or(i32::MAX))
        .fetch_all(&mut *connection)
        .await?;
    let (mut ids, mut parcels) = (ids.into_iter(), Vec::new());
    let mut keyed: Vec<&mut Draft> = Vec::new();
    for draft in drafts.iter_mut() {
        if draft.needs_key() {
            parcels.extend(ids.next());
            keyed.push(draft);
        } else if is_ordered(draft)
            && let Some(parcel) = ids.next()
        {
            draft.placement = Placement::OwnParcel(parcel);
        }
    }
    let holds: Vec<Option<i64>> = keyed
        .iter()
        .map(|draft| draft.unique_key.as_ref().and_then(|key| key.hold_ms))
        .collect();
    let jobs: Vec<i64> = parcels.iter().map(|id| ids::job_of(*id).as_i64()).collect();
    let columns = KeyColumns::of(&keyed);
    let rows: Vec<HolderRow> = query_as(include_str!("take_unique_keys.sql"))
        .bind(columns.tenants)
        .bind(columns.kinds)
        .bind(columns.keys)
        .bind(jobs)
        .bind(holds)
        .fetch_all(&mut *connection)
        .await?;
    place(&mut keyed, &parcels, rows);

    // Keys that another transaction took after the statement above had started: the insert waited for
    // it, so the holder is committed and can be read now.
    keyed.retain(|draft| matches!(draft.placement, Placement::Undecided));
    if keyed.is_empty() {
        return Ok(());
    }
    let columns = KeyColumns::of(&keyed);
    let rows: Vec<HolderRow> = query_as(include_str!("find_unique_keys.sql"))
        .bind(columns.tenants)
        .bind(columns.kinds)
        .bind(columns.keys)
        .fetch_all(&mut *connection)
        .await?;
    place(&mut keyed, &[], rows);
    match keyed
        .iter()
        .find(|draft| matches!(draft.placement, Placement::Undecided))
    {
        None => Ok(()),
        Some(draft) => Err(draft.not_placed()),
    }
}

/// The identities of drafts' unique keys, column by column.
struct KeyColumns {
    tenants: Vec<i32>,
    kinds: Vec<i32>,
    keys: Vec<String>,
}

impl KeyColumns {
    fn of(drafts: &[&mut Draft]) -> Self {
        let mut columns = Self {
            tenants: Vec::with_capacity(drafts.len()),
            kinds: Vec::with_capacity(drafts.len()),
            keys: Vec::with_capacity(drafts.len()),
        };
        for (tenant, kind, key) in drafts.iter().filter_map(|draft| identity(draft)) {
            columns.tenants.push(tenant);
            columns.kinds.push(kind);
            columns.keys.push(key);
        }
        columns
    }
}

/// Tenant, kind and text of a draft's unique key.
fn identity(draft: &Draft) -> Option<(i32, i32, String)> {
    let key = draft.unique_key.as_ref()?;
    Some((
        draft.parcel_key.tenant,
        draft.parcel_key.kind,
        key.text.clone(),
    ))
}

/// Sets the placement of each draft whose holder is among `rows`. `parcels` are the ids that were
/// offered for the drafts, in their order.
fn place(drafts: &mut [&mut Draft], parcels: &[i64], rows: Vec<HolderRow>) {
    let holders: HashMap<(i32, i32, String), JobId> = rows
        .into_iter()
        .map(|(tenant, kind, key, job)| ((tenant, kind, key), JobId::from_i64(job)))
        .collect();
    for (index, draft) in drafts.iter_mut().enumerate() {
        let Some(holder) = identity(draft).and_then(|identity| holders.get(&identity)) else {
            continue;
        };
        draft.placement = match parcels.get(index) {
            Some(parcel) if ids::job_of(*parcel) == *holder => Placement::OwnParcel(*parcel),
            _ => Placement::Existing(*holder),
        };
    }
}
