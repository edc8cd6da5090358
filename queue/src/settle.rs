//! Room: settle, the only writer of how a run ended.
//! Takes: [`Settlement`]s with the claims they belong to. Gives: one fenced write, follow-up jobs in
//! the same transaction. Never: decides (that is `verdict`), calls a handler.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use harkara_shared::database::{query, query_scalar};
use harkara_shared::duration::milliseconds;
use harkara_shared::id::TenantId;
use serde_json::Value;

use crate::claim::{Claimed, Parcel};
use crate::engine::Engine;
use crate::enqueue::Quota;
use crate::error::Error;
use crate::job::{JobState, NewJob};
use crate::times::Times;
use crate::verdict::{RETRY_PRIORITY, Settlement};

/// Longest error message kept, in bytes.
const MAX_MESSAGE: usize = 2048;

/// How long a settlement waits for what it needs for the jobs that follow: less than Postgres takes to
/// look for a deadlock.
const GIVE_WAY: &str = "set local lock_timeout = '250ms'";

/// What names a row and the claim of it.
pub(crate) type Key = (i32, i64, i16, i64);

/// The rows whose settlement was written, by [`Parcel::key`].
pub(crate) type Written = HashSet<Key>;

impl Engine {
    /// Writes the settlements of claims whose fence still holds and answers the rows written. The
    /// others were lost with their lease: nothing of them is written.
    ///
    /// # Errors
    /// When the database refuses; then nothing at all is written.
    pub(crate) async fn settle(&self, endings: &[(Claimed, Settlement)]) -> Result<Written, Error> {
        let rows = Row::all(endings);
        let mut columns = Columns::default();
        for (place, row) in (1..).zip(&rows) {
            columns.put(place, row);
        }
        let times = Times::of(endings);
        let statement = query_scalar(include_str!("sql/settle.sql"))
            .bind(columns.tenant)
            .bind(columns.id)
            .bind(columns.part)
            .bind(columns.token)
            .bind(columns.form)
            .bind(columns.last)
            .bind(columns.result)
            .bind(columns.faults)
            .bind(columns.park)
            .bind(columns.a_row)
            .bind(columns.a_member)
            .bind(columns.a_result)
            .bind(columns.e_row)
            .bind(columns.e_member)
            .bind(columns.e_job)
            .bind(columns.e_state)
            .bind(columns.e_wait)
            .bind(columns.e_refund)
            .bind(columns.e_deferral)
            .bind(columns.e_priority)
            .bind(columns.e_outcome)
            .bind(columns.e_code)
            .bind(columns.e_message)
            .bind(times.tenants)
            .bind(times.queues)
            .bind(times.kinds)
            .bind(times.waits)
            .bind(times.runs);
        // One statement is its own transaction, unless jobs follow. Their lanes are made sure of
        // before: that is done on another connection, which must not wait for the locks of this one.
        let mut follows = false;
        for (job, end) in endings {
            for next in &end.follow_ups {
                self.interner().prepare(job.tenant, next).await?;
                follows = true;
            }
        }
        let mut tx = None;
        let places: Vec<i32> = if follows {
            let tx = tx.insert(self.pool().begin().await?);
            statement.fetch_one(&mut **tx).await?
        } else {
            statement.fetch_one(self.pool()).await?
        };
        self.schedule_rollup();
        let mut written = Written::with_capacity(places.len());
        // One call a tenant, tenants in one order: two settlements must not wait for each other's
        // unique keys.
        let mut then: BTreeMap<TenantId, Vec<NewJob>> = BTreeMap::new();
        for place in places {
            let index = usize::try_from(place.unsigned_abs()).unwrap_or_default();
            let Some(row) = rows.get(index.wrapping_sub(1)) else {
                continue;
            };
            written.insert(row.parcel.key());
            if place < 0 {
                // Written by an earlier call whose answer was lost, together with what follows.
                continue;
            }
            for (job, end) in &row.endings {
                if !end.follow_ups.is_empty() {
                    then.entry(job.tenant)
                        .or_default()
                        .extend_from_slice(&end.follow_ups);
                }
            }
        }
        if let Some(mut tx) = tx {
            // Keys of new jobs come last in the order of locks, but keys of those that ended are held
            // already, with lanes and limiters: whoever has one of the new keys may be waiting for them.
            // This is the one to give way, and to come again, before a deadlock has to be broken.
            query(GIVE_WAY).execute(&mut *tx).await?;
            for (tenant, jobs) in then {
                self.enqueue_all(&mut tx, tenant, jobs, Quota::Skip).await?;
            }
            tx.commit().await?;
        }
        for row in &rows {
            if written.contains(&row.parcel.key()) {
                let members = u32::try_from(row.endings.len()).unwrap_or(u32::MAX);
                row.parcel.wrote(members);
            }
        }
        Ok(written)
    }
}

/// The endings that meet in one row.
struct Row<'a> {
    parcel: &'a Arc<Parcel>,
    endings: Vec<(&'a Claimed, &'a Settlement)>,
}

impl<'a> Row<'a> {
    /// The rows in the order of their keys, in which all settlements take their locks.
    fn all(endings: &'a [(Claimed, Settlement)]) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        let mut places: HashMap<Key, usize> = HashMap::new();
        for (job, end) in endings {
            let place = *places.entry(job.parcel.key()).or_insert_with(|| {
                rows.push(Self {
                    parcel: &job.parcel,
                    endings: Vec::new(),
                });
                rows.len() - 1
            });
            if let Some(row) = rows.get_mut(place) {
                row.endings.push((job, end));
            }
        }
        rows.sort_by_key(|row| row.parcel.key());
        rows
    }

    /// Whether nothing is left of the row after these.
    fn is_last(&self) -> bool {
        usize::try_from(self.parcel.left()).is_ok_and(|left| left <= self.endings.len())
    }

    fn all_well(&self) -> bool {
        self.endings.iter().all(|(_, end)| is_well(end))
    }

    /// The results of a row that ends well, one element a member, if any member has one.
    fn results(&self) -> Option<Value> {
        if self.endings.iter().all(|(_, end)| end.result.is_none()) {
            return None;
        }
        let mut results = vec![Value::Null; usize::try_from(self.parcel.size).unwrap_or_default()];
        for (job, end) in &self.endings {
            let index = usize::try_from(job.member)
                .unwrap_or_default()
                .wrapping_sub(1);
            if let (Some(slot), Some(result)) = (results.get_mut(index), &end.result) {
                *slot = storable(result.clone());
            }
        }
        Some(Value::Array(results))
    }
}

fn is_well(end: &Settlement) -> bool {
    end.state == JobState::Succeeded
}

/// The parameters of the statement.
#[derive(Default)]
struct Columns {
    tenant: Vec<i32>,
    id: Vec<i64>,
    part: Vec<i16>,
    token: Vec<i64>,
    form: Vec<&'static str>,
    last: Vec<bool>,
    result: Vec<Option<Value>>,
    faults: Vec<i32>,
    park: Vec<Option<i64>>,
    a_row: Vec<i32>,
    a_member: Vec<i16>,
    a_result: Vec<Option<Value>>,
    e_row: Vec<i32>,
    e_member: Vec<i16>,
    e_job: Vec<i64>,
    e_state: Vec<&'static str>,
    e_wait: Vec<Option<i64>>,
    e_refund: Vec<bool>,
    e_deferral: Vec<bool>,
    e_priority: Vec<i16>,
    e_outcome: Vec<Option<&'static str>>,
    e_code: Vec<Option<String>>,
    e_message: Vec<Option<String>>,
}

impl Columns {
    fn put(&mut self, place: i32, row: &Row<'_>) {
        let (form, result) = if row.is_last() && row.all_well() {
            ("w", row.results())
        } else if row.parcel.is_single() {
            ("s", None)
        } else {
            ("p", None)
        };
        self.tenant.push(row.parcel.tenant);
        self.id.push(row.parcel.id);
        self.part.push(row.parcel.part);
        self.token.push(row.parcel.token);
        self.form.push(form);
        self.last.push(row.is_last());
        self.result.push(result);
        let faults = row.endings.iter().filter(|(_, end)| end.fault).count();
        self.faults.push(i32::try_from(faults).unwrap_or(i32::MAX));
        let park = row.endings.iter().filter_map(|(_, end)| end.park).max();
        self.park.push(park.map(milliseconds));
        if form == "w" {
            return;
        }
        for (job, end) in &row.endings {
            if is_well(end) {
                self.a_row.push(place);
                self.a_member.push(job.member);
                self.a_result
                    .push(end.result.clone().filter(|r| !r.is_null()).map(storable));
            } else {
                self.put_ending(place, job, end);
            }
        }
    }

    fn put_ending(&mut self, place: i32, job: &Claimed, end: &Settlement) {
        self.e_row.push(place);
        self.e_member.push(job.member);
        self.e_job.push(job.id.as_i64());
        self.e_state.push(end.written_state().letter());
        self.e_wait.push(end.wait.map(milliseconds));
        self.e_refund.push(end.refund);
        self.e_deferral.push(end.deferral);
        let least = if end.lower_priority {
            RETRY_PRIORITY
        } else {
            0
        };
        self.e_priority.push(i16::from(least));
        self.e_outcome
            .push(end.outcome.map(|outcome| outcome.as_str()));
        let error = end.error.as_ref();
        self.e_code.push(error.map(|error| error.code.clone()));
        self.e_message.push(error.map(|error| cut(&error.message)));
    }
}

/// Text that Postgres takes: no NUL, at most [`MAX_MESSAGE`] bytes, cut between characters.
fn cut(message: &str) -> String {
    let mut text = message.replace('\0', "\u{fffd}");
    let mut end = text.len().min(MAX_MESSAGE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// JSON that Postgres takes: jsonb has no NUL character.
fn storable(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(items) => Value::Array(items.into_iter().map(storable).collect()),
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .map(|(name, value)| (name.replace('\0', "\u{fffd}"), storable(value)))
                .collect(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests;
