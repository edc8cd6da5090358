//! Room: what the facts about a job mean.
//! Takes: facts of one moment. Gives: what keeps the job, the most decisive first, in words for whoever
//! is woken at night.
//! Never: looks anything up.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use harkara_shared::duration::HumanDuration;

use super::facts::{Breaker, Facts, Limiter, LimiterOf};
use super::{Explanation, Reason, ReasonCode};
use crate::job::JobState;

impl Reason {
    fn new(code: ReasonCode, detail: String) -> Self {
        Self {
            code,
            detail,
            since: None,
            until: None,
            ahead: None,
        }
    }

    fn since(self, since: Option<DateTime<Utc>>) -> Self {
        Self { since, ..self }
    }

    fn until(self, until: Option<DateTime<Utc>>) -> Self {
        Self { until, ..self }
    }
}

impl Facts {
    /// What keeps the job.
    pub(super) fn explain(&self) -> Explanation {
        let reasons = match self.state {
            JobState::Running => vec![self.running()],
            JobState::Succeeded | JobState::Dead | JobState::Cancelled => vec![self.finished()],
            JobState::Scheduled | JobState::Ready => self.waiting(),
        };
        let is_in_line = |reason: &Reason| reason.code == ReasonCode::Behind;
        Explanation {
            state: self.state,
            runnable: self.state == JobState::Ready && reasons.iter().all(is_in_line),
            reasons,
        }
    }

    fn running(&self) -> Reason {
        let run = self.attempt_of();
        let detail = match &self.lease {
            Some(lease) if lease.expires_at <= self.now => format!(
                "it was claimed by worker {}, whose lease ended at {}: another worker takes it back",
                lease.worker,
                second(lease.expires_at)
            ),
            Some(lease) if self.cancelling => format!(
                "it was cancelled, and worker {} is about to drop it, in {run}",
                lease.worker
            ),
            Some(lease) => format!("worker {} runs it, in {run}", lease.worker),
            None => format!("a worker runs it, in {run}"),
        };
        Reason::new(ReasonCode::Running, detail).since(self.started_at)
    }

    fn finished(&self) -> Reason {
        let run = self.attempt_of();
        let detail = match self.state {
            JobState::Succeeded => format!("it succeeded in {run}"),
            JobState::Cancelled if self.error_code.as_deref() == Some("expired") => {
                "it expired: it had not started when its time was over".to_owned()
            }
            JobState::Cancelled if self.attempt == 0 => "it was cancelled before it ran".to_owned(),
            JobState::Cancelled => format!("it was cancelled after {run}"),
            _ => match &self.error_code {
                Some(code) => format!("it is dead: {run} ended with `{code}`"),
                None => format!("it is dead after {run}"),
            },
        };
        Reason::new(ReasonCode::Finished, detail).since(self.finished_at)
    }

    /// Every reason that holds. Of a job whose time has not come those are told that will hold by then,
    /// as far as anybody knows: a limit that opens before is none.
    fn waiting(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        self.paused(&mut reasons);
        if self.state == JobState::Scheduled {
            reasons.push(self.scheduled());
        }
        if !self.served {
            reasons.push(self.no_worker());
        }
        self.breaker(&mut reasons);
        self.order(&mut reasons);
        self.rates(&mut reasons);
        self.places(&mut reasons);
        if self.state == JobState::Ready {
            self.line(&mut reasons);
        }
        reasons
    }

    fn paused(&self, reasons: &mut Vec<Reason>) {
        let queue = format!("the queue `{}`", self.queue);
        for (code, whose, pause) in [
            (ReasonCode::QueuePaused, queue, &self.queue_pause),
            (
                ReasonCode::TenantPaused,
                "the tenant".to_owned(),
                &self.tenant_pause,
            ),
            (ReasonCode::LanePaused, self.lane_name(), &self.lane_pause),
        ] {
            if let Some(pause) = pause {
                let detail =
                    format!("{whose} is paused: none of its jobs start until somebody resumes it");
                reasons.push(Reason::new(code, detail).since(pause.since));
            }
        }
    }

    fn scheduled(&self) -> Reason {
        // Somebody may have given it another time since its last run.
        let last = self
            .last_run
            .as_ref()
            .filter(|run| run.next_run_at == Some(self.run_at));
        let detail = match last {
            _ if self.run_at <= self.now => {
                "it has just come due, and becomes ready when a worker next looks".to_owned()
            }
            None => "it is not due yet".to_owned(),
            Some(run) => {
                let with = run
                    .error_code
                    .as_ref()
                    .map_or(String::new(), |code| format!(" (`{code}`)"));
                match run.outcome.as_str() {
                    "snoozed" => format!("its last run put it off{with}, which cost no attempt"),
                    "rate_limited" => {
                        format!("the other side asked it to wait{with}, which cost no attempt")
                    }
                    _ => format!(
                        "it waits out the backoff after a run that failed{with}, {} of {} attempts \
                         being used up",
                        self.attempt, self.max_attempts
                    ),
                }
            }
        };
        let since = match last {
            Some(run) => Some(run.finished_at),
            None if self.attempt == 0 => Some(self.created_at),
            None => None,
        };
        Reason::new(ReasonCode::Scheduled, detail)
            .since(since)
            .until(Some(self.run_at))
    }

    fn no_worker(&self) -> Reason {
        let detail = match self.served_last {
            Some(_) => format!(
                "no worker that lives serves the queue `{}`; the last one has gone",
                self.queue
            ),
            None => format!(
                "no worker that lives serves the queue `{}`, and none is remembered that did",
                self.queue
            ),
        };
        Reason::new(ReasonCode::NoWorker, detail).since(self.served_last)
    }

    fn breaker(&self, reasons: &mut Vec<Reason>) {
        let lane = self.lane_name();
        let until = self.lane.parked_until;
        let waits = self.state == JobState::Scheduled;
        let detail = match self.lane.breaker {
            Breaker::Open if until.is_some_and(|until| !waits || until > self.run_at) => format!(
                "the breaker of {lane} is open after {}: one job is tried when its rest is over",
                many(self.lane.failures, "failure")
            ),
            // Whoever goes first is the one that is tried.
            Breaker::Open if until.is_none() && !waits && self.ahead > 0 => format!(
                "the breaker of {lane} has rested: the first job in line is tried next, and the \
                 others wait for what comes of it"
            ),
            Breaker::HalfOpen if !waits => format!(
                "the breaker of {lane} is half open: one job is being tried, and the others wait for \
                 what comes of it"
            ),
            _ => return,
        };
        let reason = Reason::new(ReasonCode::BreakerOpen, detail).since(self.lane.parked_at);
        reasons.push(reason.until(until));
    }

    fn order(&self, reasons: &mut Vec<Reason>) {
        let Some(head) = &self.head else { return };
        if head.job == self.job || self.state == JobState::Scheduled && !head.begun {
            return;
        }
        let how = match (head.state, head.begun) {
            (JobState::Running, _) => "runs",
            (JobState::Scheduled, _) => "has begun and waits for its next attempt",
            (_, true) => "has begun and is ready to go on",
            _ => "is ready, and first in line",
        };
        let detail = format!(
            "{} runs one job after another, and {} {how}",
            self.lane_name(),
            head.job
        );
        let ahead = Some(self.ahead).filter(|_| self.state == JobState::Ready);
        reasons.push(Reason {
            // The head itself is one, whatever the order of the others says.
            ahead: ahead.map(|ahead| ahead.max(1)),
            ..Reason::new(ReasonCode::OrderingHead, detail)
        });
    }

    /// Limits on starts that are used up, what opens last first.
    fn rates(&self, reasons: &mut Vec<Reason>) {
        let mut closed: Vec<Reason> = self
            .limiters()
            .filter_map(|limiter| {
                let wait = limiter.wait()?;
                let detail = format!(
                    "{} is used up: {}{}",
                    self.limit_name(limiter),
                    limiter.rate_words(),
                    limiter.cost_words()
                );
                let until = self.now.checked_add_signed(wait);
                Some(Reason::new(ReasonCode::RateLimited, detail).until(until))
            })
            .collect();
        if let (Breaker::Closed, Some(until)) = (self.lane.breaker, self.lane.parked_until) {
            let detail = format!("the other side asked {} to rest", self.lane_name());
            let reason = Reason::new(ReasonCode::RateLimited, detail).since(self.lane.parked_at);
            closed.push(reason.until(Some(until)));
        }
        if self.state == JobState::Scheduled {
            closed.retain(|reason| reason.until > Some(self.run_at));
        }
        closed.sort_by_key(|reason| std::cmp::Reverse(reason.until));
        reasons.extend(closed);
    }

    /// Limits on running jobs. Of a job whose time has not come they tell nothing: a place may be free by
    /// then.
    fn places(&self, reasons: &mut Vec<Reason>) {
        if self.state == JobState::Scheduled {
            return;
        }
        for limiter in self.limiters().filter(|limiter| limiter.full) {
            let most = limiter.max_running.unwrap_or_default();
            let now = match limiter.running {
                Some(running) => format!("{running} of {most} run now"),
                None => format!("all {most} of all tenants run now"),
            };
            let detail = format!(
                "{} on running jobs is used up: {now}",
                self.limit_name(limiter)
            );
            reasons.push(Reason::new(ReasonCode::ConcurrencyLimit, detail));
        }
        if let Some(places) = self.full {
            let taken = match places {
                1 => "the only place of the workers that live is taken".to_owned(),
                _ => format!("all {places} places of the workers that live are taken"),
            };
            let detail = format!("{taken} in the queue `{}`", self.queue);
            reasons.push(Reason::new(ReasonCode::ConcurrencyLimit, detail));
        }
    }

    /// Its turn: told when others go first, or when nothing else keeps it.
    fn line(&self, reasons: &mut Vec<Reason>) {
        let in_order = |reason: &Reason| reason.code == ReasonCode::OrderingHead;
        if self.ahead == 0 && !reasons.is_empty() || reasons.iter().any(in_order) {
            return;
        }
        let first = if self.lost {
            "its worker died, and workers take up such jobs one at a time: "
        } else {
            ""
        };
        let turn = match self.ahead {
            0 => "it is the first in its lane, and starts when a worker next looks".to_owned(),
            1 => "1 job of its lane goes first".to_owned(),
            ahead => {
                let least = if self.more { "at least " } else { "" };
                format!("{least}{ahead} jobs of its lane go first")
            }
        };
        let rivals = match (self.rivals, self.more_rivals) {
            (0, _) => String::new(),
            (1, false) => "; 1 other lane of the tenant in this queue has ready jobs".to_owned(),
            (rivals, more) => {
                let least = if more { "at least " } else { "" };
                format!("; {least}{rivals} other lanes of the tenant in this queue have ready jobs")
            }
        };
        let detail = format!("{first}{turn}{rivals}");
        reasons.push(Reason {
            ahead: Some(self.ahead),
            // Put back or not: it has been due since then.
            since: Some(self.run_at.max(self.created_at)),
            ..Reason::new(ReasonCode::Behind, detail)
        });
    }

    fn limiters(&self) -> impl Iterator<Item = &Limiter> {
        self.limiters.iter().flatten()
    }

    /// `attempt 2 of 5`.
    fn attempt_of(&self) -> String {
        format!("attempt {} of {}", self.attempt, self.max_attempts)
    }

    fn lane_name(&self) -> String {
        match self.lane.key.as_str() {
            "" => format!(
                "the lane of jobs without a key in the queue `{}`",
                self.queue
            ),
            key => format!("the lane `{key}`"),
        }
    }

    fn limit_name(&self, limiter: &Limiter) -> String {
        match (limiter.of, &limiter.key) {
            (LimiterOf::Queue, _) => format!("the limit of the queue `{}`", self.queue),
            (LimiterOf::Tenant, _) => "the tenant's own limit".to_owned(),
            (LimiterOf::Lane, _) => format!("the limit of {}", self.lane_name()),
            (LimiterOf::Key, key) => {
                format!(
                    "the tenant's limit `{}`",
                    key.as_deref().unwrap_or_default()
                )
            }
        }
    }
}

impl Limiter {
    /// How long until it lets one such job through by itself; `None` when it does now.
    pub(super) fn wait(&self) -> Option<TimeDelta> {
        let every = self.every_us?;
        // As queue.claim has it: a start that costs more than a burst goes when the limiter has been idle.
        let cost = every.saturating_mul(i64::from(self.cost));
        let burst = every.saturating_mul(self.burst.unwrap_or(1).into());
        let wait = self.ahead_us.saturating_add(cost) - burst.max(cost);
        (wait > 0).then(|| TimeDelta::microseconds(wait))
    }

    /// `30 starts in 1m, 3 at once`.
    fn rate_words(&self) -> String {
        let micros = u64::try_from(self.period_us.unwrap_or_default()).unwrap_or_default();
        format!(
            "{} in {}, {} at once",
            many(self.rate_count.unwrap_or_default(), "start"),
            HumanDuration(Duration::from_micros(micros)),
            self.burst.unwrap_or(1)
        )
    }

    fn cost_words(&self) -> String {
        match self.cost {
            0 | 1 => String::new(),
            cost => format!(", and this one counts for {cost}"),
        }
    }
}

fn many(count: u32, thing: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{s}")
}

fn second(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
