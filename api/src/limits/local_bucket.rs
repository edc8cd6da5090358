//! Room: the requests of one subject in this process.
//! Takes: requests, and what the database answered. Gives: answers at once from what was taken ahead,
//! else what to ask the database for: one call at a time for all that wait.
//! Never: spends a token later than the database said, or gives one back that may have been spent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Policies;
use super::charge::{Charge, Standing};
use super::rate_estimator::RateEstimator;

/// How long a refusal is repeated without asking again: whoever hammers is refused here.
const REFUSED: Duration = Duration::from_millis(50);

/// What whoever waits is told.
pub(super) type Answer = Result<Charge, Arc<sqlx::Error>>;

/// One subject's requests.
#[derive(Debug)]
pub(super) struct LocalBucket {
    pub(super) subject: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    policies: Policies,
    rate: RateEstimator,
    lease: Option<Lease>,
    owed: Owed,
    refusal: Option<(Instant, Told)>,
    waiting: Vec<oneshot::Sender<Answer>>,
    /// Somebody is asking the database, or about to.
    calling: bool,
    used: Instant,
}

/// Tokens taken ahead.
#[derive(Debug)]
struct Lease {
    left: u32,
    until: Instant,
    moment: i64,
    told: Told,
}

/// Tokens that were taken and not spent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Owed {
    pub(super) count: u32,
    /// When they were taken, by the database's clock.
    pub(super) moment: i64,
}

/// How the policies stood, and when that was heard.
#[derive(Debug, Clone)]
struct Told {
    at: Instant,
    standings: Vec<Standing>,
}

/// How a request goes on.
pub(super) enum Step {
    /// Its answer.
    Known(Charge),
    /// It waits; whoever is told `true` makes the calls.
    Wait(oneshot::Receiver<Answer>, bool),
}

/// One call to the database.
pub(super) struct Call {
    pub(super) policies: Policies,
    pub(super) ahead: i32,
    pub(super) owed: Owed,
    senders: Vec<oneshot::Sender<Answer>>,
}

/// What the database said to a call.
pub(super) struct Granted {
    pub(super) granted: u32,
    pub(super) standings: Vec<Standing>,
    pub(super) hold: Duration,
    pub(super) moment: i64,
}

impl Call {
    /// How many requests wait for it.
    pub(super) fn need(&self) -> usize {
        self.senders.len()
    }
}

impl LocalBucket {
    pub(super) fn new(subject: &str, policies: &Policies) -> Self {
        let now = Instant::now();
        Self {
            subject: subject.to_owned(),
            state: Mutex::new(State {
                policies: policies.clone(),
                rate: RateEstimator::new(now),
                lease: None,
                owed: Owed::default(),
                refusal: None,
                waiting: Vec::new(),
                calling: false,
                used: now,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request comes.
    pub(super) fn ask(&self, policies: &Policies, now: Instant) -> Step {
        let mut state = self.state();
        state.used = now;
        state.rate.note(now);
        if state.policies != *policies {
            state.policies = policies.clone();
            state.refusal = None;
            state.end_lease();
        }
        if let Some(lease) = &mut state.lease
            && lease.left > 0
            && now < lease.until
        {
            lease.left -= 1;
            let charge = lease.told.charge(policies, true, lease.left, now);
            return Step::Known(charge);
        }
        if let Some((until, told)) = &state.refusal
            && now < *until
        {
            return Step::Known(told.charge(policies, false, 0, now));
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push(sender);
        let calls = !state.calling;
        state.calling = true;
        Step::Wait(receiver, calls)
    }

    /// Ends a lease whose time is over, or any, so that what is left of it is given back. Answers
    /// whether the caller must make the calls.
    pub(super) fn settle(&self, any: bool, now: Instant) -> bool {
        let mut state = self.state();
        let is_over = |lease: &Lease| any || now >= lease.until;
        if !state.calling && state.lease.as_ref().is_some_and(is_over) {
            state.end_lease();
        }
        let calls = !state.calling && state.owed.count > 0;
        state.calling |= calls;
        calls
    }

    /// Whether nothing would be lost if the bucket were forgotten.
    pub(super) fn is_idle(&self, since: Instant) -> bool {
        let state = self.state();
        !state.calling && state.lease.is_none() && state.owed.count == 0 && state.used < since
    }

    /// The next call; none when nobody waits, and then the caller is done.
    pub(super) fn begin(&self, now: Instant) -> Option<Call> {
        let mut state = self.state();
        if state.waiting.is_empty() && state.owed.count == 0 {
            state.calling = false;
            return None;
        }
        if !state.waiting.is_empty() {
            state.end_lease();
        }
        // Who only gives back takes nothing.
        let ahead = match state.waiting.is_empty() {
            true => 0,
            false => state.rate.ahead(now),
        };
        Some(Call {
            policies: state.policies.clone(),
            ahead,
            owed: std::mem::take(&mut state.owed),
            senders: std::mem::take(&mut state.waiting),
        })
    }

    /// A call was answered. `started` is when it was sent.
    pub(super) fn end(&self, call: Call, told: Granted, started: Instant, now: Instant) {
        let until = started + told.hold;
        let (moment, need) = (told.moment, call.need());
        let mut left = told.granted;
        let told = Told {
            at: now,
            standings: told.standings,
        };
        let mut state = self.state();
        // Those who came meanwhile have what was taken ahead, while it lasts.
        let late = std::mem::take(&mut state.waiting);
        let mut waits = Vec::new();
        for (place, sender) in call.senders.into_iter().chain(late).enumerate() {
            let in_time = place < need || now < until;
            if left > 0 && in_time {
                let charge = told.charge(&call.policies, true, left - 1, now);
                // Whoever has gone away spends nothing.
                left -= u32::from(sender.send(Ok(charge)).is_ok());
            } else if place < need {
                let charge = told.charge(&call.policies, false, 0, now);
                sender.send(Ok(charge)).ok();
            } else {
                waits.push(sender);
            }
        }
        state.waiting = waits;
        let wait = told.standings.iter().map(|standing| standing.retry).max();
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            state.refusal = Some((now + wait.min(REFUSED), told.clone()));
        }
        if left > 0 && state.policies == call.policies && now < until {
            state.lease = Some(Lease {
                left,
                until,
                moment,
                told,
            });
        } else if left > 0 {
            state.owe(left, moment);
        }
    }

    /// A call failed. What it gave back may have arrived: it is not given back again.
    pub(super) fn fail(&self, call: Call, error: sqlx::Error) {
        let error = Arc::new(error);
        for sender in call.senders {
            sender.send(Err(Arc::clone(&error))).ok();
        }
    }
}

impl State {
    fn end_lease(&mut self) {
        if let Some(lease) = self.lease.take()
            && lease.left > 0
        {
            self.owe(lease.left, lease.moment);
        }
    }

    fn owe(&mut self, count: u32, moment: i64) {
        // All that is owed was taken by the latest call.
        self.owed = Owed { count, moment };
    }
}

impl Told {
    /// The answer to one request, of which `left` tokens remain here.
    fn charge(&self, policies: &Policies, allowed: bool, left: u32, now: Instant) -> Charge {
        let age = now.duration_since(self.at);
        let aged = |standing: &Standing| Standing {
            remaining: standing.remaining + u64::from(left),
            reset: standing.reset.saturating_sub(age),
            retry: standing.retry.saturating_sub(age),
        };
        Charge {
            policies: policies.clone(),
            allowed,
            standings: self.standings.iter().map(aged).collect(),
        }
    }
}
