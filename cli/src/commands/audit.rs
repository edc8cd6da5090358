//! `harkara audit …`: lists entries of the audit log and verifies its chains, also against their anchors.

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::Subcommand;
use harkara_accounts::audit_log::{AuditFilter, list_audit_entries, verify_audit_log};
use harkara_shared::config::Settings;
use harkara_shared::database::{TenantTx, query_as};
use harkara_shared::id::TenantId;
use serde_json::{Value, json};

use super::context::{CommonArgs, master_keys, open_engine, open_engine_for_tenant};
use crate::output::say;
use crate::up::Home;

/// `harkara audit …`
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Verify the audit logs; exits with 1 if one is not intact
    Verify {
        /// Id or slug of the tenant; without it all tenants are verified
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// List entries, newest first
    Ls {
        /// Id or slug of the tenant
        #[arg(long)]
        tenant: String,
        /// Only entries of this actor: a key, a person or a part of the platform
        #[arg(long)]
        actor: Option<String>,
        /// Only entries of this action, such as key.revoke
        #[arg(long)]
        action: Option<String>,
        /// Only entries about the resource with this id
        #[arg(long)]
        resource: Option<String>,
        /// Maximum number of entries
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(crate) async fn audit(command: AuditCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        AuditCommand::Verify { tenant, common } => {
            verify(tenant.as_deref(), &common, settings).await
        }
        AuditCommand::Ls {
            tenant,
            actor,
            action,
            resource,
            limit,
            common,
        } => {
            let (engine, tenant) = open_engine_for_tenant(&tenant, &common, settings).await?;
            let mut tx = TenantTx::begin(engine.pool(), tenant.id).await?;
            let filter = AuditFilter {
                actor: actor.as_deref(),
                action: action.as_deref(),
                resource: resource.as_deref(),
                ..AuditFilter::default()
            };
            let entries: Vec<Value> = list_audit_entries(&mut tx, &filter, None, limit)
                .await?
                .iter()
                .map(serde_json::to_value)
                .collect::<Result<_, _>>()?;
            tx.commit().await?;
            if common.json {
                say(&json!({ "data": entries }).to_string());
                return Ok(());
            }
            for entry in &entries {
                say(&line(entry));
            }
            Ok(())
        }
    }
}

async fn verify(
    tenant: Option<&str>,
    common: &CommonArgs,
    settings: &Settings,
) -> anyhow::Result<()> {
    let (engine, tenants): (_, Vec<(TenantId, String)>) = match tenant {
        Some(name) => {
            let (engine, tenant) = open_engine_for_tenant(name, common, settings).await?;
            (engine, vec![(tenant.id, tenant.slug)])
        }
        None => {
            let engine = open_engine(common, settings).await?;
            let all = query_as("select id, slug from app.tenants order by slug")
                .fetch_all(engine.pool())
                .await?;
            (engine, all)
        }
    };
    let blobs = match settings.blobs() {
        // The store of the running `harkara up`.
        None if settings.database.is_none() => Some(Home::open(&common.target.data_dir)?.blobs()?),
        blobs => blobs,
    };
    let keys = master_keys(&common.target, settings)?;
    let (mut reports, mut broken) = (Vec::new(), Vec::new());
    for (id, slug) in tenants {
        let mut tx = TenantTx::begin(engine.pool(), id).await?;
        let report = verify_audit_log(&mut tx, blobs.as_ref(), &keys, id).await?;
        tx.commit().await?;
        if !report.faults.is_empty() {
            broken.push(slug.clone());
        }
        if common.json {
            let mut check = serde_json::to_value(&report)?;
            check["tenant_id"] = json!(id);
            check["tenant"] = json!(slug);
            reports.push(check);
            continue;
        }
        let anchored = report.anchored_at.map_or_else(
            || "not anchored".to_owned(),
            |at| format!("anchored {}", format_second(at)),
        );
        let state = if report.faults.is_empty() {
            "intact"
        } else {
            "BROKEN"
        };
        say(&format!(
            "{slug:<24} {state}  {} entries, {anchored}",
            report.entries
        ));
        for fault in &report.faults {
            say(&format!("  entry {} is {}", fault.seq, fault.fault));
        }
    }
    if common.json {
        say(&json!({"intact": broken.is_empty(), "data": reports}).to_string());
    }
    if !broken.is_empty() {
        bail!("the audit log is not intact: {}", broken.join(", "));
    }
    Ok(())
}

/// One entry as a line of text.
fn line(entry: &Value) -> String {
    // Absent members, such as a reason, are printed as nothing.
    let text = |pointer: &str| {
        let found = entry.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    let name = match text("/actor/name") {
        name if name.is_empty() => text("/actor/id"),
        name => name,
    };
    let reason = match text("/reason") {
        reason if reason.is_empty() => reason,
        reason => format!("  \"{reason}\""),
    };
    let at = text("/at")
        .parse()
        .map_or_else(|_| text("/at"), format_second);
    format!(
        "{:>6}  {at}  {:<20} {}  by {} {name}{reason}",
        entry["seq"],
        text("/action"),
        text("/resource"),
        text("/actor/kind"),
    )
}

fn format_second(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}
