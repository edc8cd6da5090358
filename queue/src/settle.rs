//! Room: settle, the only writer of how a run ended.
//! Takes: [`Settlement`]s with the claims they belong to. Gives: one fenced write, follow-up jobs in
//! the same transaction. Never: decides (that is `verdict`), calls a handler.

use std::collections::{BTreeMap, HashSet};

use harkara_shared::database::query_as;
use harkara_shared::duration::milliseconds;
use harkara_shared::id::TenantId;
use serde_json::Value;

use crate::claim::Claimed;
use crate::engine::{Engine, Error};
use crate::job::NewJob;
use crate::verdict::Settlement;

/// Longest error message kept, in bytes.
const MAX_MESSAGE: usize = 2048;

impl Engine {
    /// Writes the settlements of claims whose fence still holds and answers the parcels written, each
    /// with the token it was claimed by. The others were lost with their lease: nothing of them is
    /// written.
    ///
    /// # Errors
    /// When the database refuses; then nothing at all is written.
    pub(crate) async fn settle(
        &self,
        endings: &[(Claimed, Settlement)],
    ) -> Result<HashSet<(i64, i64)>, Error> {
        let mut tx = self.pool().begin().await?;
        let written: Vec<(i64, i64)> = query_as(include_str!("sql/settle.sql"))
            .bind(column(endings, |job, _| job.parcel))
            .bind(column(endings, |job, _| job.token))
            .bind(column(endings, |job, _| job.id.as_i64()))
            .bind(column(endings, |_, end| end.written_state().letter()))
            .bind(column(endings, |_, end| end.wait.map(milliseconds)))
            .bind(column(endings, |_, end| end.refund))
            .bind(column(endings, |_, end| end.deferral))
            .bind(column(endings, |_, end| {
                end.outcome.map(|outcome| outcome.word())
            }))
            .bind(column(endings, |_, end| {
                end.error.as_ref().map(|error| error.code.clone())
            }))
            .bind(column(endings, |_, end| {
                end.error.as_ref().map(|error| cut(&error.message))
            }))
            .bind(column(endings, |_, end| end.result.clone().map(storable)))
            .fetch_all(&mut *tx)
            .await?;
        let written: HashSet<(i64, i64)> = written.into_iter().collect();
        // One call a tenant, tenants in one order: two settlements must not wait for each other's
        // unique keys.
        let mut then: BTreeMap<TenantId, Vec<NewJob>> = BTreeMap::new();
        for (job, end) in endings {
            if written.contains(&(job.parcel, job.token)) && !end.then.is_empty() {
                then.entry(job.tenant)
                    .or_default()
                    .extend_from_slice(&end.then);
            }
        }
        for (tenant, jobs) in then {
            self.enqueue_all(&mut tx, tenant, jobs).await?;
        }
        tx.commit().await?;
        Ok(written)
    }
}

fn column<T>(
    endings: &[(Claimed, Settlement)],
    value: impl Fn(&Claimed, &Settlement) -> T,
) -> Vec<T> {
    endings.iter().map(|(job, end)| value(job, end)).collect()
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
