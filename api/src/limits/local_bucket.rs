//! The requests of one subject in this process.
//!
//! Requests are decided at once by tokens reserved ahead, or share the subject's next call to the
//! database. A token is never spent later than the database allowed, and never returned once it may have been
//! spent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Policies;
use super::charge::{Charge, Standing};
use super::rate_estimator::RateEstimator;

/// How long a refusal is repeated without a call to the database.
const REFUSAL_TTL: Duration = Duration::from_millis(50);

/// The result for a waiting request.
pub(super) type ChargeResult = Result<Charge, Arc<sqlx::Error>>;

/// The requests of one subject in this process, and the tokens reserved for them.
#[derive(Debug)]
pub(super) struct LocalBucket {
    /// Name of the subject's counters in the database.
    pub(super) subject: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Policies of the latest request.
    policies: Policies,
    /// Decides how many tokens a call reserves ahead.
    estimator: RateEstimator,
    /// Tokens that requests can spend without a call.
    lease: Option<Lease>,
    /// Tokens that the next call returns.
    unspent: UnspentTokens,
    /// The latest refusal, and until when it is repeated without a call.
    refusal: Option<(Instant, PolicyState)>,
    /// Requests that the next call charges.
    waiting: Vec<oneshot::Sender<ChargeResult>>,
    /// Whether a task is calling the database, or about to.
    is_calling: bool,
    /// When the latest request arrived.
    last_used: Instant,
}

/// Tokens reserved ahead.
#[derive(Debug)]
struct Lease {
    /// Tokens that are not spent yet.
    left: u32,
    /// Until when they can be spent.
    until: Instant,
    /// When they were charged, by the database's clock, in microseconds since 1970.
    charged_at: i64,
    /// State of the policies after the charge.
    received: PolicyState,
}

/// Tokens that were reserved and not spent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UnspentTokens {
    pub(super) count: u32,
    /// When they were charged, by the database's clock, in microseconds since 1970.
    pub(super) charged_at: i64,
}

/// State of the policies, and when it was received.
#[derive(Debug, Clone)]
struct PolicyState {
    at: Instant,
    standings: Vec<Standing>,
}

/// How a request continues.
pub(super) enum Step {
    /// The result is known without a call to the database.
    Decided(Charge),
    /// The request waits for the result; the one that gets `true` starts the calls.
    Wait(oneshot::Receiver<ChargeResult>, bool),
}

/// One call to the database.
pub(super) struct Call {
    pub(super) policies: Policies,
    /// Tokens to reserve ahead, beside one for each waiting request.
    pub(super) ahead: i32,
    /// Tokens to return.
    pub(super) unspent: UnspentTokens,
    senders: Vec<oneshot::Sender<ChargeResult>>,
}

/// Result of a call.
pub(super) struct CallResult {
    /// Tokens charged: for the waiting requests first, the rest reserved ahead.
    pub(super) granted: u32,
    /// State of each policy, in the order of the policies.
    pub(super) standings: Vec<Standing>,
    /// How long tokens reserved ahead can be spent, counted from the start of the call.
    pub(super) hold: Duration,
    /// When they were charged, by the database's clock, in microseconds since 1970.
    pub(super) charged_at: i64,
}

impl Call {
    /// Number of requests that wait for this call.
    pub(super) fn waiting_requests(&self) -> usize {
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
                estimator: RateEstimator::new(now),
                lease: None,
                unspent: UnspentTokens::default(),
                refusal: None,
                waiting: Vec::new(),
                is_calling: false,
                last_used: now,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Charges one request.
    pub(super) fn charge(&self, policies: &Policies, now: Instant) -> Step {
        let mut state = self.state();
        state.last_used = now;
        state.estimator.record(now);
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
            let charge = lease.received.charge(policies, true, lease.left, now);
            return Step::Decided(charge);
        }
        if let Some((until, received)) = &state.refusal
            && now < *until
        {
            return Step::Decided(received.charge(policies, false, 0, now));
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push(sender);
        let starts_calls = !state.is_calling;
        state.is_calling = true;
        Step::Wait(receiver, starts_calls)
    }

    /// Ends an expired lease, or any lease, so that its rest is returned. Returns whether the caller must
    /// start the calls.
    pub(super) fn settle(&self, any: bool, now: Instant) -> bool {
        let mut state = self.state();
        let is_over = |lease: &Lease| any || now >= lease.until;
        if !state.is_calling && state.lease.as_ref().is_some_and(is_over) {
            state.end_lease();
        }
        let starts_calls = !state.is_calling && state.unspent.count > 0;
        state.is_calling |= starts_calls;
        starts_calls
    }

    /// Whether the bucket can be dropped without losing anything.
    pub(super) fn is_idle(&self, since: Instant) -> bool {
        let state = self.state();
        !state.is_calling
            && state.lease.is_none()
            && state.unspent.count == 0
            && state.last_used < since
    }

    /// The next call; `None` when no request waits, and the caller is done.
    pub(super) fn begin_call(&self, now: Instant) -> Option<Call> {
        let mut state = self.state();
        if state.waiting.is_empty() && state.unspent.count == 0 {
            state.is_calling = false;
            return None;
        }
        if !state.waiting.is_empty() {
            state.end_lease();
        }
        // A call that only returns tokens reserves none.
        let ahead = match state.waiting.is_empty() {
            true => 0,
            false => state.estimator.ahead(now),
        };
        Some(Call {
            policies: state.policies.clone(),
            ahead,
            unspent: std::mem::take(&mut state.unspent),
            senders: std::mem::take(&mut state.waiting),
        })
    }

    /// Distributes the tokens of a call that was sent at `started` and has returned.
    pub(super) fn end_call(
        &self,
        call: Call,
        received: CallResult,
        started: Instant,
        now: Instant,
    ) {
        let until = started + received.hold;
        let (charged_at, waiting) = (received.charged_at, call.waiting_requests());
        let mut left = received.granted;
        let received = PolicyState {
            at: now,
            standings: received.standings,
        };
        let mut state = self.state();
        // Requests that arrived meanwhile get the tokens reserved ahead.
        let late = std::mem::take(&mut state.waiting);
        let mut waits = Vec::new();
        for (index, sender) in call.senders.into_iter().chain(late).enumerate() {
            let in_time = index < waiting || now < until;
            if left > 0 && in_time {
                let charge = received.charge(&call.policies, true, left - 1, now);
                // A request that was dropped spends nothing.
                left -= u32::from(sender.send(Ok(charge)).is_ok());
            } else if index < waiting {
                let charge = received.charge(&call.policies, false, 0, now);
                sender.send(Ok(charge)).ok();
            } else {
                waits.push(sender);
            }
        }
        state.waiting = waits;
        let wait = received
            .standings
            .iter()
            .map(|standing| standing.retry)
            .max();
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            state.refusal = Some((now + wait.min(REFUSAL_TTL), received.clone()));
        }
        if left > 0 && state.policies == call.policies && now < until {
            state.lease = Some(Lease {
                left,
                until,
                charged_at,
                received,
            });
        } else if left > 0 {
            state.return_later(left, charged_at);
        }
    }

    /// Fails the requests of a call. The tokens it returned may have arrived, so they are not returned again.
    pub(super) fn fail_call(&self, call: Call, error: sqlx::Error) {
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
            self.return_later(lease.left, lease.charged_at);
        }
    }

    fn return_later(&mut self, count: u32, charged_at: i64) {
        // All unspent tokens were reserved by the latest call.
        self.unspent = UnspentTokens { count, charged_at };
    }
}

impl PolicyState {
    /// The result for one request after which `left` reserved tokens remain.
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
