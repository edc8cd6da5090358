//! Room: Harkara's enqueues from within a process.
//! Takes: callers and counts. Gives: jobs a second, each durable when its call returns.
//! Never: counts a call that was not answered.

use std::time::Instant;

use harkara_queue::job::NewJob;
use tokio::task::JoinSet;

use super::{PAYLOAD, Stand, job};
use crate::table::rate;

/// How single jobs are enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Together with those of other callers in the process, as the API does.
    Coalesced,
    /// Each in a transaction of its own, as with an application's own writes.
    Plain,
}

impl Way {
    pub(crate) const ALL: [Self; 2] = [Self::Coalesced, Self::Plain];

    /// The contender's name in the tables.
    pub(crate) fn contender(self) -> &'static str {
        match self {
            Self::Coalesced => "Harkara, coalesced",
            Self::Plain => "Harkara, own transaction",
        }
    }

    /// How many times the common number of jobs it takes for a time worth measuring.
    pub(crate) fn speed(self) -> usize {
        match self {
            Self::Coalesced => 20,
            Self::Plain => 2,
        }
    }
}

impl Stand {
    /// Enqueues one job; durable on return.
    pub(crate) async fn enqueue_one(&self, way: Way, payload: &str) -> anyhow::Result<()> {
        match way {
            Way::Coalesced => {
                self.coalescer.enqueue(self.tenant, job(payload)?).await?;
                Ok(())
            }
            Way::Plain => self.enqueue(self.tenant, vec![job(payload)?]).await,
        }
    }

    /// Callers that each wait for the answer before their next job.
    pub(crate) async fn singles(
        &self,
        way: Way,
        callers: usize,
        jobs: usize,
    ) -> anyhow::Result<f64> {
        self.enqueue_one(way, PAYLOAD).await?;
        let each = jobs / callers;
        let from = Instant::now();
        let mut calling = JoinSet::new();
        for _ in 0..callers {
            let stand = self.clone();
            calling.spawn(async move {
                for _ in 0..each {
                    stand.enqueue_one(way, PAYLOAD).await?;
                }
                anyhow::Ok(())
            });
        }
        for called in calling.join_all().await {
            called?;
        }
        Ok(rate(each * callers, from.elapsed()))
    }

    /// One caller, 1000 jobs a call, payloads of 200 bytes that do not compress.
    pub(crate) async fn bulk_200(&self, jobs: usize) -> anyhow::Result<f64> {
        let mut noise = Noise(1);
        let calls: Vec<Vec<NewJob>> = (0..jobs / 1000)
            .map(|_| (0..1000).map(|_| job(&noise.payload())).collect())
            .collect::<anyhow::Result<_>>()?;
        let from = Instant::now();
        for call in calls {
            self.enqueue(self.tenant, call).await?;
        }
        Ok(rate(jobs, from.elapsed()))
    }
}

/// Bytes without a pattern, the same in every run.
struct Noise(u64);

impl Noise {
    /// A payload of 200 bytes.
    fn payload(&mut self) -> String {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let noise: String = (0..192)
            .filter_map(|_| {
                // Knuth's linear congruential generator; its upper bits are the good ones.
                self.0 = self
                    .0
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let at = usize::try_from(self.0 >> 58).ok()?;
                LETTERS.get(at).copied().map(char::from)
            })
            .collect();
        format!(r#"{{"n":"{noise}"}}"#)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noisy_payload_has_two_hundred_bytes_of_json() {
        let payload = Noise(1).payload();
        assert_eq!(payload.len(), 200);
        assert!(job(&payload).is_ok());
    }
}
