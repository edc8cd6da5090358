//! Room: how limits, lanes and queues are steered while jobs run.
//! Takes: a queue, a tenant, a limit or a lane, and what is to change. Gives: it changed, for the next
//! claim of every worker, and what holds now. Never: decides who may; runs in a tenant's transaction.

mod change;
mod lanes;
mod queues;
mod tenants;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::id::TenantId;
use serde::Serialize;

pub use change::{Change, LimitChange};
pub use tenants::set_tier_limits;

use crate::error;
use crate::job::LimitUse;

/// Most limits that a tenant may have set for its keys.
pub const MAX_TENANT_LIMITS: usize = 1000;

/// The largest rate, burst and number of running jobs.
pub const MAX_LIMIT_VALUE: u32 = 1_000_000;

/// The largest number of jobs that may wait.
pub const MAX_WAITING_JOBS: u32 = 1_000_000_000;

/// The shortest and the longest time in which starts are counted: a second, 31 days.
pub const RATE_PERIODS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(31 * 24 * 60 * 60);

/// Whether `text` may be the key of a lane or a limit: 1 to 256 characters, none of them a control
/// character.
#[must_use]
pub fn is_key(text: &str) -> bool {
    (1..=256).contains(&text.chars().count()) && !text.contains(char::is_control)
}

/// What passes a limiter: starts in a time, jobs running at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limit {
    /// How many jobs may start in a time.
    pub rate: Option<Rate>,
    /// How many jobs may run at once.
    pub max_running: Option<u32>,
    /// How many run. Counted while `max_running` is set.
    pub running: u32,
}

/// In any window of `per` at most `count + burst` jobs start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Starts in `per`.
    pub count: u32,
    /// The time.
    pub per: Duration,
    /// Starts at once, after a rest.
    pub burst: u32,
}

impl Rate {
    /// The burst of a rate that was given none: a tenth of the count, at least 1.
    #[must_use]
    pub const fn default_burst(count: u32) -> u32 {
        let tenth = count / 10;
        if tenth == 0 { 1 } else { tenth }
    }

    /// How many jobs start in a time other than `per`, rounded down.
    #[must_use]
    pub fn count_in(self, time: Duration) -> u64 {
        let per = self.per.as_micros().max(1);
        u64::try_from(u128::from(self.count) * time.as_micros() / per).unwrap_or(u64::MAX)
    }
}

/// A queue, which all tenants share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// Number.
    pub id: i32,
    /// Name.
    pub name: String,
    /// Whether nobody's jobs start.
    pub paused: bool,
    /// What holds for the jobs of all tenants together.
    pub limit: Limit,
}

/// Whose queues are looked at.
#[derive(Debug, Clone, Copy)]
pub enum QueueView<'a> {
    /// All there are.
    All,
    /// Those that a tenant may know of: it has lanes in them, or everybody knows their names.
    VisibleTo(TenantId, &'a [&'a str]),
}

/// What holds for a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSettings {
    /// Its share beside other tenants, 1 to 1000.
    pub weight: u16,
    /// Whether none of its jobs start.
    pub paused: bool,
    /// Most jobs that may wait, scheduled and ready together: more are not enqueued.
    pub max_waiting: Option<u32>,
    /// How many wait. Counted while `max_waiting` is set.
    pub waiting: u64,
    /// What holds for all its jobs together.
    pub limit: Limit,
    /// What holds for jobs that name a key.
    pub limits: BTreeMap<String, Limit>,
}

/// What is to change for a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TenantChange {
    /// Its share beside other tenants; 1 when removed.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub weight: Change<u16>,
    /// Whether its jobs wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Most jobs that may wait, 1 to [`MAX_WAITING_JOBS`].
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub max_waiting: Change<u32>,
    /// What holds for all its jobs together.
    pub limit: LimitChange,
    /// What holds for jobs that name a key; removed as a whole by [`LimitChange::removal`].
    pub limits: BTreeMap<String, LimitChange>,
}

/// A lane of a tenant in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSettings {
    /// Number.
    pub id: i64,
    /// Key; empty for the default lane.
    pub key: String,
    /// Whether its jobs run strictly one after another.
    pub ordered: bool,
    /// Its share beside the tenant's other lanes, 1 to 1000.
    pub weight: u16,
    /// Whether none of its jobs start, for somebody wants it so.
    pub paused: bool,
    /// Until when none of its jobs start, for the other side wants it so or the breaker is open.
    pub parked_until: Option<DateTime<Utc>>,
    /// When it stops by itself.
    pub breaker: Option<Breaker>,
    /// Whether it has.
    pub breaker_state: BreakerState,
    /// Failures within the breaker's window, and until it closes those that opened it and those of trials.
    /// Counted while there is a breaker.
    pub failures: u32,
    /// What holds for this lane.
    pub limit: Limit,
    /// The limits its jobs name.
    pub named: Vec<LimitUse>,
}

/// Stops a lane of whose runs too many fail. A window begins with a failure; it counts runs that fail in a
/// way that may pass, and those that succeed. A failure opens the breaker when enough runs are counted and
/// enough of them failed. Then one job is tried after each rest, until one succeeds and closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Fewest runs of a window that open it, at least 1. With a share of 100: failures in a row.
    pub failures: u32,
    /// How many percent of them must have failed, 1 to 100. With 100 each success ends the window.
    pub share: u8,
    /// How long a window lasts.
    pub window: Duration,
    /// How long it stays open until one job is tried.
    pub rest: Duration,
}

impl Breaker {
    /// How long a window lasts unless somebody says otherwise.
    pub const WINDOW: Duration = Duration::from_secs(5 * 60);

    /// One that so many failures in a row open.
    #[must_use]
    pub fn consecutive(failures: u32, rest: Duration) -> Self {
        Self {
            failures,
            share: 100,
            window: Self::WINDOW,
            rest,
        }
    }
}

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Jobs run.
    Closed,
    /// None runs.
    Open,
    /// One runs, to see.
    HalfOpen,
}

/// What is to change for a lane.
#[derive(Debug, Clone, Default)]
pub struct LaneChange {
    /// Its share beside the tenant's other lanes; 1 when removed.
    pub weight: Change<u16>,
    /// Whether its jobs wait.
    pub paused: Option<bool>,
    /// Whether it goes on at once although it is parked.
    pub unpark: bool,
    /// When it stops by itself.
    pub breaker: Change<Breaker>,
    /// What holds for this lane.
    pub limit: LimitChange,
}

/// Why settings stay as they were.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// There is no such queue.
    #[error("there is no such queue")]
    QueueNotFound,
    /// A limit makes no sense: a burst or a period without a rate, or a rate without a period.
    #[error("{}: {}", member.word(), member.reason())]
    InvalidLimit {
        /// The limit's key; `None` for that of a queue, a tenant or a lane.
        key: Option<String>,
        /// What is missing or too much.
        member: InvalidLimit,
    },
    /// The tenant would have more than [`MAX_TENANT_LIMITS`].
    #[error("a tenant may set at most {MAX_TENANT_LIMITS} limits")]
    TooManyLimits,
    /// The database refused or is not there, or a row holds what no release writes.
    #[error(transparent)]
    Engine(#[from] error::Error),
}

impl From<sqlx::Error> for SettingsError {
    fn from(error: sqlx::Error) -> Self {
        Self::Engine(error.into())
    }
}

/// What makes a limit senseless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidLimit {
    /// A rate without a period.
    PerMissing,
    /// A period without a rate.
    PerWithoutRate,
    /// A burst without a rate.
    BurstWithoutRate,
}

impl InvalidLimit {
    /// The member: `per` or `burst`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::PerMissing | Self::PerWithoutRate => "per",
            Self::BurstWithoutRate => "burst",
        }
    }

    /// What is wrong with it.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::PerMissing => "must be there beside a rate",
            Self::PerWithoutRate | Self::BurstWithoutRate => "makes sense with a rate only",
        }
    }
}
