//! Derives from the facts about a job what holds it back, the most decisive reason first, in sentences
//! for the person on call. Looks nothing up.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use harkara_shared::duration::HumanDuration;

use super::facts::{Breaker, Facts, LimitScope, Limiter};
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
    /// Explains the job.
    pub(super) fn explain(&self) -> Explanation {
        let reasons = match self.state {
            JobState::Running => vec![self.running_reason()],
            JobState::Succeeded | JobState::Dead | JobState::Cancelled => {
                vec![self.finished_reason()]
            }
            JobState::Scheduled | JobState::Ready => self.waiting_reasons(),
        };
        let is_only_behind = |reason: &Reason| reason.code == ReasonCode::Behind;
        Explanation {
            state: self.state,
            runnable: self.state == JobState::Ready && reasons.iter().all(is_only_behind),
            reasons,
        }
    }

    fn running_reason(&self) -> Reason {
        let attempt = self.attempt_text();
        let detail = match &self.lease {
            Some(lease) if lease.expires_at <= self.now => format!(
                "it was claimed by worker {}, whose lease ended at {}: another worker will reclaim it",
                lease.worker,
                to_the_second(lease.expires_at)
            ),
            Some(lease) if self.cancelling => format!(
                "it was cancelled, and worker {} is stopping it, in {attempt}",
                lease.worker
            ),
            Some(lease) => format!("worker {} runs it, in {attempt}", lease.worker),
            None => format!("a worker runs it, in {attempt}"),
        };
        Reason::new(ReasonCode::Running, detail).since(self.started_at)
    }

    fn finished_reason(&self) -> Reason {
        let attempt = self.attempt_text();
        let detail = match self.state {
            JobState::Succeeded => format!("it succeeded in {attempt}"),
            JobState::Cancelled if self.error_code.as_deref() == Some("expired") => {
                "it expired: it had not started by its `expires_at`".to_owned()
            }
            JobState::Cancelled if self.attempt == 0 => "it was cancelled before it ran".to_owned(),
            JobState::Cancelled => format!("it was cancelled after {attempt}"),
            _ => match &self.error_code {
                Some(code) => format!("it is dead: {attempt} ended with `{code}`"),
                None => format!("it is dead after {attempt}"),
            },
        };
        Reason::new(ReasonCode::Finished, detail).since(self.finished_at)
    }

    /// Every reason that holds. For a job that is not due yet, only reasons that will still hold then, as
    /// far as can be known: not a limit that opens before.
    fn waiting_reasons(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        self.add_pauses(&mut reasons);
        if self.state == JobState::Scheduled {
            reasons.push(self.scheduled_reason());
        }
        if !self.has_live_worker {
            reasons.push(self.no_worker_reason());
        }
        self.add_breaker(&mut reasons);
        self.add_ordering_head(&mut reasons);
        self.add_rate_limits(&mut reasons);
        self.add_concurrency_limits(&mut reasons);
        if self.state == JobState::Ready {
            self.add_behind(&mut reasons);
        }
        reasons
    }

    fn add_pauses(&self, reasons: &mut Vec<Reason>) {
        let queue = format!("the queue `{}`", self.queue);
        for (code, subject, pause) in [
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
                    format!("{subject} is paused: none of its jobs start until it is resumed");
                reasons.push(Reason::new(code, detail).since(pause.since));
            }
        }
    }

    fn scheduled_reason(&self) -> Reason {
        // If it was rescheduled after its last run, that run does not explain the time.
        let last = self
            .last_run
            .as_ref()
            .filter(|run| run.next_run_at == Some(self.run_at));
        let detail = match last {
            _ if self.run_at <= self.now => {
                "it has just come due, and becomes ready when a worker next polls".to_owned()
            }
            None => "it is not due yet".to_owned(),
            Some(run) => {
                let with = run
                    .error_code
                    .as_ref()
                    .map_or(String::new(), |code| format!(" (`{code}`)"));
                match run.outcome.as_str() {
                    "snoozed" => format!("its last run snoozed it{with}, which used no attempt"),
                    "rate_limited" => {
                        format!("the receiver asked it to wait{with}, which used no attempt")
                    }
                    _ => format!(
                        "it waits for its backoff after a failed run{with}; {} of {} attempts are \
                         used",
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

    fn no_worker_reason(&self) -> Reason {
        let detail = match self.last_served_at {
            Some(_) => format!(
                "no live worker serves the queue `{}`; the last one stopped",
                self.queue
            ),
            None => format!(
                "no live worker serves the queue `{}`, and none is on record",
                self.queue
            ),
        };
        Reason::new(ReasonCode::NoWorker, detail).since(self.last_served_at)
    }

    fn add_breaker(&self, reasons: &mut Vec<Reason>) {
        let lane = self.lane_name();
        let until = self.lane.parked_until;
        let waits = self.state == JobState::Scheduled;
        let detail = match self.lane.breaker {
            Breaker::Open if until.is_some_and(|until| !waits || until > self.run_at) => format!(
                "the breaker of {lane} is open after {}: one job is tried when its rest is over",
                counted(self.lane.failures, "failure")
            ),
            // The first job is the trial itself.
            Breaker::Open if until.is_none() && !waits && self.ahead > 0 => format!(
                "the breaker of {lane} has rested: the first job in line is tried next, and the \
                 others wait for its outcome"
            ),
            Breaker::HalfOpen if !waits => format!(
                "the breaker of {lane} is half open: one job is being tried, and the others wait for \
                 its outcome"
            ),
            _ => return,
        };
        let reason = Reason::new(ReasonCode::BreakerOpen, detail).since(self.lane.parked_at);
        reasons.push(reason.until(until));
    }

    fn add_ordering_head(&self, reasons: &mut Vec<Reason>) {
        let Some(head) = &self.head else { return };
        if head.job == self.job || self.state == JobState::Scheduled && !head.begun {
            return;
        }
        let how = match (head.state, head.begun) {
            (JobState::Running, _) => "runs",
            (JobState::Scheduled, _) => "has started and waits for its next attempt",
            (_, true) => "has started and is ready to continue",
            _ => "is ready, and first in line",
        };
        let detail = format!(
            "{} runs one job after another, and {} {how}",
            self.lane_name(),
            head.job
        );
        let ahead = Some(self.ahead).filter(|_| self.state == JobState::Ready);
        reasons.push(Reason {
            // The head goes first even where priority and due time would put it after this job.
            ahead: ahead.map(|ahead| ahead.max(1)),
            ..Reason::new(ReasonCode::OrderingHead, detail)
        });
    }

    /// Adds limits on starts that are used up, the one that opens last first.
    fn add_rate_limits(&self, reasons: &mut Vec<Reason>) {
        let mut closed: Vec<Reason> = self
            .limiters()
            .filter_map(|limiter| {
                let wait = limiter.wait()?;
                let detail = format!(
                    "{} is used up: {}{}",
                    self.limit_name(limiter),
                    limiter.rate_text(),
                    limiter.cost_text()
                );
                let until = self.now.checked_add_signed(wait);
                Some(Reason::new(ReasonCode::RateLimited, detail).until(until))
            })
            .collect();
        if let (Breaker::Closed, Some(until)) = (self.lane.breaker, self.lane.parked_until) {
            let detail = format!("the receiver asked {} to pause", self.lane_name());
            let reason = Reason::new(ReasonCode::RateLimited, detail).since(self.lane.parked_at);
            closed.push(reason.until(Some(until)));
        }
        if self.state == JobState::Scheduled {
            closed.retain(|reason| reason.until > Some(self.run_at));
        }
        closed.sort_by_key(|reason| std::cmp::Reverse(reason.until));
        reasons.extend(closed);
    }

    /// Adds limits on running jobs. Not for a job that is not due yet: a slot can be free by then.
    fn add_concurrency_limits(&self, reasons: &mut Vec<Reason>) {
        if self.state == JobState::Scheduled {
            return;
        }
        for limiter in self.limiters().filter(|limiter| limiter.full) {
            let Some(most) = limiter.max_running else {
                continue;
            };
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
        if let Some(slots) = self.slots_all_taken {
            let taken = match slots {
                1 => "the only slot of the live workers is taken".to_owned(),
                _ => format!("all {slots} slots of the live workers are taken"),
            };
            let detail = format!("{taken} in the queue `{}`", self.queue);
            reasons.push(Reason::new(ReasonCode::ConcurrencyLimit, detail));
        }
    }

    /// Adds the job's turn, if other jobs go first or there is no other reason.
    fn add_behind(&self, reasons: &mut Vec<Reason>) {
        let is_ordering_head = |reason: &Reason| reason.code == ReasonCode::OrderingHead;
        if self.ahead == 0 && !reasons.is_empty() || reasons.iter().any(is_ordering_head) {
            return;
        }
        let prefix = if self.worker_lost {
            "its worker died, and workers retry such jobs one at a time: "
        } else {
            ""
        };
        let turn = match self.ahead {
            0 => "it is the first in its lane, and starts when a worker next polls".to_owned(),
            1 => "1 job of its lane goes first".to_owned(),
            ahead => {
                let least = if self.ahead_is_minimum {
                    "at least "
                } else {
                    ""
                };
                format!("{least}{ahead} jobs of its lane go first")
            }
        };
        let others = match (self.other_ready_lanes, self.other_ready_lanes_is_minimum) {
            (0, _) => String::new(),
            (1, false) => "; 1 other lane of the tenant in this queue has ready jobs".to_owned(),
            (lanes, is_minimum) => {
                let least = if is_minimum { "at least " } else { "" };
                format!("; {least}{lanes} other lanes of the tenant in this queue have ready jobs")
            }
        };
        let detail = format!("{prefix}{turn}{others}");
        reasons.push(Reason {
            ahead: Some(self.ahead),
            // A job that was put back after its worker died has been due since its first time.
            since: Some(self.run_at.max(self.created_at)),
            ..Reason::new(ReasonCode::Behind, detail)
        });
    }

    fn limiters(&self) -> impl Iterator<Item = &Limiter> {
        self.limiters.iter().flatten()
    }

    /// `attempt 2 of 5`.
    fn attempt_text(&self) -> String {
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
        match (limiter.scope, &limiter.key) {
            (LimitScope::Queue, _) => format!("the limit of the queue `{}`", self.queue),
            (LimitScope::Tenant, _) => "the tenant's own limit".to_owned(),
            (LimitScope::Lane, _) => format!("the limit of {}", self.lane_name()),
            (LimitScope::Key, Some(key)) => format!("the tenant's limit `{key}`"),
            (LimitScope::Key, None) => "a limit of the tenant".to_owned(),
        }
    }
}

impl Limiter {
    /// How long until the limit on starts admits the job; `None` if it does now.
    pub(super) fn wait(&self) -> Option<TimeDelta> {
        let every = self.every_us?;
        // As in the SQL function queue.claim: a start that costs more than the burst is granted once the
        // limiter has been idle.
        let cost = every.saturating_mul(i64::from(self.cost));
        let burst = every.saturating_mul(self.burst.unwrap_or(1).into());
        let wait = self.ahead_us.saturating_add(cost) - burst.max(cost);
        (wait > 0).then(|| TimeDelta::microseconds(wait))
    }

    /// `30 starts in 1m, 3 at once`.
    fn rate_text(&self) -> String {
        format!(
            "{} in {}, {} at once",
            counted(self.rate_count.unwrap_or_default(), "start"),
            HumanDuration(Duration::from_micros(self.period_us.unwrap_or_default())),
            self.burst.unwrap_or(1)
        )
    }

    fn cost_text(&self) -> String {
        match self.cost {
            0 | 1 => String::new(),
            cost => format!(", and this one counts for {cost}"),
        }
    }
}

fn counted(count: u32, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{s}")
}

fn to_the_second(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
