//! The cost of a single request and of its rate limits.
//!
//! Returns milliseconds of requests at an even pace, and of charges alone. A request is sent when it is
//! due, whether or not earlier ones have been answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use harkara_accounts::KeyTier;
use harkara_accounts::{Policies, Policy, Strategy};
use harkara_api::limits::RequestLimits;
use harkara_shared::database::{self, DatabaseSettings};
use harkara_shared::vault::MasterKeys;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::Harkara;
use super::http::{JOB, tenant_key};
use crate::child::{Part, Process};
use crate::table::percentiles;
use crate::wire::{Connection, get_as, post};

/// Requests per second.
const REQUEST_RATE: u32 = 200;

/// Requests at the start that are not counted, because caches and connections are cold.
const WARM_UP_REQUESTS: usize = 50;

/// Connections over which the requests are spread.
const CONNECTIONS: usize = 16;

/// Callers of a hot key, at each of two replicas.
const HOT_CALLERS: usize = 4;

impl Harkara {
    /// Milliseconds of `GET /v1/jobs/{id}` at a real API process.
    pub(crate) async fn paced_requests(&self, requests: usize) -> anyhow::Result<[f64; 4]> {
        let master_key = MasterKeys::generate();
        let key = tenant_key(self.engine.pool(), &master_key).await?;
        let mut api = Process::start(Part::Api, &self.url, &master_key)?;
        api.ready().await?;
        let mut connection = Connection::open(api.address).await?;
        let (status, body) = connection.ask(&post("/v1/jobs", &key, JOB)).await?;
        ensure!(status == 201, "response to the job: {status}: {body}");
        let job: serde_json::Value = serde_json::from_str(&body)?;
        let id = job["id"].as_str().context("a job has an id")?;
        let request = Arc::new(get_as(&format!("/v1/jobs/{id}"), &key));
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let connection = Connection::open(api.address).await?;
            connections.push(Arc::new(Mutex::new(connection)));
        }
        let took = paced(requests, async |n| {
            let connection = connections.get(n % CONNECTIONS).cloned();
            let (connection, request) = (
                connection.context("no open connection")?,
                Arc::clone(&request),
            );
            Ok(async move {
                let (status, body) = connection.lock().await.ask(&request).await?;
                ensure!(status == 200, "response to a job: {status}: {body}");
                anyhow::Ok(())
            })
        })
        .await?;
        api.end().await?;
        Ok(percentiles(took))
    }

    /// Milliseconds of charges alone at the same pace, of `keys` keys in turn, over two replicas.
    pub(crate) async fn paced_charges(
        &self,
        keys: usize,
        charges: usize,
    ) -> anyhow::Result<[f64; 4]> {
        let replicas = self.replicas()?;
        let policies = KeyTier::Enterprise.policies();
        let took = paced(charges, async |n| {
            let (limits, policies) = (replicas[n % 2].clone(), policies.clone());
            let subject = format!("bench:{}", n / 2 % keys);
            Ok(async move {
                let charge = limits.charge(&subject, &policies).await?;
                ensure!(charge.allowed(), "a charge was refused");
                anyhow::Ok(())
            })
        })
        .await?;
        Ok(percentiles(took))
    }

    /// Milliseconds of charges of one key, over two replicas, by callers that repeat without a pause; and
    /// charges per second.
    pub(crate) async fn hot_charges(&self, charges: usize) -> anyhow::Result<([f64; 4], f64)> {
        let replicas = self.replicas()?;
        let hour = Duration::from_secs(3600);
        let limit = |name| Policy::new(name, Strategy::SlidingWindow, 1_000_000_000, 0, hour);
        let policies = Policies::new(vec![limit("hour"), limit("day")])?;
        let each = charges / (2 * HOT_CALLERS);
        let mut calling = JoinSet::new();
        let from = Instant::now();
        for limits in replicas
            .iter()
            .flat_map(|one| vec![one.clone(); HOT_CALLERS])
        {
            let policies = policies.clone();
            calling.spawn(async move {
                let mut took = Vec::with_capacity(each);
                for _ in 0..each {
                    let from = Instant::now();
                    let charge = limits.charge("bench:hot", &policies).await?;
                    ensure!(charge.allowed(), "a charge was refused");
                    took.push(from.elapsed().as_secs_f64() * 1000.0);
                    // In the API, a handler runs between two charges.
                    tokio::task::yield_now().await;
                }
                anyhow::Ok(took)
            });
        }
        let mut took = Vec::new();
        for one in calling.join_all().await {
            took.extend(one?);
        }
        let rate = crate::table::rate(took.len(), from.elapsed());
        Ok((percentiles(took), rate))
    }

    /// The limits of two API processes, with connections of their own.
    fn replicas(&self) -> anyhow::Result<[RequestLimits; 2]> {
        let settings = DatabaseSettings::new(&self.url);
        Ok([
            RequestLimits::new(database::pool(&settings, "bench")?),
            RequestLimits::new(database::pool(&settings, "bench")?),
        ])
    }
}

/// Runs `work` at [`REQUEST_RATE`], whether or not earlier runs have ended, and returns the milliseconds of
/// each run.
async fn paced<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
    times: usize,
    work: impl AsyncFn(usize) -> anyhow::Result<F>,
) -> anyhow::Result<Vec<f64>> {
    let from = tokio::time::Instant::now();
    let mut working = JoinSet::new();
    for n in 0..times + WARM_UP_REQUESTS {
        let due = from + Duration::from_secs(1) * u32::try_from(n)? / REQUEST_RATE;
        sleep_until(due).await;
        let work = work(n).await?;
        // Not from `due`: a timer wakes up to a millisecond late.
        let called = Instant::now();
        working.spawn(async move {
            work.await?;
            anyhow::Ok((n, called.elapsed().as_secs_f64() * 1000.0))
        });
    }
    let mut took = Vec::with_capacity(times);
    for one in working.join_all().await {
        let (n, millis) = one?;
        if n >= WARM_UP_REQUESTS {
            took.push(millis);
        }
    }
    Ok(took)
}
