//! A second implementation of the strategies, to compare the database with: windows as the full log of charges,
//! buckets by their content.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Months, NaiveDate};

use harkara_accounts::{Policy, Strategy};

/// State of one policy after a charge. Durations in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ModelStanding {
    pub(super) remaining: i64,
    pub(super) reset: i64,
    pub(super) retry: i64,
}

/// A subject under its policies.
#[derive(Debug, Clone)]
pub(super) struct Model(Vec<(Policy, Counter)>);

#[derive(Debug, Clone)]
enum Counter {
    /// Number of charged requests, by the time of the charge.
    Window(BTreeMap<i64, i64>),
    /// What the bucket lacked at the time `since` to be full.
    Bucket { missing: i128, since: i64 },
}

/// The first instant of a month, and that of the next.
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

/// When requests charged at `charged` no longer count.
fn expires_at(policy: &Policy, charged: i64) -> i64 {
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

/// The size of a token, the amount that flows in each microsecond, and the capacity of the bucket.
fn bucket(policy: &Policy) -> (i128, i128, i128) {
    let (width, quota) = (i128::from(policy.width()), i128::from(policy.quota));
    let (token, inflow) = match policy.strategy {
        Strategy::TokenBucket => (width, quota),
        _ => ((width + quota - 1) / quota, 1),
    };
    (token, inflow, token * i128::from(policy.burst.max(1)))
}

fn div_ceil(numerator: i128, denominator: i128) -> i64 {
    i64::try_from((numerator + denominator - 1) / denominator).unwrap()
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

    /// Returns `back` tokens that were charged at `charged`, then charges as many of `need` as may pass, and of
    /// `ahead` as many as the database would reserve.
    pub(super) fn charge(
        &mut self,
        moment: i64,
        (need, ahead, hold): (i64, i64, i64),
        (back, charged): (i64, i64),
    ) -> (i64, Vec<ModelStanding>) {
        for (policy, counter) in &mut self.0 {
            counter.return_tokens(policy, moment, back, charged);
        }
        let capacities = self
            .0
            .iter()
            .map(|(policy, counter)| counter.capacity(policy));
        let capacity = capacities.min().unwrap();
        let shortest = self
            .0
            .iter()
            .map(|(policy, _)| time_left(policy, moment))
            .min();
        let mut granted = need.min(capacity);
        if shortest.unwrap().min(hold) > 0 && capacity > need {
            granted += ahead.min((capacity - need) / 8);
        }
        for (policy, counter) in &mut self.0 {
            counter.charge(policy, moment, granted);
        }
        let standings = self.0.iter().map(|(policy, counter)| ModelStanding {
            remaining: counter.capacity(policy),
            reset: counter.reset(policy, moment),
            retry: counter.retry(policy, moment),
        });
        (granted, standings.collect())
    }
}

/// How long tokens charged at `moment` can be spent within the window they are charged to.
fn time_left(policy: &Policy, moment: i64) -> i64 {
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
    fn return_tokens(&mut self, policy: &Policy, moment: i64, back: i64, charged: i64) {
        match self {
            Self::Window(log) => {
                if let Some(count) = log.get_mut(&charged) {
                    *count = (*count - back).max(0);
                }
                log.retain(|at, count| *count > 0 && expires_at(policy, *at) > moment);
            }
            Self::Bucket { missing, since } => {
                let (token, inflow, _) = bucket(policy);
                let filled = i128::from(moment - *since) * inflow;
                *missing = (*missing - filled).max(0);
                *missing = (*missing - i128::from(back) * token).max(0);
                *since = moment;
            }
        }
    }

    fn charge(&mut self, policy: &Policy, moment: i64, count: i64) {
        match self {
            Self::Window(log) if count > 0 => *log.entry(moment).or_default() += count,
            Self::Window(_) => {}
            Self::Bucket { missing, .. } => *missing += bucket(policy).0 * i128::from(count),
        }
    }

    fn capacity(&self, policy: &Policy) -> i64 {
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
                (Strategy::SlidingWindow, Some(last)) => expires_at(policy, *last) - moment,
                _ => expires_at(policy, moment) - moment,
            },
            Self::Bucket { missing, .. } => div_ceil(*missing, bucket(policy).1),
        }
    }

    fn retry(&self, policy: &Policy, moment: i64) -> i64 {
        if self.capacity(policy) > 0 {
            return 0;
        }
        match self {
            Self::Window(log) => {
                let ends = log.keys().map(|at| expires_at(policy, *at));
                let passes = |end: &i64| {
                    let left = log.iter().filter(|(at, _)| expires_at(policy, **at) > *end);
                    left.map(|(_, count)| count).sum::<i64>() < policy.most() as i64
                };
                ends.filter(passes).min().unwrap() - moment
            }
            Self::Bucket { missing, .. } => {
                let (token, inflow, full) = bucket(policy);
                div_ceil(missing + token - full, inflow)
            }
        }
    }
}
