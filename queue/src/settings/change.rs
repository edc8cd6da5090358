//! Room: changes of limits.
//! Takes: what is to change at limiters. Gives: the statements that do it, in one transaction, and the
//! count of what runs already. Never: waits for a parcel while it holds a limiter.

use std::time::Duration;

use harkara_shared::database::{query, query_as, query_scalar};
use harkara_shared::duration::HumanDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::{InvalidLimit, Limit, Rate, SettingsError};
use crate::engine::Engine;

/// How often rows are looked at again that were in other hands when running jobs were counted.
const LOOKS: usize = 100;

/// How long until they are looked at again: they are held for one statement.
const BETWEEN: Duration = Duration::from_millis(10);

/// What becomes of one member. As JSON: not there, null, or a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// It goes.
    Remove,
    /// It becomes this.
    Set(T),
}

impl<T> Change<T> {
    /// The same change of what `change` makes of the value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Self::Keep => Change::Keep,
            Self::Remove => Change::Remove,
            Self::Set(value) => Change::Set(change(value)),
        }
    }

    /// Whether nothing is to change.
    pub fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// The value, if there is a new one.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Remove => None,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Remove, Self::Set))
    }
}

impl<T: Serialize> Serialize for Change<T> {
    /// As it is read. What stays is for the member to be left out by [`Change::is_keep`].
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Keep | Self::Remove => serializer.serialize_none(),
            Self::Set(value) => serializer.serialize_some(value),
        }
    }
}

fn in_words<S: Serializer>(per: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    per.map(HumanDuration).serialize(serializer)
}

/// What is to change of a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LimitChange {
    /// Starts in `per`; without it there is no rate.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub rate: Change<u32>,
    /// The time in which they are counted: needed when there was no rate.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "in_words")]
    pub per: Option<Duration>,
    /// Starts at once, after a rest. When removed or never given, [`Rate::default_burst`].
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub burst: Change<u32>,
    /// Jobs running at once.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub max_running: Change<u32>,
}

impl LimitChange {
    /// That nothing is limited any more.
    #[must_use]
    pub fn removal() -> Self {
        Self {
            rate: Change::Remove,
            per: None,
            burst: Change::Remove,
            max_running: Change::Remove,
        }
    }

    /// Just this rate.
    #[must_use]
    pub fn rate(rate: Rate) -> Self {
        Self {
            rate: Change::Set(rate.count),
            per: Some(rate.per),
            burst: Change::Set(rate.burst),
            max_running: Change::Keep,
        }
    }

    /// Whether jobs that run already are to be counted.
    pub(super) fn counts(&self) -> bool {
        matches!(self.max_running, Change::Set(_))
    }

    /// Whether nothing is to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether something new is to hold, so that there must be a limiter.
    pub(super) fn sets_something(&self) -> bool {
        matches!(self.rate, Change::Set(_))
            || matches!(self.burst, Change::Set(_))
            || matches!(self.max_running, Change::Set(_))
            || self.per.is_some()
    }

    fn to_json(self) -> Value {
        let mut members = Map::new();
        let changes = [
            ("count", self.rate),
            ("burst", self.burst),
            ("max_running", self.max_running),
        ];
        for (name, change) in changes {
            match change {
                Change::Keep => continue,
                Change::Remove => members.insert(name.to_owned(), Value::Null),
                Change::Set(number) => members.insert(name.to_owned(), number.into()),
            };
        }
        if let Some(per) = self.per {
            members.insert("period".to_owned(), microseconds(per).into());
        }
        members.into()
    }
}

/// Whole microseconds, as intervals are kept.
pub(super) fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A limit's columns.
#[derive(sqlx::FromRow)]
pub(super) struct LimitRow {
    max_running: Option<i32>,
    running: Option<i32>,
    rate_count: Option<i32>,
    rate_period: Option<i64>,
    rate_burst: Option<i32>,
}

impl From<LimitRow> for Limit {
    fn from(row: LimitRow) -> Self {
        let rate = match (row.rate_count, row.rate_period, row.rate_burst) {
            (Some(count), Some(period), Some(burst)) => Some(Rate {
                count: natural(count),
                per: Duration::from_micros(u64::try_from(period).unwrap_or_default()),
                burst: natural(burst),
            }),
            _ => None,
        };
        Self {
            rate,
            max_running: row.max_running.map(natural),
            running: row
                .max_running
                .and(row.running)
                .map(natural)
                .unwrap_or_default(),
        }
    }
}

/// A number of a column that holds none below zero.
pub(super) fn natural(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

/// A limiter and what is to change there.
#[derive(Debug, Clone)]
pub(super) struct LimiterChange {
    pub(super) limiter: i64,
    pub(super) key: Option<String>,
    pub(super) change: LimitChange,
}

/// Changes one limiter after another, all locked beforehand in the order of everybody. Answers the limiters
/// at which rows were passed over when running jobs were counted; `None`, with nothing changed, when a
/// limiter that nobody used was removed meanwhile.
pub(super) async fn change_limiters(
    connection: &mut PgConnection,
    changes: &[LimiterChange],
) -> Result<Option<Vec<i64>>, SettingsError> {
    let limiters: Vec<i64> = changes.iter().map(|change| change.limiter).collect();
    let locked = query(include_str!("../sql/lock_limiters.sql"))
        .bind(&limiters)
        .fetch_all(&mut *connection)
        .await?;
    if locked.len() < limiters.len() {
        return Ok(None);
    }
    let mut unfinished = Vec::new();
    for LimiterChange {
        limiter,
        key,
        change,
    } in changes
    {
        let (fault, passed_over): (Option<String>, i32) =
            query_as(include_str!("../sql/set_limit.sql"))
                .bind(limiter)
                .bind(change.to_json())
                .fetch_one(&mut *connection)
                .await?;
        let member = match fault.as_deref() {
            None => None,
            Some("burst") => Some(InvalidLimit::BurstWithoutRate),
            Some(_) if change.per.is_some() => Some(InvalidLimit::PerWithoutRate),
            Some(_) => Some(InvalidLimit::PerMissing),
        };
        if let Some(member) = member {
            return Err(SettingsError::InvalidLimit {
                key: key.clone(),
                member,
            });
        }
        if passed_over > 0 {
            unfinished.push(*limiter);
        }
    }
    Ok(Some(unfinished))
}

impl Engine {
    /// Counts the running jobs that were passed over, until none is. A claim that began before the limiter
    /// `made` was there has jobs that nobody counted: it is waited for.
    pub(super) async fn after_change(
        &self,
        mut unfinished: Vec<i64>,
        made: Option<i64>,
    ) -> Result<(), SettingsError> {
        if let Some(limiter) = made {
            query(include_str!("../sql/let_claims_end.sql"))
                .execute(self.pool())
                .await?;
            unfinished.retain(|other| *other != limiter);
            unfinished.push(limiter);
        }
        for _ in 0..LOOKS {
            let Some(limiter) = unfinished.last() else {
                break;
            };
            let passed_over: i32 = query_scalar(include_str!("../sql/count_running.sql"))
                .bind(limiter)
                .fetch_one(self.pool())
                .await?;
            if passed_over == 0 {
                unfinished.pop();
            } else {
                tokio::time::sleep(BETWEEN).await;
            }
        }
        Ok(())
    }

    /// Has workers look at once, when the transaction commits: those of a queue, or of all queues in
    /// which a tenant has lanes.
    pub(super) async fn wake(
        &self,
        connection: &mut PgConnection,
        queue: Option<i32>,
        tenant: Option<i32>,
    ) -> Result<(), sqlx::Error> {
        if self.notify() {
            query(include_str!("../sql/wake.sql"))
                .bind(queue)
                .bind(tenant)
                .execute(connection)
                .await?;
        }
        Ok(())
    }
}
