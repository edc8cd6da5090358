//! Room: Harkara's webhook deliveries, through a real worker process to a sink on this machine.
//! Takes: events. Gives: deliveries a second, signed and logged. Never: counts a delivery whose
//! attempt is not in the log.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use harkara_api::access::{self, NewTenant, SlaTier};
use harkara_jobs::webhook::{NewEndpoint, NewEvent, create_endpoint, post_event};
use harkara_queue::job::Trace;
use harkara_queue::settings::{LimitChange, TenantChange};
use harkara_shared::audit::Actor;
use harkara_shared::database::{self, DatabaseSettings, TenantTx, query_scalar};
use harkara_shared::id::TenantId;
use harkara_shared::vault::MasterKeys;
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use super::Stand;
use crate::child::{Part, Process};
use crate::table::count;
use crate::wire::Sink;

/// Endpoints, each of which takes its own type of event.
const ENDPOINTS: usize = 20;

/// Callers that post events.
const POSTERS: usize = 16;

impl Stand {
    /// Posts events, then starts a worker; deliveries a second between the first and the last that
    /// the sink saw. `superuser` reads the log over all tenants.
    pub(crate) async fn webhooks(&self, events: usize, superuser: &str) -> anyhow::Result<f64> {
        let master_key = MasterKeys::generate();
        let sink = Sink::start(events).await?;
        let tenant = self.subscribe(&master_key, &sink).await?;
        let mut posting = JoinSet::new();
        for poster in 0..POSTERS {
            let stand = self.clone();
            posting.spawn(async move {
                for nth in (poster..events).step_by(POSTERS) {
                    stand.post(tenant, nth % ENDPOINTS).await?;
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
            .with_context(|| format!("{} of {events} deliveries arrived", sink.hits()))?;
        logged(superuser, events).await?;
        worker.end().await?;
        Ok(count(events) / took)
    }

    async fn subscribe(&self, master_key: &str, sink: &Sink) -> anyhow::Result<TenantId> {
        let tenant = NewTenant {
            slug: "bench".to_owned(),
            name: "bench".to_owned(),
            sla_tier: SlaTier::Enterprise,
        };
        let tenant = access::create_tenant(self.engine.pool(), tenant, &Actor::system("bench"))
            .await?
            .id;
        // Its tier would let it deliver fifty a second.
        let unlimited = TenantChange {
            limit: LimitChange::removal(),
            ..TenantChange::default()
        };
        self.engine.set_tenant(tenant, &unlimited).await?;
        let keys = MasterKeys::parse(master_key)?;
        let mut tx = TenantTx::begin(self.engine.pool(), tenant).await?;
        for endpoint in 0..ENDPOINTS {
            let new = NewEndpoint {
                url: format!("http://{}/{endpoint}", sink.address),
                event_types: vec![event_type(endpoint)],
                headers: BTreeMap::new(),
            };
            create_endpoint(&mut tx, &keys, new).await?;
        }
        tx.commit().await?;
        Ok(tenant)
    }

    async fn post(&self, tenant: TenantId, endpoint: usize) -> anyhow::Result<()> {
        let event = NewEvent {
            id: None,
            event_type: event_type(endpoint),
            version: None,
            data: RawValue::from_string(r#"{"invoice":"in_42","amount":1200}"#.to_owned())?,
        };
        let mut tx = TenantTx::begin(self.engine.pool(), tenant).await?;
        post_event(&mut tx, &self.engine, event, Trace::default()).await?;
        tx.commit().await?;
        Ok(())
    }
}

fn event_type(endpoint: usize) -> String {
    format!("bench.posted_{endpoint}")
}

/// Waits until every delivery's attempt is in the log.
async fn logged(superuser: &str, events: usize) -> anyhow::Result<()> {
    let pool = database::pool(&DatabaseSettings::new(superuser), "bench-log")?;
    let mut found = 0;
    for _ in 0..200 {
        let attempts: i64 =
            query_scalar("select count(*) from app.delivery_attempts where status_code = 200")
                .fetch_one(&pool)
                .await?;
        found = usize::try_from(attempts)?;
        if found == events {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    pool.close().await;
    ensure!(found == events, "{found} of {events} deliveries are logged");
    Ok(())
}
