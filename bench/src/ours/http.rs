//! Harkara's enqueues over HTTP, through a real API process: requests per second, and milliseconds of a
//! batch. Fails on any answer but 201.

use std::time::Instant;

use anyhow::ensure;
use harkara_accounts::{self as accounts, KeyTier, NewKey, NewTenant, Scope, SlaTier};
use harkara_shared::audit::Actor;
use harkara_shared::vault::MasterKeys;
use sqlx::PgPool;
use tokio::task::JoinSet;

use super::Harkara;
use crate::child::{Part, Process};
use crate::table::rate;
use crate::wire::{Connection, post};

/// A job as an application posts it.
pub(crate) const JOB: &str = r#"{"kind":"http.request","payload":{"url":"https://example.com/a"}}"#;

/// Creates a tenant and returns an API key for its jobs.
pub(crate) async fn tenant_key(pool: &PgPool, master_key: &str) -> anyhow::Result<String> {
    let tenant = NewTenant {
        slug: "bench".to_owned(),
        name: "bench".to_owned(),
        sla_tier: SlaTier::Enterprise,
    };
    let tenant = accounts::create_tenant(pool, tenant, &Actor::system("bench")).await?;
    let key = NewKey {
        tenant: tenant.id,
        name: "bench".to_owned(),
        tier: KeyTier::Enterprise,
        scopes: vec![Scope::JobsWrite, Scope::JobsRead],
        expires_at: None,
        addresses: Vec::new(),
    };
    let (_, key) = accounts::create_api_key(
        pool,
        &MasterKeys::parse(master_key)?,
        key,
        &Actor::system("bench"),
    )
    .await?;
    Ok(key.expose().to_owned())
}

/// What was measured over HTTP.
pub(crate) struct Http {
    /// Single requests per second.
    pub(crate) requests: f64,
    /// Milliseconds of a batch of 10 000 jobs.
    pub(crate) batch: f64,
}

impl Harkara {
    /// Posts single jobs over several kept-alive connections, then batches of 10 000.
    pub(crate) async fn http(&self, connections: usize, jobs: usize) -> anyhow::Result<Http> {
        let master_key = MasterKeys::generate();
        let key = tenant_key(self.engine.pool(), &master_key).await?;
        let mut api = Process::start(Part::Api, &self.url, &master_key)?;
        api.ready().await?;
        let single = post("/v1/jobs", &key, JOB);
        // Interns names, plans statements and opens connections before the timed part.
        send(&api, connections, connections * 4, &single).await?;
        let from = Instant::now();
        let sent = send(&api, connections, jobs, &single).await?;
        let requests = rate(sent, from.elapsed());

        let batch = post("/v1/jobs/batch", &key, &batch_of(10_000));
        let mut connection = Connection::open(api.address).await?;
        let mut took = Vec::new();
        for _ in 0..5 {
            let from = Instant::now();
            let (status, body) = connection.ask(&batch).await?;
            ensure!(status == 201, "response to the batch: {status}: {body}");
            took.push(from.elapsed().as_secs_f64() * 1000.0);
        }
        api.end().await?;
        took.sort_by(f64::total_cmp);
        Ok(Http {
            requests,
            batch: crate::table::at(&took, 0.5),
        })
    }
}

fn batch_of(jobs: usize) -> String {
    format!(r#"{{"jobs":[{}]}}"#, vec![JOB; jobs].join(","))
}

/// Sends requests over several connections; each sends its next request after the response.
async fn send(
    api: &Process,
    connections: usize,
    jobs: usize,
    request: &[u8],
) -> anyhow::Result<usize> {
    let each = jobs / connections;
    let mut sending = JoinSet::new();
    for _ in 0..connections {
        let (address, request) = (api.address, request.to_vec());
        sending.spawn(async move {
            let mut connection = Connection::open(address).await?;
            for _ in 0..each {
                let (status, body) = connection.ask(&request).await?;
                ensure!(status == 201, "response to a job: {status}: {body}");
            }
            anyhow::Ok(())
        });
    }
    for sent in sending.join_all().await {
        sent?;
    }
    Ok(each * connections)
}
