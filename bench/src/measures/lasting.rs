//! Measures with many earlier, waiting or foreign jobs: snapshots, backlogs, history, fairness, limits.
//!
//! Never compares figures of different rounds.

use super::{Bench, HARKARA, LIMITS, share};
use crate::arena::{Snapshot, vacuum};
use crate::ours::{Harkara, Rows};
use crate::peers::Peer;
use crate::table::percentiles;

/// The table without a backlog holds this fraction (one third) more jobs than are timed, because a
/// contender's last batches differ from the others.
const SPARE_JOBS_DIVISOR: usize = 3;

impl Bench {
    pub(super) async fn held(&mut self, peers: &[&Peer]) {
        let (dead, jobs) = (self.plan.dead, self.plan.held);
        for rows in [Rows::Packed, Rows::Single] {
            let run = async {
                let mut rates = [0.0; 2];
                for (rate, held) in rates.iter_mut().zip([false, true]) {
                    *rate = self
                        .ours_fresh(async |harkara| {
                            harkara.drain_after(dead, jobs, rows, held).await
                        })
                        .await?;
                }
                anyhow::Ok(against(rates))
            };
            let measured = run.await;
            self.keep("held", rows.contender(), measured);
        }
        for peer in peers {
            let run = async {
                let free = self.peer_held(peer, false).await?;
                anyhow::Ok(against([free, self.peer_held(peer, true).await?]))
            };
            let measured = run.await;
            self.keep("held", peer.name, measured);
        }
    }

    async fn peer_held(&self, peer: &Peer, held: bool) -> anyhow::Result<f64> {
        self.peer_fresh(peer).await?;
        let url = self.arena.peer_url(peer.database);
        let (dead, jobs) = (self.plan.dead.to_string(), self.plan.held.to_string());
        let snapshot = if held {
            Some(Snapshot::take(&url).await?)
        } else {
            None
        };
        let run = async {
            self.program(peer, peer.database, &["bulk", &dead]).await?;
            self.program(peer, peer.database, &["drain", &dead]).await?;
            vacuum(&url).await?;
            self.program(peer, peer.database, &["bulk", &jobs]).await?;
            self.program(peer, peer.database, &["drain", &jobs]).await
        };
        let drained = run.await;
        if let Some(snapshot) = snapshot {
            snapshot.release().await;
        }
        per_second(&drained?)
    }

    pub(super) async fn backlog(&mut self, peers: &[&Peer]) {
        let (jobs, backlog) = (self.plan.drain, self.plan.backlog);
        for rows in [Rows::Packed, Rows::Single] {
            let run = async {
                let mut rates = [0.0; 2];
                for (rate, size) in rates
                    .iter_mut()
                    .zip([jobs + jobs / SPARE_JOBS_DIVISOR, backlog])
                {
                    *rate = self
                        .ours_fresh(async |harkara: &Harkara| {
                            harkara.fill(harkara.tenant, size, rows).await?;
                            vacuum(&self.arena.peer_url(super::DATABASE)).await?;
                            harkara.drain_first(jobs).await
                        })
                        .await?;
                }
                anyhow::Ok(against(rates))
            };
            let measured = run.await;
            self.keep("backlog", rows.contender(), measured);
        }
        let jobs = self.plan.peer_drain;
        // Filling awa takes minutes.
        for peer in peers.iter().filter(|peer| peer.id != "awa") {
            let run = async {
                let free = self
                    .peer_first(peer, jobs + jobs / SPARE_JOBS_DIVISOR)
                    .await?;
                let with = self.peer_first(peer, self.plan.peer_backlog).await?;
                anyhow::Ok(against([free, with]))
            };
            let measured = run.await;
            self.keep("backlog", peer.name, measured);
        }
    }

    async fn peer_first(&self, peer: &Peer, size: usize) -> anyhow::Result<f64> {
        self.peer_fresh(peer).await?;
        let (size, jobs) = (size.to_string(), self.plan.peer_drain.to_string());
        self.program(peer, peer.database, &["bulk", &size]).await?;
        vacuum(&self.arena.peer_url(peer.database)).await?;
        per_second(&self.program(peer, peer.database, &["drain", &jobs]).await?)
    }

    pub(super) async fn history(&mut self, peers: &[&Peer]) {
        let (jobs, history) = (self.plan.drain, self.plan.history);
        for rows in [Rows::Packed, Rows::Single] {
            let run = async {
                let mut rates = [0.0; 2];
                for (rate, before) in rates.iter_mut().zip([0, history]) {
                    *rate = self
                        .ours_fresh(async |harkara: &Harkara| {
                            if before > 0 {
                                harkara.fill(harkara.tenant, before, rows).await?;
                                harkara.drain(before).await?;
                                vacuum(&self.arena.peer_url(super::DATABASE)).await?;
                            }
                            harkara.fill(harkara.tenant, jobs, rows).await?;
                            harkara.drain(jobs).await
                        })
                        .await?;
                }
                anyhow::Ok(against(rates))
            };
            let measured = run.await;
            self.keep("history", rows.contender(), measured);
        }
        let keeping = ["pg_boss", "apalis_postgres"];
        for peer in peers.iter().filter(|peer| keeping.contains(&peer.id)) {
            let run = async {
                let free = self.peer_after(peer, 0).await?;
                let with = self.peer_after(peer, history).await?;
                anyhow::Ok(against([free, with]))
            };
            let measured = run.await;
            self.keep("history", peer.name, measured);
        }
    }

    async fn peer_after(&self, peer: &Peer, history: usize) -> anyhow::Result<f64> {
        self.peer_fresh(peer).await?;
        if history > 0 {
            let history = history.to_string();
            self.program(peer, peer.database, &["bulk", &history])
                .await?;
            self.program(peer, peer.database, &["drain", &history])
                .await?;
            vacuum(&self.arena.peer_url(peer.database)).await?;
        }
        let jobs = share(self.plan.peer_drain, peer);
        self.program(peer, peer.database, &["bulk", &jobs]).await?;
        per_second(&self.program(peer, peer.database, &["drain", &jobs]).await?)
    }

    pub(super) async fn fairness(&mut self) {
        let (noisy, quiet, smallest) = (self.plan.noisy, self.plan.quiet, self.plan.zipf);
        let measured = self
            .ours_fresh(async |harkara| harkara.quiet(noisy, quiet).await)
            .await
            .map(|(waits, drained)| {
                let [p50, p95, p99, max] = percentiles(waits);
                [p50, p95, p99, max, drained]
            });
        self.keep("quiet", HARKARA, measured);
        for rows in [Rows::Packed, Rows::Single] {
            let measured = self
                .ours_fresh(async |harkara| harkara.jain(smallest, rows).await)
                .await;
            self.keep("shares", rows.contender(), measured.map(|index| [index]));
        }
    }

    pub(super) async fn limits(&mut self, first_round: bool) {
        for ((contender, limit), during) in LIMITS.into_iter().zip(self.plan.limits) {
            // Measures that take minutes are made once.
            if during.is_zero() || (!first_round && limit.per > during / 100) {
                continue;
            }
            let jobs = 500.max(usize::try_from(during.as_secs() * 200).unwrap_or(500));
            let measured = self
                .ours_fresh(async |harkara| harkara.limited(limit, jobs, during).await)
                .await;
            let measured = measured.map(|kept| [kept.most, kept.average, kept.most_begun]);
            self.keep("limits", contender, measured);
        }
    }
}

/// The columns of a section, from the rates without and with the burden.
fn against([free, burdened]: [f64; 2]) -> [f64; 3] {
    [burdened, free, free / burdened]
}

fn per_second(answer: &serde_json::Value) -> anyhow::Result<f64> {
    Ok(super::member(answer, "jobs")? / super::member(answer, "seconds")?)
}
