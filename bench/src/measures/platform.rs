//! Measures of the platform's processes, for which the peers have no counterpart.
//!
//! Never measures the engine alone.

use super::{Bench, DATABASE, HARKARA};

/// Contenders of the section `webhook-latency`.
pub(crate) const ALL_WELL: &str = "all endpoints well";
pub(crate) const TWO_ILL: &str = "one hangs, one answers 500";

/// Contenders of the section `requests`.
pub(crate) const GET_JOB: &str = "`GET /v1/jobs/{id}` at 200/s";
pub(crate) const CHARGES: &str = "charges at 200/s, 100 keys in turn";
pub(crate) const CHARGES_OF_ONE: &str = "charges at 200/s, one key";
pub(crate) const HOT_CHARGES: &str = "charges of one key at full speed";

impl Bench {
    pub(super) async fn requests(&mut self) {
        let paced = self.plan.paced;
        let measured = self
            .ours_fresh(async |harkara| harkara.paced_requests(paced).await)
            .await;
        self.keep("requests", GET_JOB, measured);
        for (name, keys) in [(CHARGES, 100), (CHARGES_OF_ONE, 1)] {
            let measured = self
                .ours_fresh(async |harkara| harkara.paced_charges(keys, paced).await)
                .await;
            self.keep("requests", name, measured);
        }
        let measured = self
            .ours_fresh(async |harkara| harkara.hot_charges(self.plan.hot).await)
            .await;
        if let Ok((_, rate)) = &measured {
            crate::print_line(&format!("  {HOT_CHARGES}: {rate:.0}/s"));
        }
        self.keep("requests", HOT_CHARGES, measured.map(|(took, _)| took));
    }

    pub(super) async fn platform(&mut self, measure: &str) {
        match measure {
            "http" => {
                let jobs = self.plan.http;
                let measured = self
                    .ours_fresh(async |harkara| harkara.http(64, jobs).await)
                    .await;
                let measured = measured.map(|http| [http.requests, http.batch]);
                self.keep("http", HARKARA, measured);
            }
            "webhooks" => {
                let (events, superuser) = (self.plan.webhooks, self.arena.peer_url(DATABASE));
                let measured = self
                    .ours_fresh(async |harkara| harkara.webhooks(events, &superuser).await)
                    .await;
                self.keep("webhooks", HARKARA, measured.map(|rate| [rate]));
                let paced = self.plan.paced_events;
                for (name, ill) in [(ALL_WELL, false), (TWO_ILL, true)] {
                    let measured = self
                        .ours_fresh(async |harkara| harkara.webhook_latency(paced, ill).await)
                        .await;
                    self.keep("webhook-latency", name, measured);
                }
            }
            "steering" => {
                let ([finished, ready], times) = (self.plan.steering, self.plan.asked);
                let superuser = self.arena.peer_url(DATABASE);
                let measured = self
                    .ours_fresh(async |harkara| {
                        harkara.steering(finished, ready, times, &superuser).await
                    })
                    .await;
                match measured {
                    Ok(asked) => {
                        for one in asked {
                            self.keep("steering", &one.name, Ok(one.took));
                        }
                    }
                    Err(error) => self.failed(HARKARA, "steering", &error),
                }
            }
            "memory" => {
                let measured = self
                    .ours_fresh(async |harkara| harkara.memory().await)
                    .await;
                self.keep("memory", HARKARA, measured.map(|memory| [memory]));
            }
            _ => {
                let (arena, during) = (&self.arena, self.plan.idle);
                let measured = self
                    .ours_fresh(async |harkara| harkara.idle(arena, DATABASE, during).await)
                    .await;
                let measured =
                    measured.map(|idle| [idle.processor, idle.transactions, idle.memory]);
                self.keep("idle", HARKARA, measured);
            }
        }
    }
}
