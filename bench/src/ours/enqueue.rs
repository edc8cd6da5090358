//! Harkara's enqueues from within a process, in jobs per second; each job is durable when its call
//! returns.

use std::time::Instant;

use harkara_queue::job::NewJob;
use tokio::task::JoinSet;

use super::{Harkara, PAYLOAD, job};
use crate::table::rate;

/// How single jobs are enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EnqueueMode {
    /// Together with those of other callers in the process, as the API does.
    Coalesced,
    /// Each in a transaction of its own, as with an application's own writes.
    Plain,
}

impl EnqueueMode {
    pub(crate) const ALL: [Self; 2] = [Self::Coalesced, Self::Plain];

    /// The contender's name in the tables.
    pub(crate) fn contender(self) -> &'static str {
        match self {
            Self::Coalesced => "Harkara, coalesced",
            Self::Plain => "Harkara, own transaction",
        }
    }

    /// Factor on the common number of jobs, so that the measure takes long enough.
    pub(crate) fn speed(self) -> usize {
        match self {
            Self::Coalesced => 20,
            Self::Plain => 2,
        }
    }
}

impl Harkara {
    /// Enqueues one job; durable on return.
    pub(crate) async fn enqueue_one(&self, mode: EnqueueMode, payload: &str) -> anyhow::Result<()> {
        match mode {
            EnqueueMode::Coalesced => {
                self.coalescer.enqueue(self.tenant, job(payload)?).await?;
                Ok(())
            }
            EnqueueMode::Plain => self.enqueue(self.tenant, vec![job(payload)?]).await,
        }
    }

    /// Jobs per second of concurrent callers that each wait for one job before the next.
    pub(crate) async fn singles(
        &self,
        mode: EnqueueMode,
        callers: usize,
        jobs: usize,
    ) -> anyhow::Result<f64> {
        self.enqueue_one(mode, PAYLOAD).await?;
        let each = jobs / callers;
        let from = Instant::now();
        let mut calling = JoinSet::new();
        for _ in 0..callers {
            let harkara = self.clone();
            calling.spawn(async move {
                for _ in 0..each {
                    harkara.enqueue_one(mode, PAYLOAD).await?;
                }
                anyhow::Ok(())
            });
        }
        for called in calling.join_all().await {
            called?;
        }
        Ok(rate(each * callers, from.elapsed()))
    }

    /// Jobs per second of one caller: 1000 jobs per call, payloads of 200 incompressible bytes.
    pub(crate) async fn bulk_200(&self, jobs: usize) -> anyhow::Result<f64> {
        let mut payloads = RandomPayloads(1);
        let calls: Vec<Vec<NewJob>> = (0..jobs / 1000)
            .map(|_| (0..1000).map(|_| job(&payloads.payload())).collect())
            .collect::<anyhow::Result<_>>()?;
        let from = Instant::now();
        for call in calls {
            self.enqueue(self.tenant, call).await?;
        }
        Ok(rate(jobs, from.elapsed()))
    }
}

/// Generates payloads without a pattern, the same in every run.
struct RandomPayloads(u64);

impl RandomPayloads {
    /// A payload of 200 bytes.
    fn payload(&mut self) -> String {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let noise: String = (0..192)
            .filter_map(|_| {
                // Knuth's linear congruential generator; its upper bits are the most random.
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
    fn random_payload_is_two_hundred_bytes_of_json() {
        let payload = RandomPayloads(1).payload();
        assert_eq!(payload.len(), 200);
        assert!(job(&payload).is_ok());
    }
}
