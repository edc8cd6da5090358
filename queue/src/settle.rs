//! Writes the outcomes of runs. No other module does.
//!
//! Takes claimed jobs with their [`Settlement`]s and writes them in one statement, fenced by lease and
//! token, together with follow-up jobs in the same transaction. What a settlement contains is decided
//! by [`crate::verdict`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use harkara_shared::database::{query, query_scalar};
use harkara_shared::duration::milliseconds;
use harkara_shared::id::TenantId;
use serde_json::Value;

use crate::claimed::{ClaimedJob, ClaimedParcel, ParcelKey};
use crate::engine::Engine;
use crate::enqueue::Quota;
use crate::error::Error;
use crate::job::{JobState, NewJob};
use crate::latency_histogram::LatencyHistograms;
use crate::verdict::{RETRY_PRIORITY, Settlement};

/// Maximum length of a stored error message, in bytes.
const MAX_MESSAGE_BYTES: usize = 2048;

/// How long a settlement waits for locks that its follow-up jobs need: less than the second after which
/// Postgres looks for a deadlock.
const FOLLOW_UP_LOCK_TIMEOUT: &str = "set local lock_timeout = '250ms'";

/// A row that is settled as a whole: all its unsettled members succeeded.
const FORM_WHOLE: &str = "w";
/// A row with a single member that did not succeed.
const FORM_SINGLE: &str = "s";
/// A part of a row with several members.
const FORM_PART: &str = "p";

/// The rows whose settlement was written.
pub(crate) type WrittenParcels = HashSet<ParcelKey>;

impl Engine {
    /// Writes settlements and returns the rows that were written. Nothing is written for the other rows:
    /// their lease has expired, so their claims are no longer valid.
    ///
    /// # Errors
    /// When a statement fails; then nothing is written.
    pub(crate) async fn settle(
        &self,
        runs: &[(ClaimedJob, Settlement)],
    ) -> Result<WrittenParcels, Error> {
        let rows = ParcelOutcomes::group(runs);
        let mut params = SettleParams::default();
        for (number, row) in (1..).zip(&rows) {
            params.push_row(number, row);
        }
        let latencies = LatencyHistograms::of(runs);
        let statement = query_scalar(include_str!("settle/settle.sql"))
            .bind(params.tenant)
            .bind(params.id)
            .bind(params.part)
            .bind(params.token)
            .bind(params.form)
            .bind(params.is_last)
            .bind(params.result)
            .bind(params.breaker_failures)
            .bind(params.park)
            .bind(params.success_row)
            .bind(params.success_member)
            .bind(params.success_result)
            .bind(params.other_row)
            .bind(params.other_member)
            .bind(params.other_job)
            .bind(params.other_state)
            .bind(params.other_wait)
            .bind(params.other_refund)
            .bind(params.other_deferral)
            .bind(params.other_priority)
            .bind(params.other_outcome)
            .bind(params.other_code)
            .bind(params.other_message)
            .bind(latencies.tenants)
            .bind(latencies.queues)
            .bind(latencies.kinds)
            .bind(latencies.waits)
            .bind(latencies.runs);
        // Without follow-up jobs the statement is its own transaction. The lanes of follow-up jobs are
        // interned before it: interning uses another connection, which must not wait for the locks of
        // this one.
        let mut has_follow_ups = false;
        for (job, settlement) in runs {
            for next in &settlement.follow_ups {
                self.interner().prepare(job.tenant, next).await?;
                has_follow_ups = true;
            }
        }
        let mut tx = None;
        let written_numbers: Vec<i32> = if has_follow_ups {
            let tx = tx.insert(self.pool().begin().await?);
            statement.fetch_one(&mut **tx).await?
        } else {
            statement.fetch_one(self.pool()).await?
        };
        self.schedule_rollup();
        let mut written_parcels = WrittenParcels::with_capacity(written_numbers.len());
        // One call per tenant, in the order of tenants: two settlements must not wait for each other's
        // unique keys.
        let mut follow_ups: BTreeMap<TenantId, Vec<NewJob>> = BTreeMap::new();
        for number in written_numbers {
            let Some(row) = row_by_number(&rows, number.unsigned_abs()) else {
                // The statement may be committed: settling again would return the same number.
                tracing::error!(
                    number,
                    rows = rows.len(),
                    "queue.settle returned a row that was not sent; ignored"
                );
                continue;
            };
            written_parcels.insert(row.parcel.key());
            if number < 0 {
                // An earlier call, whose response was lost, has written the row and its follow-up jobs.
                continue;
            }
            for (job, settlement) in &row.runs {
                if !settlement.follow_ups.is_empty() {
                    follow_ups
                        .entry(job.tenant)
                        .or_default()
                        .extend_from_slice(&settlement.follow_ups);
                }
            }
        }
        if let Some(mut tx) = tx {
            // Unique keys of new jobs are last in the lock order, but this transaction already holds
            // the keys of finished jobs, with lanes and limiters: a transaction that holds one of the
            // new keys may be waiting for these. The settlement gives up and is tried again, before
            // Postgres has to break a deadlock.
            query(FOLLOW_UP_LOCK_TIMEOUT).execute(&mut *tx).await?;
            for (tenant, jobs) in follow_ups {
                self.enqueue_all(&mut tx, tenant, jobs, Quota::Skip).await?;
            }
            tx.commit().await?;
        }
        for row in &rows {
            if written_parcels.contains(&row.parcel.key()) {
                let members = u32::try_from(row.runs.len()).unwrap_or(u32::MAX);
                row.parcel.mark_written(members);
            }
        }
        Ok(written_parcels)
    }
}

/// The row with this number, counted from 1.
fn row_by_number<'r, 'a>(
    rows: &'r [ParcelOutcomes<'a>],
    number: u32,
) -> Option<&'r ParcelOutcomes<'a>> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    rows.get(index)
}

/// The runs of one row that are settled together.
struct ParcelOutcomes<'a> {
    parcel: &'a Arc<ClaimedParcel>,
    runs: Vec<(&'a ClaimedJob, &'a Settlement)>,
}

impl<'a> ParcelOutcomes<'a> {
    /// Groups runs by row, in the order of [`ParcelKey`], in which all settlements take their locks.
    fn group(runs: &'a [(ClaimedJob, Settlement)]) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        let mut indexes: HashMap<ParcelKey, usize> = HashMap::new();
        for (job, settlement) in runs {
            let index = *indexes.entry(job.parcel.key()).or_insert_with(|| {
                rows.push(Self {
                    parcel: &job.parcel,
                    runs: Vec::new(),
                });
                rows.len() - 1
            });
            if let Some(row) = rows.get_mut(index) {
                row.runs.push((job, settlement));
            }
        }
        rows.sort_by_key(|row| row.parcel.key());
        rows
    }

    /// Whether these are the last unsettled members of the row.
    fn is_last(&self) -> bool {
        usize::try_from(self.parcel.unwritten()).is_ok_and(|unwritten| unwritten <= self.runs.len())
    }

    fn all_succeeded(&self) -> bool {
        self.runs
            .iter()
            .all(|(_, settlement)| succeeded(settlement))
    }

    /// The results of a row whose members all succeeded, one element for each member; `None` if no
    /// member has a result.
    fn results(&self) -> Option<Value> {
        if self
            .runs
            .iter()
            .all(|(_, settlement)| settlement.result.is_none())
        {
            return None;
        }
        let mut results = vec![Value::Null; usize::from(self.parcel.size.unsigned_abs())];
        for (job, settlement) in &self.runs {
            let index = usize::from(job.member.unsigned_abs()).wrapping_sub(1);
            if let (Some(slot), Some(result)) = (results.get_mut(index), &settlement.result) {
                *slot = without_nul(result.clone());
            }
        }
        Some(Value::Array(results))
    }
}

fn succeeded(settlement: &Settlement) -> bool {
    settlement.state == JobState::Succeeded
}

/// The parameters of the statement, one vector each. First those of rows. Then, unless the row is settled as a
/// whole, those of members that succeeded (`success_`) and of members with any other outcome (`other_`).
#[derive(Default)]
struct SettleParams {
    tenant: Vec<i32>,
    id: Vec<i64>,
    part: Vec<i16>,
    token: Vec<i64>,
    form: Vec<&'static str>,
    is_last: Vec<bool>,
    result: Vec<Option<Value>>,
    breaker_failures: Vec<i32>,
    park: Vec<Option<i64>>,
    success_row: Vec<i32>,
    success_member: Vec<i16>,
    success_result: Vec<Option<Value>>,
    other_row: Vec<i32>,
    other_member: Vec<i16>,
    other_job: Vec<i64>,
    other_state: Vec<&'static str>,
    other_wait: Vec<Option<i64>>,
    other_refund: Vec<bool>,
    other_deferral: Vec<bool>,
    other_priority: Vec<i16>,
    other_outcome: Vec<Option<&'static str>>,
    other_code: Vec<Option<String>>,
    other_message: Vec<Option<String>>,
}

impl SettleParams {
    fn push_row(&mut self, number: i32, row: &ParcelOutcomes<'_>) {
        let (form, result) = if row.is_last() && row.all_succeeded() {
            (FORM_WHOLE, row.results())
        } else if row.parcel.is_single() {
            (FORM_SINGLE, None)
        } else {
            (FORM_PART, None)
        };
        self.tenant.push(row.parcel.tenant);
        self.id.push(row.parcel.id);
        self.part.push(row.parcel.part);
        self.token.push(row.parcel.token);
        self.form.push(form);
        self.is_last.push(row.is_last());
        self.result.push(result);
        let settlements = || row.runs.iter().map(|(_, settlement)| settlement);
        let failures = settlements().filter(|settlement| settlement.breaker_failure);
        self.breaker_failures
            .push(i32::try_from(failures.count()).unwrap_or(i32::MAX));
        let park = settlements().filter_map(|settlement| settlement.park).max();
        self.park.push(park.map(milliseconds));
        if form == FORM_WHOLE {
            return;
        }
        for (job, settlement) in &row.runs {
            if succeeded(settlement) {
                self.success_row.push(number);
                self.success_member.push(job.member);
                let result = settlement.result.clone().filter(|result| !result.is_null());
                self.success_result.push(result.map(without_nul));
            } else {
                self.push_other(number, job, settlement);
            }
        }
    }

    fn push_other(&mut self, number: i32, job: &ClaimedJob, settlement: &Settlement) {
        self.other_row.push(number);
        self.other_member.push(job.member);
        self.other_job.push(job.id.as_i64());
        self.other_state.push(settlement.written_state().letter());
        self.other_wait.push(settlement.wait.map(milliseconds));
        self.other_refund.push(settlement.refund);
        self.other_deferral.push(settlement.deferral);
        let min_priority = if settlement.lower_priority {
            RETRY_PRIORITY
        } else {
            0
        };
        self.other_priority.push(i16::from(min_priority));
        self.other_outcome
            .push(settlement.outcome.map(|outcome| outcome.as_str()));
        let error = settlement.error.as_ref();
        self.other_code.push(error.map(|error| error.code.clone()));
        self.other_message
            .push(error.map(|error| storable_message(&error.message)));
    }
}

/// Text that Postgres can store: without NUL, at most [`MAX_MESSAGE_BYTES`] long, cut between
/// characters.
fn storable_message(message: &str) -> String {
    let mut text = message.replace('\0', "\u{fffd}");
    let mut end = text.len().min(MAX_MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// JSON that Postgres can store: `jsonb` does not allow the NUL character.
fn without_nul(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nul).collect()),
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .map(|(name, value)| (name.replace('\0', "\u{fffd}"), without_nul(value)))
                .collect(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests;
