//! Harkara's webhook deliveries, through a real worker process to receivers on this machine.
//!
//! Returns deliveries per second, signed and logged, and the time of each from its event on. Never counts
//! a delivery whose attempt is not in the log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use harkara_accounts::{self as accounts, NewTenant, SlaTier};
use harkara_queue::job::Trace;
use harkara_queue::settings::{LimitChange, TenantChange};
use harkara_shared::audit::Actor;
use harkara_shared::database::{self, DatabaseSettings, TenantTx, query_scalar};
use harkara_shared::id::TenantId;
use harkara_shared::vault::MasterKeys;
use harkara_webhooks::{EndpointChange, NewEndpoint, NewEvent, create_endpoint, lane, post_event};
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use super::Harkara;
use crate::child::{Part, Process};
use crate::table::{count, percentiles};
use crate::wire::Sink;

/// Endpoints, which all receive every event.
const ENDPOINTS: usize = 5;

/// Callers that post events.
const POSTERS: usize = 16;

/// Endpoints of the paced measure; two of them can be failing ones.
const MANY: usize = 100;

/// Time between two events of the paced measure.
const PACE: Duration = Duration::from_millis(200);

impl Harkara {
    /// Posts events, then starts a worker; deliveries per second between the first and the last one that
    /// the receiver got. `superuser` reads the log of all tenants.
    pub(crate) async fn webhooks(&self, events: usize, superuser: &str) -> anyhow::Result<f64> {
        let deliveries = events * ENDPOINTS;
        let master_key = MasterKeys::generate();
        let sink = Sink::start(deliveries).await?;
        let paths: Vec<String> = (0..ENDPOINTS).map(|nth| nth.to_string()).collect();
        let tenant = self.subscribe(&master_key, &sink, &paths).await?;
        let mut posting = JoinSet::new();
        for poster in 0..POSTERS {
            let harkara = self.clone();
            posting.spawn(async move {
                for nth in (poster..events).step_by(POSTERS) {
                    harkara.post(tenant, format!("e{nth}")).await?;
                }
                anyhow::Ok(())
            });
        }
        for posted in posting.join_all().await {
            posted?;
        }
        let worker = Process::start(Part::Worker, &self.url, &master_key)?;
        let took = tokio::time::timeout(Duration::from_secs(120), sink.all())
            .await
            .with_context(|| format!("{} of {deliveries} deliveries arrived", sink.hits()))?;
        logged(superuser, deliveries).await?;
        worker.end().await?;
        Ok(count(deliveries) / took)
    }

    /// Posts events at an even pace to a hundred endpoints; milliseconds from each event's commit to its
    /// arrival at the healthy endpoints. With `ill`, one of the others never responds and one responds
    /// with 500.
    pub(crate) async fn webhook_latency(
        &self,
        events: usize,
        ill: bool,
    ) -> anyhow::Result<[f64; 4]> {
        let well = MANY - 2;
        let master_key = MasterKeys::generate();
        let sink = Sink::start(events * well).await?;
        let paths: Vec<String> = (0..MANY)
            .map(|nth| match nth {
                0 if ill => "hang".to_owned(),
                1 if ill => "500".to_owned(),
                0 | 1 => format!("spare-{nth}"),
                _ => format!("well-{nth}"),
            })
            .collect();
        let tenant = self.subscribe(&master_key, &sink, &paths).await?;
        let worker = Process::start(Part::Worker, &self.url, &master_key)?;
        // The work of the worker's start is not part of the measure.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut posted: HashMap<String, Instant> = HashMap::new();
        let mut ticks = tokio::time::interval(PACE);
        for nth in 0..events {
            ticks.tick().await;
            let id = format!("e{nth}");
            self.post(tenant, id.clone()).await?;
            posted.insert(id, Instant::now());
        }
        tokio::time::timeout(Duration::from_secs(60), sink.all())
            .await
            .with_context(|| format!("{} deliveries arrived", sink.hits()))?;
        worker.end().await?;
        let mut took = Vec::with_capacity(events * well);
        for (id, arrived) in sink.arrivals() {
            let since = posted.get(&id).context("a delivery of an unknown event")?;
            let wait = arrived.saturating_duration_since(*since);
            took.push(wait.as_secs_f64() * 1000.0);
        }
        ensure!(took.len() == events * well, "{} arrivals", took.len());
        Ok(percentiles(took))
    }

    async fn subscribe(
        &self,
        master_key: &str,
        sink: &Sink,
        paths: &[String],
    ) -> anyhow::Result<TenantId> {
        let tenant = NewTenant {
            slug: "bench".to_owned(),
            name: "bench".to_owned(),
            sla_tier: SlaTier::Enterprise,
        };
        let tenant = accounts::create_tenant(self.engine.pool(), tenant, &Actor::system("bench"))
            .await?
            .id;
        // Its tier would limit it to fifty deliveries per second.
        let unlimited = TenantChange {
            limit: LimitChange::removal(),
            ..TenantChange::default()
        };
        self.engine.set_tenant(tenant, &unlimited).await?;
        let keys = MasterKeys::parse(master_key)?;
        for path in paths {
            let new = NewEndpoint {
                url: format!("http://{}/{path}", sink.address),
                rest: EndpointChange::default(),
                secret: None,
            };
            let mut tx = TenantTx::begin(self.engine.pool(), tenant).await?;
            let (endpoint, _) = create_endpoint(&mut tx, &keys, new).await?;
            tx.commit().await?;
            lane::apply_limits(&self.engine, tenant, &endpoint).await?;
        }
        Ok(tenant)
    }

    async fn post(&self, tenant: TenantId, id: String) -> anyhow::Result<()> {
        let data = RawValue::from_string(r#"{"invoice":"in_42","amount":1200}"#.to_owned())?;
        let event = NewEvent {
            id: Some(id),
            ..NewEvent::new("bench.posted", data)
        };
        let mut tx = TenantTx::begin(self.engine.pool(), tenant).await?;
        post_event(&mut tx, &self.engine, event, Trace::default()).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Waits until every delivery's attempt is in the log.
async fn logged(superuser: &str, deliveries: usize) -> anyhow::Result<()> {
    let pool = database::pool(&DatabaseSettings::new(superuser), "bench-log")?;
    let mut found = 0;
    for _ in 0..200 {
        let attempts: i64 =
            query_scalar("select count(*) from app.delivery_attempts where status_code = 200")
                .fetch_one(&pool)
                .await?;
        found = usize::try_from(attempts)?;
        if found == deliveries {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    pool.close().await;
    ensure!(
        found == deliveries,
        "{found} of {deliveries} deliveries are logged"
    );
    Ok(())
}
