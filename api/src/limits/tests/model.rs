//! What the strategies mean, said another way than the database does it: windows by the whole list of
//! what was let through, buckets by what is in them.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Months, NaiveDate};

use harkara_accounts::{Policy, Strategy};

/// How one policy stands, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stands {
    pub(super) remaining: i64,
    pub(super) reset: i64,
    pub(super) retry: i64,
}

/// A subject under its policies.
#[derive(Debug, Clone)]
pub(super) struct Model(Vec<(Policy, Counter)>);

#[derive(Debug, Clone)]
enum Counter {
    /// How many were let through, by the moments of the charges.
    Window(BTreeMap<i64, i64>),
    /// What is missing to a full bucket, and since when that is so.
    Bucket { missing: i128, since: i64 },
}

/// A month's first moment, and that of the next.
fn month(moment: i64) -> (i64, i64) {
    let day = DateTime::from_timestamp_micros(moment)
        .unwrap()
        .date_naive();
    let first = NaiveDate::from_ymd_opt(day.year(), day.month(), 1).unwrap();
    let micros = |day: NaiveDate| {
        let midnight = day.and_hms_opt(0, 0, 0).unwrap();
        midnight.and_utc().timestamp_micros()
    };
    (micros(first), micros(first + Months::new(1)))
}

/// When what was let through at `charged` no longer counts.
fn leaves(policy: &Policy, charged: i64) -> i64 {
    let width = policy.width();
    match policy.strategy {
        Strategy::FixedWindow => (charged / width + 1) * width,
        Strategy::CalendarMonth => month(charged).1,
        _ => {
            let slice = (width as u64).div_ceil(60) as i64;
            (charged / slice + 61) * slice
        }
    }
}

/// What a token weighs, what a microsecond brings, what a full bucket holds.
fn bucket(policy: &Policy) -> (i128, i128, i128) {
    let (width, quota) = (i128::from(policy.width()), i128::from(policy.quota));
    let (token, brought) = match policy.strategy {
        Strategy::TokenBucket => (width, quota),
        _ => ((width + quota - 1) / quota, 1),
    };
    (token, brought, token * i128::from(policy.burst.max(1)))
}

fn up(over: i128, under: i128) -> i64 {
    i64::try_from((over + under - 1) / under).unwrap()
}

impl Model {
    pub(super) fn new(policies: &[Policy], moment: i64) -> Self {
        let counter = |policy: &Policy| match policy.strategy {
            Strategy::TokenBucket | Strategy::LeakyBucket => Counter::Bucket {
                missing: 0,
                since: moment,
            },
            _ => Counter::Window(BTreeMap::new()),
        };
        let pair = |policy: &Policy| (policy.clone(), counter(policy));
        Self(policies.iter().map(pair).collect())
    }

    /// Gives back `back` of what was charged at `charged`, then charges as many as may pass of `need`,
    /// and of `ahead` as the statement says.
    pub(super) fn charge(
        &mut self,
        moment: i64,
        (need, ahead, hold): (i64, i64, i64),
        (back, charged): (i64, i64),
    ) -> (i64, Vec<Stands>) {
        for (policy, counter) in &mut self.0 {
            counter.give_back(policy, moment, back, charged);
        }
        let rooms = self.0.iter().map(|(policy, counter)| counter.room(policy));
        let room = rooms.min().unwrap();
        let stays = self.0.iter().map(|(policy, _)| stays(policy, moment)).min();
        let mut granted = need.min(room);
        if stays.unwrap().min(hold) > 0 && room > need {
            granted += ahead.min((room - need) / 8);
        }
        for (policy, counter) in &mut self.0 {
            counter.take(policy, moment, granted);
        }
        let stands = self.0.iter().map(|(policy, counter)| Stands {
            remaining: counter.room(policy),
            reset: counter.reset(policy, moment),
            retry: counter.retry(policy, moment),
        });
        (granted, stands.collect())
    }
}

/// How long a charge of this moment is spent within the window it is charged to.
fn stays(policy: &Policy, moment: i64) -> i64 {
    let width = policy.width();
    match policy.strategy {
        Strategy::FixedWindow => width - moment % width,
        Strategy::CalendarMonth => month(moment).1 - moment,
        Strategy::SlidingWindow => {
            let slice = (width as u64).div_ceil(60) as i64;
            slice - moment % slice
        }
        _ => 0,
    }
}

impl Counter {
    fn give_back(&mut self, policy: &Policy, moment: i64, back: i64, charged: i64) {
        match self {
            Self::Window(log) => {
                if let Some(count) = log.get_mut(&charged) {
                    *count = (*count - back).max(0);
                }
                log.retain(|at, count| *count > 0 && leaves(policy, *at) > moment);
            }
            Self::Bucket { missing, since } => {
                let (token, brought, _) = bucket(policy);
                let filled = i128::from(moment - *since) * brought;
                *missing = (*missing - filled).max(0);
                *missing = (*missing - i128::from(back) * token).max(0);
                *since = moment;
            }
        }
    }

    fn take(&mut self, policy: &Policy, moment: i64, count: i64) {
        match self {
            Self::Window(log) if count > 0 => *log.entry(moment).or_default() += count,
            Self::Window(_) => {}
            Self::Bucket { missing, .. } => *missing += bucket(policy).0 * i128::from(count),
        }
    }

    fn room(&self, policy: &Policy) -> i64 {
        match self {
            Self::Window(log) => policy.most() as i64 - log.values().sum::<i64>(),
            Self::Bucket { missing, .. } => {
                let (token, _, full) = bucket(policy);
                i64::try_from((full - missing) / token).unwrap()
            }
        }
    }

    fn reset(&self, policy: &Policy, moment: i64) -> i64 {
        match self {
            Self::Window(log) => match (policy.strategy, log.keys().last()) {
                (Strategy::SlidingWindow, None) => 0,
                (Strategy::SlidingWindow, Some(last)) => leaves(policy, *last) - moment,
                _ => leaves(policy, moment) - moment,
            },
            Self::Bucket { missing, .. } => up(*missing, bucket(policy).1),
        }
    }

    fn retry(&self, policy: &Policy, moment: i64) -> i64 {
        if self.room(policy) > 0 {
            return 0;
        }
        match self {
            Self::Window(log) => {
                let ends = log.keys().map(|at| leaves(policy, *at));
                let passes = |end: &i64| {
                    let left = log.iter().filter(|(at, _)| leaves(policy, **at) > *end);
                    left.map(|(_, count)| count).sum::<i64>() < policy.most() as i64
                };
                ends.filter(passes).min().unwrap() - moment
            }
            Self::Bucket { missing, .. } => {
                let (token, brought, full) = bucket(policy);
                up(missing + token - full, brought)
            }
        }
    }
}
