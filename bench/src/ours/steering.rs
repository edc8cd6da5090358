//! Requests that list, show and count, on tables filled like those of a platform after years of use.
//!
//! Returns milliseconds by request. Uses one connection, and fails on an unexpected status.

use std::time::Instant;

use anyhow::{Context, ensure};
use harkara_accounts::{self as accounts, KeyTier, NewKey, NewTenant, Scope, SlaTier};
use harkara_shared::audit::Actor;
use harkara_shared::database::{query, query_scalar};
use harkara_shared::id::JobId;
use harkara_shared::vault::MasterKeys;
use sqlx::PgPool;

use super::Harkara;
use crate::child::{Part, Process};
use crate::table::percentiles;
use crate::wire::{Connection, get_as};

/// The measured milliseconds of one request.
pub(crate) struct TimedRequest {
    pub(crate) name: String,
    /// p50, p95, p99 and the maximum.
    pub(crate) took: [f64; 4],
}

/// The requests. Placeholders like `{hour}` are replaced by values from the tables, so that names stay the
/// same in every run.
const REQUESTS: &[&str] = &[
    "/v1/jobs",
    "/v1/jobs?limit=200",
    "/v1/jobs?state=ready",
    "/v1/jobs?state=scheduled",
    "/v1/jobs?state=running",
    "/v1/jobs?state=succeeded",
    "/v1/jobs?state=dead",
    "/v1/jobs?state=cancelled",
    "/v1/jobs?kind=k3",
    "/v1/jobs?kind=none",
    "/v1/jobs?queue=q2&state=dead",
    "/v1/jobs?queue=none",
    "/v1/jobs?error_code=http_500",
    "/v1/jobs?tag=often",
    "/v1/jobs?tag=rare&state=dead",
    "/v1/jobs?tag=often&kind=none",
    "/v1/jobs?created_after={hour}",
    "/v1/jobs?created_before={hour}&state=succeeded",
    "/v1/jobs/{packed}",
    "/v1/jobs/{merged}",
    "/v1/jobs/{single}",
    "/v1/jobs/{missing}",
    "/v1/jobs/{single}/attempts",
    "/v1/jobs/{merged}/attempts",
    "/v1/queues",
    "/v1/stats",
    "/v1/stats?since={day}&step=1m",
    "/v1/stats?since={week}&step=1h&queue=q1",
    "/v1/stats?since={season}&step=2h",
];

impl Harkara {
    /// Fills the tables and sends every request `times` times.
    pub(crate) async fn steering(
        &self,
        finished: i64,
        ready: i64,
        times: usize,
        superuser: &str,
    ) -> anyhow::Result<Vec<TimedRequest>> {
        let master_key = MasterKeys::generate();
        let (key, tenants) = self.create_tenants(&master_key).await?;
        fill(self.engine.pool(), finished, ready, &tenants).await?;
        crate::arena::vacuum(superuser).await?;
        self.engine.recount().await?;
        self.engine.roll_up().await?;
        let mut api = Process::start(Part::Api, &self.url, &master_key)?;
        api.ready().await?;
        let mut connection = Connection::open(api.address).await?;
        let mut asked = Vec::new();
        for name in REQUESTS {
            let path = self.path(name, tenants.first().copied()).await?;
            let request = get_as(&path, &key);
            let expected = if name.contains("{missing}") { 404 } else { 200 };
            let mut took = Vec::with_capacity(times);
            // The first 20 warm the caches, as on a platform in use.
            for nth in 0..times + 20 {
                let from = Instant::now();
                let (status, body) = connection.ask(&request).await?;
                ensure!(status == expected, "response to {path}: {status}: {body}");
                if nth >= 20 {
                    took.push(from.elapsed().as_secs_f64() * 1000.0);
                }
            }
            asked.push(TimedRequest {
                name: format!("`GET {name}`"),
                took: percentiles(took),
            });
        }
        api.end().await?;
        Ok(asked)
    }

    /// Creates the tenants, and returns a key of the first one and their internal numbers.
    async fn create_tenants(&self, master_key: &str) -> anyhow::Result<(String, Vec<i32>)> {
        let pool = self.engine.pool();
        let keys = MasterKeys::parse(master_key)?;
        let (mut first, mut numbers) = (None, Vec::new());
        for nth in 1..=10 {
            let tenant = NewTenant {
                slug: format!("bench-{nth}"),
                name: format!("bench {nth}"),
                sla_tier: SlaTier::Enterprise,
            };
            let tenant = accounts::create_tenant(pool, tenant, &Actor::system("bench")).await?;
            query("insert into queue.tenants (id) values ($1) on conflict do nothing")
                .bind(tenant.id)
                .execute(pool)
                .await?;
            let number = "select number from queue.tenants where id = $1";
            numbers.push(query_scalar(number).bind(tenant.id).fetch_one(pool).await?);
            first = first.or(Some(tenant.id));
        }
        let key = NewKey {
            tenant: first.context("no tenant was created")?,
            name: "bench".to_owned(),
            tier: KeyTier::Enterprise,
            scopes: vec![Scope::JobsRead],
            expires_at: None,
            addresses: Vec::new(),
        };
        let (_, key) = accounts::create_api_key(pool, &keys, key, &Actor::system("bench")).await?;
        Ok((key.expose().to_owned(), numbers))
    }

    /// The path of a request, with placeholders replaced by values from the tables.
    async fn path(&self, name: &str, tenant: Option<i32>) -> anyhow::Result<String> {
        let mut path = (*name).to_owned();
        for (word, hours) in [
            ("{hour}", 1),
            ("{day}", 24),
            ("{week}", 7 * 24),
            ("{season}", 89 * 24),
        ] {
            let at = harkara_shared::clock::now() - std::time::Duration::from_secs(hours * 3600);
            path = path.replace(word, &at.format("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
        for (word, sort) in [
            ("{packed}", 'p'),
            ("{merged}", 'm'),
            ("{single}", 's'),
            ("{missing}", 'n'),
        ] {
            if path.contains(word) {
                let id = query_scalar(include_str!("../sql/find_sample.sql"))
                    .bind(sort.to_string())
                    .bind(tenant)
                    .fetch_one(self.engine.pool())
                    .await?;
                path = path.replace(word, &JobId::from_i64(id).to_string());
            }
        }
        Ok(path)
    }
}

async fn fill(pool: &PgPool, finished: i64, ready: i64, tenants: &[i32]) -> anyhow::Result<()> {
    query(include_str!("../sql/fill_names.sql"))
        .bind(tenants)
        .execute(pool)
        .await?;
    query(include_str!("../sql/fill_history.sql"))
        .bind(finished)
        .bind(ready)
        .bind(tenants)
        .execute(pool)
        .await?;
    query(include_str!("../sql/fill_moments.sql"))
        .bind(tenants)
        .execute(pool)
        .await?;
    query("select setval('queue.parcel_id', (select max(id) + 100000 from queue.parcels))")
        .execute(pool)
        .await?;
    Ok(())
}
