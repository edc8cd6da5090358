//! The kind `tenant.erase`: removes a canceled tenant and everything it owns.
//!
//! One entry in the platform's audit log remains. It never erases the platform or a tenant that is not
//! canceled, and never touches another tenant's rows.

use std::collections::BTreeMap;
use std::time::Duration;

use harkara_kind::JobKind;
use harkara_kind::Services;
use harkara_kind::database_verdict;
use harkara_queue::job::JobError;
use harkara_queue::{Error, Run, Verdict};
use harkara_shared::anchors::hex;
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{TenantTx, query_as, query_scalar};
use harkara_shared::id::TenantId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::tenancy::{AUDIT_HEADS, TABLES};

/// Rows removed by one statement.
const BATCH: i32 = 1000;

/// How long it goes on before others that wait for its place have their turn.
const SLICE: Duration = Duration::from_secs(10);

/// How long until it asks again whether the tenant's jobs have ended.
const AGAIN: Duration = Duration::from_secs(5);

/// How often the last step is tried while entries are added to the tenant's audit log.
const TRIES: u32 = 10;

/// - Changes: cancels and removes the tenant's jobs, removes its rows of every table, its audit log among
///   them, and the tenant; adds `tenant.erased` to the platform's audit log.
/// - Twice: it removes what is left; a tenant that is gone is done. What was counted by a run that was lost
///   is missing from the counts.
/// - Calls: nobody.
/// - Dead: part of the tenant may be gone; mend what the error says and retry it.
#[derive(Debug)]
pub struct TenantErase;

/// Payload of `tenant.erase`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// The tenant. It must be canceled, and its erasure asked for (`POST /v1/tenants/{id}/erase`).
    #[schema(value_type = String, example = "ten_01h455vb4pex5vsknk084sn02q")]
    pub tenant_id: TenantId,
}

impl JobKind for TenantErase {
    const KIND: &'static str = "tenant.erase";
    const QUEUE: &'static str = "maintenance";
    const MAX_ATTEMPTS: u16 = 25;
    const TIMEOUT: Duration = Duration::from_secs(60 * 60);
    const PLATFORM_ONLY: bool = true;
    type Services = Services;
    type Args = Args;

    async fn run(args: Args, run: Run, services: &Services) -> Verdict {
        let eraser = Eraser {
            tenant: args.tenant_id,
            run,
            services,
        };
        match eraser.work().await {
            Ok(verdict) => verdict,
            Err(Error::Database(error)) => database_verdict(&error),
            Err(error) => Verdict::retry(JobError::new("erase", error.to_string()), None),
        }
    }
}

/// What was removed so far: the job's `progress`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    /// Jobs.
    jobs: i64,
    /// Rows that told of jobs: labels, attempts, lanes, limits, counters.
    about_jobs: i64,
    /// Rows of other tables, by table.
    rows: BTreeMap<String, i64>,
}

/// Where the erased chain ended, and what the tenant was called.
#[derive(sqlx::FromRow)]
struct Erased {
    slug: String,
    name: String,
    seq: Option<i64>,
    hash: Option<Vec<u8>>,
}

struct Eraser<'a> {
    tenant: TenantId,
    run: Run,
    services: &'a Services,
}

impl Eraser<'_> {
    async fn work(&self) -> Result<Verdict, Error> {
        let engine = &self.services.engine;
        let status: Option<(String, bool)> =
            query_as("select status, erasure_asked_at is not null from app.tenants where id = $1")
                .bind(self.tenant)
                .fetch_optional(engine.pool())
                .await?;
        match status
            .as_ref()
            .map(|(status, asked)| (status.as_str(), *asked))
        {
            None => {
                return Ok(done(
                    json!({"erased": false, "reason": "there is no such tenant"}),
                ));
            }
            Some(("canceled", true)) if self.tenant != self.run.job.tenant => {}
            Some(("canceled", false)) => {
                let reason = "nobody asked for the erasure: POST /v1/tenants/{id}/erase";
                return Ok(Verdict::Dead {
                    error: JobError::new("not_asked_for", reason),
                });
            }
            Some((status, _)) => {
                let reason = format!("the tenant is {status}: only a canceled one is erased");
                return Ok(Verdict::Dead {
                    error: JobError::new("not_canceled", reason),
                });
            }
        }
        let mut counts = self.begin().await?;
        let begun = Instant::now();
        let jobs = engine.erase_tenant(self.tenant).await?;
        counts.jobs += jobs.jobs;
        counts.about_jobs += jobs.rows;
        self.tell(&counts).await?;
        if !jobs.finished {
            let reason = match jobs.running {
                0 => "somebody still writes in the tenant's name".to_owned(),
                running => format!("{running} of its jobs still run; they are told to end"),
            };
            return Ok(Verdict::Snooze {
                wait: AGAIN,
                reason: JobError::new("still_running", reason),
            });
        }
        for _ in 0..TRIES {
            for table in TABLES.iter().filter(|table| table.name != AUDIT_HEADS) {
                loop {
                    let removed = self.remove(table.name).await?;
                    if removed > 0 {
                        *counts.rows.entry(table.name.to_owned()).or_default() += removed;
                    }
                    if removed < i64::from(BATCH) {
                        break;
                    }
                    if begun.elapsed() > SLICE {
                        self.tell(&counts).await?;
                        return Ok(Verdict::Yield {
                            wait: Duration::ZERO,
                        });
                    }
                }
            }
            self.tell(&counts).await?;
            if let Some(result) = self.end(&counts).await? {
                return Ok(done(result));
            }
        }
        Ok(Verdict::retry(
            JobError::new("audited", "entries are added to the tenant's audit log"),
            None,
        ))
    }

    async fn remove(&self, table: &str) -> Result<i64, Error> {
        Ok(
            query_scalar(include_str!("../sql/tenant_erase/erase_rows.sql"))
                .bind(self.tenant)
                .bind(table)
                .bind(BATCH)
                .fetch_one(self.services.engine.pool())
                .await?,
        )
    }

    /// The last step, and the entry that tells of it, in one transaction.
    async fn end(&self, counts: &Counts) -> Result<Option<Value>, Error> {
        let mut tx = self.services.engine.pool().begin().await?;
        let erased: Option<Erased> = query_as(include_str!("../sql/tenant_erase/erase_tenant.sql"))
            .bind(self.tenant)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(erased) = erased else {
            return Ok(None);
        };
        let after = json!({
            "counts": counts,
            "audit_log": {
                "seq": erased.seq,
                "hash": erased.hash.as_deref().map(hex),
            },
        });
        let entry = Entry::new("tenant.erased", self.tenant)
            .before(json!({"slug": erased.slug, "name": erased.name}))
            .after(&after);
        let actor = Actor::system(TenantErase::KIND);
        audit::record(&mut tx, self.run.job.tenant, &actor, &entry).await?;
        tx.commit().await?;
        tracing::info!(tenant = %self.tenant, slug = erased.slug, "the tenant is erased");
        Ok(Some(
            json!({"erased": true, "slug": erased.slug, "counts": counts}),
        ))
    }

    /// What earlier runs of this job have counted.
    async fn begin(&self) -> Result<Counts, Error> {
        let mut tx = self.tx().await?;
        let told = self
            .services
            .engine
            .claim_progress(&mut tx, &self.run.job)
            .await?;
        tx.commit().await?;
        Ok(told
            .map(serde_json::from_value)
            .transpose()?
            .unwrap_or_default())
    }

    async fn tell(&self, counts: &Counts) -> Result<(), Error> {
        let mut tx = self.tx().await?;
        let told = serde_json::to_value(counts)?;
        let engine = &self.services.engine;
        engine
            .report_progress(&mut tx, self.run.job.id, &told)
            .await?;
        Ok(tx.commit().await?)
    }

    async fn tx(&self) -> Result<TenantTx, Error> {
        Ok(TenantTx::begin(&self.services.pool, self.run.job.tenant).await?)
    }
}

fn done(result: Value) -> Verdict {
    Verdict::Done {
        result: Some(result),
        follow_ups: Vec::new(),
    }
}
