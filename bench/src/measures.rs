//! Which contenders are measured, how, and in which order.
//!
//! A contender that fails is noted, and the run continues with the others.

mod lasting;
mod platform;

pub(crate) use platform::{ALL_WELL, CHARGES, GET_JOB, HOT_CHARGES, TWO_ILL};

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;

use crate::arena::{Arena, Cost, OURS};
use crate::ours::enqueue::EnqueueMode;
use crate::ours::limits::Limit;
use crate::ours::{Harkara, Rows};
use crate::peers::{PEERS, Peer, PeerPaths, Redis};
use crate::plan::Plan;
use crate::print_line;
use crate::table::{Results, count, number, percentiles, rate};

/// Harkara's database, recreated for every measure.
const DATABASE: &str = "bench_harkara";

/// The contender's name where Harkara takes part in one form only.
const HARKARA: &str = "Harkara";

/// The names that `--only` accepts.
pub(crate) const MEASURES: &[&str] = &[
    "drain", "defaults", "bulk-200", "single", "latency", "held", "backlog", "history", "fairness",
    "limits", "http", "requests", "webhooks", "memory", "idle", "steering",
];

/// A run of the benchmark.
pub(crate) struct Bench {
    pub(crate) arena: Arena,
    pub(crate) plan: Plan,
    pub(crate) results: Results,
    peers: Vec<&'static Peer>,
    peer_paths: PeerPaths,
    worker_slots: u32,
    redis: Option<Redis>,
    _directory: TempDir,
}

impl Bench {
    /// Starts the server, and Redis where a peer needs it, and creates every peer's schema.
    pub(crate) async fn start(
        plan: Plan,
        wanted: impl Fn(&Peer) -> bool,
        peer_paths: PeerPaths,
        worker_slots: u32,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let arena = Arena::start(&directory.path().join("postgres")).await?;
        let mut bench = Self {
            arena,
            plan,
            results: Results::default(),
            peers: Vec::new(),
            peer_paths,
            worker_slots,
            redis: None,
            _directory: directory,
        };
        for peer in PEERS.iter().filter(|peer| wanted(peer)) {
            match bench.set_up_peer(peer).await {
                Ok(()) => bench.peers.push(peer),
                Err(error) => bench.failed(peer.name, "setup", &error),
            }
        }
        Ok(bench)
    }

    /// Creates a peer's schema in the database that is the template of its others.
    async fn set_up_peer(&mut self, peer: &Peer) -> anyhow::Result<()> {
        anyhow::ensure!(peer.is_installed(&self.peer_paths), "not installed");
        if peer.redis && self.redis.is_none() {
            self.redis = Some(Redis::start(self._directory.path()).await?);
        }
        let template = template(peer);
        self.arena.fresh("template1", &template).await?;
        self.program(peer, &template, &["setup"]).await?;
        self.arena.meter(&template).await?;
        Ok(())
    }

    fn failed(&mut self, contender: &str, measure: &str, error: &anyhow::Error) {
        print_line(&format!("  {contender}: {measure} failed: {error:#}"));
        self.results
            .add_note(format!("{contender}: no {measure}: {error:#}."));
    }

    /// Adds what was measured, or the reason why nothing was.
    fn keep<const N: usize>(
        &mut self,
        section: &'static str,
        contender: &str,
        measured: anyhow::Result<[f64; N]>,
    ) {
        match measured {
            Ok(columns) => {
                let shown = columns.map(number).join("  ");
                print_line(&format!("  {section:<13} {contender:<24} {shown}"));
                self.results.put(section, contender, &columns);
            }
            Err(error) => self.failed(contender, section, &error),
        }
    }

    /// Runs a peer's program on one of its databases.
    async fn program(
        &self,
        peer: &Peer,
        database: &str,
        arguments: &[&str],
    ) -> anyhow::Result<Value> {
        let url = self.arena.peer_url(database);
        let redis = self.redis.as_ref().map(|redis| redis.socket.clone());
        peer.run(
            &self.peer_paths,
            &url,
            &redis.unwrap_or_default(),
            arguments,
        )
        .await
    }

    /// Recreates a peer's database, empty.
    async fn peer_fresh(&self, peer: &Peer) -> anyhow::Result<()> {
        self.arena.fresh(&template(peer), peer.database).await?;
        if peer.redis {
            self.program(peer, peer.database, &["setup"]).await?;
        }
        Ok(())
    }

    /// Jobs per second of a peer's program, and their cost.
    async fn peer_rate(&self, peer: &Peer, arguments: &[&str]) -> anyhow::Result<[f64; 3]> {
        let meter = self.arena.meter(peer.database).await?;
        let answer = self.program(peer, peer.database, arguments).await?;
        let cost = self.arena.cost(peer.database, meter).await?;
        let jobs = member(&answer, "jobs")?;
        let per_second = jobs / member(&answer, "seconds")?;
        if peer.redis {
            return Ok([per_second, f64::NAN, f64::NAN]);
        }
        Ok(with_cost(per_second, cost, jobs))
    }

    /// Recreates Harkara's database, empty.
    pub(crate) async fn fresh(&self) -> anyhow::Result<()> {
        self.arena.fresh(OURS, DATABASE).await
    }

    /// Runs `work` with Harkara on its database, and returns its result and cost.
    async fn ours<T>(
        &self,
        work: impl AsyncFnOnce(&Harkara) -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Cost)> {
        let meter = self.arena.meter(DATABASE).await?;
        let harkara = Harkara::open(&self.arena.url(DATABASE), self.worker_slots)?;
        let done = work(&harkara).await;
        harkara.close().await;
        let cost = self.arena.cost(DATABASE, meter).await?;
        Ok((done?, cost))
    }

    /// As [`Self::ours`], on an empty database and without the cost.
    async fn ours_fresh<T>(
        &self,
        work: impl AsyncFnOnce(&Harkara) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.fresh().await?;
        Ok(self.ours(work).await?.0)
    }

    /// Runs one measure with every contender in turn.
    pub(crate) async fn measure(&mut self, measure: &str, first_round: bool) -> anyhow::Result<()> {
        let peers = self.peers.clone();
        // Measures that take a peer minutes are made once.
        let big: Vec<&Peer> = peers
            .iter()
            .copied()
            .filter(|peer| peer.enduring && first_round && !self.plan.quick)
            .collect();
        match measure {
            "drain" => self.drain(&peers).await,
            "defaults" => self.defaults(&peers).await,
            "bulk-200" => {
                let measured = self.bulk_200().await;
                self.keep("bulk-200", Rows::Packed.contender(), measured);
            }
            "single" => self.single(&peers).await,
            "latency" => self.latency(&peers).await,
            "held" => self.held(&big).await,
            "backlog" => self.backlog(&big).await,
            "history" => self.history(&big).await,
            "fairness" => self.fairness().await,
            "limits" => self.limits(first_round).await,
            "requests" => self.requests().await,
            "http" | "webhooks" | "memory" | "idle" | "steering" => self.platform(measure).await,
            unknown => anyhow::bail!("`{unknown}` is none of {}", MEASURES.join(", ")),
        }
        Ok(())
    }

    async fn drain(&mut self, peers: &[&Peer]) {
        for rows in [Rows::Packed, Rows::Single] {
            let bulk = self.bulk(self.plan.drain, rows).await;
            let filled = bulk.is_ok();
            self.keep("bulk", rows.contender(), bulk);
            if !filled {
                continue;
            }
            let jobs = self.plan.drain;
            let drained = self.ours(async |harkara| harkara.drain(jobs).await).await;
            let drained = drained.map(|(rate, cost)| with_cost(rate, cost, count(jobs)));
            if let Ok([rate, ..]) = drained {
                self.results.put("defaults", rows.contender(), &[rate]);
            }
            self.keep("drain", rows.contender(), drained);
        }
        for peer in peers {
            let jobs = share(self.plan.peer_drain, peer);
            let bulk = match self.peer_fresh(peer).await {
                Ok(()) => self.peer_rate(peer, &["bulk", &jobs]).await,
                Err(error) => Err(error),
            };
            let filled = bulk.is_ok();
            self.keep("bulk", peer.name, bulk);
            if filled {
                let drained = self.peer_rate(peer, &["drain", &jobs]).await;
                self.keep("drain", peer.name, drained);
            }
        }
    }

    async fn bulk(&self, jobs: usize, rows: Rows) -> anyhow::Result<[f64; 3]> {
        self.fresh().await?;
        let work = async |harkara: &Harkara| {
            let from = Instant::now();
            harkara.fill(harkara.tenant, jobs, rows).await?;
            anyhow::Ok(rate(jobs, from.elapsed()))
        };
        let (rate, cost) = self.ours(work).await?;
        self.ours(async |harkara| harkara.check(jobs, rows).await)
            .await?;
        Ok(with_cost(rate, cost, count(jobs)))
    }

    async fn bulk_200(&self) -> anyhow::Result<[f64; 3]> {
        self.fresh().await?;
        let jobs = self.plan.drain;
        let (rate, cost) = self
            .ours(async |harkara| harkara.bulk_200(jobs).await)
            .await?;
        Ok(with_cost(rate, cost, count(jobs)))
    }

    async fn defaults(&mut self, peers: &[&Peer]) {
        for peer in peers {
            let Some(jobs) = peer.defaults else { continue };
            let jobs = jobs.to_string();
            let run = async {
                self.peer_fresh(peer).await?;
                self.program(peer, peer.database, &["bulk", &jobs]).await?;
                let [rate, ..] = self.peer_rate(peer, &["drain", &jobs, "default"]).await?;
                anyhow::Ok([rate])
            };
            let measured = run.await;
            self.keep("defaults", peer.name, measured);
        }
    }

    async fn single(&mut self, peers: &[&Peer]) {
        let jobs = self.plan.single;
        for mode in EnqueueMode::ALL {
            // Coalesced enqueues are so fast that more of them are needed.
            let jobs = jobs * mode.speed();
            let run = async {
                self.fresh().await?;
                let (rate, cost) = self
                    .ours(async |harkara| harkara.singles(mode, 16, jobs).await)
                    .await?;
                anyhow::Ok(with_cost(rate, cost, count(jobs)))
            };
            let measured = run.await;
            self.keep("single", mode.contender(), measured);
        }
        for peer in peers {
            let words = ["single", "16", &jobs.to_string()];
            let measured = match self.peer_fresh(peer).await {
                Ok(()) => self.peer_rate(peer, &words).await,
                Err(error) => Err(error),
            };
            self.keep("single", peer.name, measured);
        }
    }

    async fn latency(&mut self, peers: &[&Peer]) {
        let paces = [("latency-50", 50), ("latency-1000", 1000)];
        for ((section, pace), jobs) in paces.into_iter().zip(self.plan.latency) {
            for mode in EnqueueMode::ALL {
                let waits = self
                    .ours_fresh(async |harkara| harkara.latency(mode, jobs, pace).await)
                    .await;
                self.keep(section, mode.contender(), waits.map(percentiles));
            }
            for peer in peers {
                let words = ["latency", &jobs.to_string(), &pace.to_string()];
                let run = async {
                    self.peer_fresh(peer).await?;
                    let answer = self.program(peer, peer.database, &words).await?;
                    let lost = member(&answer, "lost")?;
                    anyhow::ensure!(lost < 1.0, "{lost} of {jobs} jobs did not start in time");
                    anyhow::Ok([
                        member(&answer, "p50")?,
                        member(&answer, "p95")?,
                        member(&answer, "p99")?,
                        member(&answer, "max")?,
                    ])
                };
                let measured = run.await;
                self.keep(section, peer.name, measured);
            }
        }
    }
}

/// The limits that are observed.
const LIMITS: [(&str, Limit); 2] = [
    (
        "Harkara, 30/min, burst 3",
        Limit {
            starts: 30,
            per: Duration::from_secs(60),
            burst: 3,
        },
    ),
    (
        "Harkara, 100/s, burst 10",
        Limit {
            starts: 100,
            per: Duration::from_secs(1),
            burst: 10,
        },
    ),
];

/// The template of a peer's databases.
fn template(peer: &Peer) -> String {
    format!("{}_template", peer.database)
}

/// A peer's share of a number of jobs, as an argument.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count"
)]
fn share(jobs: usize, peer: &Peer) -> String {
    ((count(jobs) * peer.share) as usize).to_string()
}

fn member(answer: &Value, name: &str) -> anyhow::Result<f64> {
    answer
        .get(name)
        .and_then(Value::as_f64)
        .with_context(|| format!("no `{name}` in {answer}"))
}

fn with_cost(rate: f64, cost: Cost, jobs: f64) -> [f64; 3] {
    [rate, cost.wal / jobs, cost.transactions * 1000.0 / jobs]
}
