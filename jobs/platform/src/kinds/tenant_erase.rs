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

/// Maximum number of rows removed by one statement.
const BATCH_ROWS: i32 = 1000;

/// Duration of a run before it yields its slot to other jobs.
const MAX_RUN: Duration = Duration::from_secs(10);

/// Wait before the job checks again whether the tenant's jobs have ended.
const RUNNING_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Maximum number of attempts of the last step, which fails when an entry was added to the tenant's audit log meanwhile.
const MAX_FINAL_ATTEMPTS: u32 = 10;

/// - Changes: cancels and removes the tenant's jobs, removes its rows of every table, its audit log among
///   them, and the tenant; adds `tenant.erased` to the platform's audit log.
/// - Twice: the second run removes the remaining rows; if the tenant is missing, it succeeds. The counts lack what a lost
///   run removed.
/// - Calls: nothing.
/// - Dead: the tenant may be partly erased; fix the cause of the error and retry it.
#[derive(Debug)]
pub struct TenantErase;

/// Payload of `tenant.erase`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Id of the tenant. It must be canceled, and its erasure requested (`POST /v1/tenants/{id}/erase`).
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

/// The job's `progress`: the number of rows removed so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    /// Jobs removed.
    jobs: i64,
    /// Rows about jobs: labels, attempts, lanes, limits, counters.
    about_jobs: i64,
    /// Rows of tables of the schema `app`, by table.
    rows: BTreeMap<String, i64>,
}

/// The erased tenant and the head of its audit chain.
#[derive(sqlx::FromRow)]
struct ErasedTenant {
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
            .map(|(status, requested)| (status.as_str(), *requested))
        {
            None => {
                return Ok(done(json!({"erased": false, "reason": "tenant not found"})));
            }
            Some(("canceled", true)) if self.tenant != self.run.job.tenant => {}
            Some(("canceled", false)) => {
                let reason = "erasure was not requested; call POST /v1/tenants/{id}/erase";
                return Ok(Verdict::Dead {
                    error: JobError::new("not_asked_for", reason),
                });
            }
            Some((status, _)) => {
                let reason = format!("tenant is {status}; only a canceled tenant can be erased");
                return Ok(Verdict::Dead {
                    error: JobError::new("not_canceled", reason),
                });
            }
        }
        let mut counts = self.load_counts().await?;
        let started = Instant::now();
        let jobs = engine.erase_tenant(self.tenant).await?;
        counts.jobs += jobs.jobs;
        counts.about_jobs += jobs.rows;
        self.report(&counts).await?;
        if !jobs.finished {
            let reason = match jobs.running {
                0 => "a transaction still writes for the tenant".to_owned(),
                running => {
                    format!("{running} of its jobs are still running and are being cancelled")
                }
            };
            return Ok(Verdict::Snooze {
                wait: RUNNING_CHECK_INTERVAL,
                reason: JobError::new("still_running", reason),
            });
        }
        for _ in 0..MAX_FINAL_ATTEMPTS {
            for table in TABLES.iter().filter(|table| table.name != AUDIT_HEADS) {
                loop {
                    let removed = self.remove(table.name).await?;
                    if removed > 0 {
                        *counts.rows.entry(table.name.to_owned()).or_default() += removed;
                    }
                    if removed < i64::from(BATCH_ROWS) {
                        break;
                    }
                    if started.elapsed() > MAX_RUN {
                        self.report(&counts).await?;
                        return Ok(Verdict::Yield {
                            wait: Duration::ZERO,
                        });
                    }
                }
            }
            self.report(&counts).await?;
            if let Some(result) = self.finish(&counts).await? {
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
                .bind(BATCH_ROWS)
                .fetch_one(self.services.engine.pool())
                .await?,
        )
    }

    /// Removes the tenant itself and records it in the platform's audit log, in one transaction. `None` when entries were
    /// added to the tenant's audit log in the meantime.
    async fn finish(&self, counts: &Counts) -> Result<Option<Value>, Error> {
        let mut tx = self.services.engine.pool().begin().await?;
        let erased: Option<ErasedTenant> =
            query_as(include_str!("../sql/tenant_erase/erase_tenant.sql"))
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
        tracing::info!(tenant = %self.tenant, slug = erased.slug, "erased tenant");
        Ok(Some(
            json!({"erased": true, "slug": erased.slug, "counts": counts}),
        ))
    }

    /// Reads the counts of earlier runs of this job.
    async fn load_counts(&self) -> Result<Counts, Error> {
        let mut tx = self.tx().await?;
        let stored = self
            .services
            .engine
            .claim_progress(&mut tx, &self.run.job)
            .await?;
        tx.commit().await?;
        match stored {
            Some(counts) => Ok(serde_json::from_value(counts)?),
            None => Ok(Counts::default()),
        }
    }

    /// Stores the counts as the job's progress.
    async fn report(&self, counts: &Counts) -> Result<(), Error> {
        let mut tx = self.tx().await?;
        let progress = serde_json::to_value(counts)?;
        let engine = &self.services.engine;
        engine
            .report_progress(&mut tx, self.run.job.id, &progress)
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
