//! Settings of queues, tenants and lanes, which can change while jobs run: pauses, limits, weights,
//! breakers.
//!
//! A change applies to the next claim of every worker. Takes no part in authorization, and works on the
//! engine's connections, not in a tenant's transaction.

mod lanes;
mod limits;
mod queues;
mod tenants;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::id::TenantId;
use serde::Serialize;

pub use limits::{Change, LimitChange};
pub use tenants::set_tier_limits;

use crate::error;
use crate::job::LimitUse;

/// Most keys for which a tenant can set limits.
pub const MAX_TENANT_LIMITS: usize = 1000;

/// The largest value of a rate, a burst and a number of running jobs.
pub const MAX_LIMIT_VALUE: u32 = 1_000_000;

/// The largest value of a tenant's bound of waiting jobs.
pub const MAX_WAITING_JOBS: u32 = 1_000_000_000;

/// The shortest and the longest period of a rate: 1 second and 31 days.
pub const RATE_PERIODS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(31 * 24 * 60 * 60);

/// Whether `text` can be the key of a lane or a limit: 1 to 256 characters, none of them a control
/// character.
#[must_use]
pub fn is_key(text: &str) -> bool {
    (1..=256).contains(&text.chars().count()) && !text.contains(char::is_control)
}

/// A limit on starts per time and on jobs running at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limit {
    /// How many jobs may start per time.
    pub rate: Option<Rate>,
    /// How many jobs may run at once.
    pub max_running: Option<u32>,
    /// Jobs running now. Counted only while `max_running` is set.
    pub running: u32,
}

/// A rate of starts: in any window of `per`, at most `count + burst` jobs start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Starts per period.
    pub count: u32,
    /// The period.
    pub per: Duration,
    /// Starts at the same moment after a pause.
    pub burst: u32,
}

impl Rate {
    /// The burst of a rate for which none was set: a tenth of the count, at least 1.
    #[must_use]
    pub const fn default_burst(count: u32) -> u32 {
        let tenth = count / 10;
        if tenth == 0 { 1 } else { tenth }
    }

    /// How many jobs start in a period other than `per`, rounded down.
    #[must_use]
    pub fn count_in(self, time: Duration) -> u64 {
        let per = self.per.as_micros().max(1);
        u64::try_from(u128::from(self.count) * time.as_micros() / per).unwrap_or(u64::MAX)
    }
}

/// The settings of a queue, which all tenants share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// Internal number, by which queues are listed.
    pub id: i32,
    /// The name that jobs refer to.
    pub name: String,
    /// Whether none of its jobs start.
    pub paused: bool,
    /// The limit on the jobs of all tenants together.
    pub limit: Limit,
}

/// Which queues a reader can see.
#[derive(Debug, Clone, Copy)]
pub enum QueueView<'a> {
    /// Every queue.
    All,
    /// The queues visible to a tenant: those in which it has lanes, and these public ones.
    VisibleTo(TenantId, &'a [&'a str]),
}

/// The settings of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSettings {
    /// Its share of starts relative to other tenants, 1 to 1000.
    pub weight: u16,
    /// Whether none of its jobs start.
    pub paused: bool,
    /// Most jobs that can wait, scheduled and ready together: further ones are refused.
    pub max_waiting: Option<u32>,
    /// Jobs waiting now. Counted only while `max_waiting` is set.
    pub waiting: u64,
    /// The limit on all its jobs together.
    pub limit: Limit,
    /// The limits on jobs that name a key, by key.
    pub limits: BTreeMap<String, Limit>,
}

/// A change of a tenant's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TenantChange {
    /// Its share of starts relative to other tenants; 1 when removed.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub weight: Change<u16>,
    /// Whether none of its jobs start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Most jobs that can wait, 1 to [`MAX_WAITING_JOBS`].
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub max_waiting: Change<u32>,
    /// The limit on all its jobs together.
    pub limit: LimitChange,
    /// The limits on jobs that name a key, by key; [`LimitChange::removal`] removes one.
    pub limits: BTreeMap<String, LimitChange>,
}

/// The settings and state of a tenant's lane in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSettings {
    /// Internal number, by which lanes are listed.
    pub id: i64,
    /// Its key; empty for the default lane.
    pub key: String,
    /// Whether its jobs run strictly one after another.
    pub ordered: bool,
    /// Its share of starts relative to the tenant's other lanes, 1 to 1000.
    pub weight: u16,
    /// Whether it is paused manually: none of its jobs start.
    pub paused: bool,
    /// Until when none of its jobs start because the receiving side asked for a pause or the breaker is
    /// open.
    pub parked_until: Option<DateTime<Utc>>,
    /// When failures stop the lane.
    pub breaker: Option<Breaker>,
    /// Whether failures have stopped it.
    pub breaker_state: BreakerState,
    /// Failures within the breaker's window; while the breaker is not closed, those that opened it and
    /// those of trial runs. Counted only while `breaker` is set.
    pub failures: u32,
    /// The limit on this lane's jobs.
    pub limit: Limit,
    /// The tenant's limits that its jobs name.
    pub named_limits: Vec<LimitUse>,
}

/// Stops a lane when too many of its runs fail.
///
/// A window begins with a failure and counts runs that succeed and runs with transient failures. A
/// failure opens the breaker when the window holds enough runs and enough of them failed. Then one job
/// is tried after each rest until one succeeds, which closes the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Fewest runs in a window that can open it, at least 1. With a share of 100, this is the number of
    /// consecutive failures.
    pub failures: u32,
    /// The percentage of these runs that must have failed, 1 to 100. With 100, each success ends the
    /// window.
    pub share: u8,
    /// Length of a window.
    pub window: Duration,
    /// How long it stays open before one job is tried.
    pub rest: Duration,
}

impl Breaker {
    /// The default length of a window.
    pub const DEFAULT_WINDOW: Duration = Duration::from_secs(5 * 60);

    /// A breaker that opens after this many consecutive failures.
    #[must_use]
    pub fn consecutive(failures: u32, rest: Duration) -> Self {
        Self {
            failures,
            share: 100,
            window: Self::DEFAULT_WINDOW,
            rest,
        }
    }
}

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Jobs run normally.
    Closed,
    /// No job starts.
    Open,
    /// One job runs as a trial.
    HalfOpen,
}

/// A change of a lane's settings.
#[derive(Debug, Clone, Default)]
pub struct LaneChange {
    /// Its share of starts relative to the tenant's other lanes; 1 when removed.
    pub weight: Change<u16>,
    /// Whether none of its jobs start.
    pub paused: Option<bool>,
    /// Whether to end its parking now.
    pub unpark: bool,
    /// When failures stop the lane.
    pub breaker: Change<Breaker>,
    /// The limit on this lane's jobs.
    pub limit: LimitChange,
}

/// Why settings were not changed.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The queue does not exist.
    #[error("queue not found")]
    QueueNotFound,
    /// A limit is incomplete: a burst or a period without a rate, or a rate without a period.
    #[error("`{}` {}", problem.field(), problem.reason())]
    InvalidLimit {
        /// The limit's key; `None` for the limit of a queue, a tenant or a lane.
        key: Option<String>,
        /// What is wrong.
        problem: InvalidLimit,
    },
    /// The tenant would have limits for more than [`MAX_TENANT_LIMITS`] keys.
    #[error("a tenant can have at most {MAX_TENANT_LIMITS} limits")]
    TooManyLimits,
    /// A statement failed, or a stored row holds an impossible value.
    #[error(transparent)]
    Engine(#[from] error::Error),
}

impl From<sqlx::Error> for SettingsError {
    fn from(error: sqlx::Error) -> Self {
        Self::Engine(error.into())
    }
}

/// What is wrong with an incomplete limit.
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
    /// The field at fault: `per` or `burst`.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::PerMissing | Self::PerWithoutRate => "per",
            Self::BurstWithoutRate => "burst",
        }
    }

    /// What is wrong with the field.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::PerMissing => "is required with a rate",
            Self::PerWithoutRate | Self::BurstWithoutRate => "requires a rate",
        }
    }
}
