//! Room: the measures of the platform's processes, which the peers have nothing to set against.
//! Takes: the run. Gives: samples. Never: measures the engine alone.

use super::{Bench, DATABASE, ONE};

impl Bench {
    pub(super) async fn platform(&mut self, measure: &str) {
        match measure {
            "http" => {
                let jobs = self.plan.http;
                let measured = self
                    .ours_fresh(async |stand| stand.http(64, jobs).await)
                    .await;
                let measured = measured.map(|http| [http.requests, http.batch]);
                self.keep("http", ONE, measured);
            }
            "webhooks" => {
                let (events, superuser) = (self.plan.webhooks, self.arena.peer_url(DATABASE));
                let measured = self
                    .ours_fresh(async |stand| stand.webhooks(events, &superuser).await)
                    .await;
                self.keep("webhooks", ONE, measured.map(|rate| [rate]));
            }
            "steering" => {
                let ([finished, ready], times) = (self.plan.steering, self.plan.asked);
                let superuser = self.arena.peer_url(DATABASE);
                let measured = self
                    .ours_fresh(async |stand| {
                        stand.steering(finished, ready, times, &superuser).await
                    })
                    .await;
                match measured {
                    Ok(asked) => {
                        for one in asked {
                            self.keep("steering", &one.name, Ok(one.took));
                        }
                    }
                    Err(error) => self.failed(ONE, "steering", &error),
                }
            }
            "memory" => {
                let measured = self.ours_fresh(async |stand| stand.memory().await).await;
                self.keep("memory", ONE, measured.map(|memory| [memory]));
            }
            _ => {
                let (arena, during) = (&self.arena, self.plan.idle);
                let measured = self
                    .ours_fresh(async |stand| stand.idle(arena, DATABASE, during).await)
                    .await;
                let measured =
                    measured.map(|idle| [idle.processor, idle.transactions, idle.memory]);
                self.keep("idle", ONE, measured);
            }
        }
    }
}
