//! Room: the audit log, looked at by hand.
//! Takes: a command. Gives: entries; whether chains are whole, also beside their anchors. Never: writes an
//! entry, or says that all is well when a chain is broken.

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::Subcommand;
use harkara_api::representation;
use harkara_shared::anchors::verify_chain;
use harkara_shared::config::Settings;
use harkara_shared::database::{TenantTx, query_as};
use harkara_shared::id::TenantId;
use serde_json::{Value, json};

use super::steer::{How, engine, engine_and_tenant};
use super::{Home, master_keys};
use crate::up::say;

/// `harkara audit …`
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check that audit logs are whole; ends with 1 if one is not
    Verify {
        /// Id or slug of a tenant; without it all are checked
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// List what was done, newest first
    Ls {
        /// Id or slug of the tenant
        #[arg(long)]
        tenant: String,
        /// By this key, person or part of the platform
        #[arg(long)]
        actor: Option<String>,
        /// Of this action, such as key.revoke
        #[arg(long)]
        action: Option<String>,
        /// About the thing with this id
        #[arg(long)]
        resource: Option<String>,
        /// At most so many entries
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        how: How,
    },
}

pub(crate) async fn audit(command: AuditCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        AuditCommand::Verify { tenant, how } => verify(tenant.as_deref(), &how, settings).await,
        AuditCommand::Ls {
            tenant,
            actor,
            action,
            resource,
            limit,
            how,
        } => {
            let (engine, tenant) = engine_and_tenant(&tenant, &how, settings).await?;
            let mut tx = TenantTx::begin(engine.pool(), tenant.id).await?;
            let filters = [actor.as_deref(), action.as_deref(), resource.as_deref()];
            let entries = representation::audit_log(&mut tx, filters, limit).await?;
            tx.commit().await?;
            if how.json {
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

async fn verify(tenant: Option<&str>, how: &How, settings: &Settings) -> anyhow::Result<()> {
    let (engine, tenants): (_, Vec<(TenantId, String)>) = match tenant {
        Some(name) => {
            let (engine, tenant) = engine_and_tenant(name, how, settings).await?;
            (engine, vec![(tenant.id, tenant.slug)])
        }
        None => {
            let engine = engine(how, settings)?;
            let all = query_as("select id, slug from app.tenants order by slug")
                .fetch_all(engine.pool())
                .await?;
            (engine, all)
        }
    };
    let blobs = match settings.blobs() {
        // The store of a running `harkara up`.
        None if settings.database.is_none() => Some(Home::open(&how.place.data_dir)?.blobs()?),
        blobs => blobs,
    };
    let keys = master_keys(&how.place, settings)?;
    let (mut told, mut broken) = (Vec::new(), Vec::new());
    for (id, slug) in tenants {
        let mut tx = TenantTx::begin(engine.pool(), id).await?;
        let checked = verify_chain(&mut tx, blobs.as_ref(), &keys, id).await?;
        tx.commit().await?;
        if !checked.faults.is_empty() {
            broken.push(slug.clone());
        }
        if how.json {
            let mut check = representation::audit_check(checked);
            check["tenant_id"] = json!(id);
            check["tenant"] = json!(slug);
            told.push(check);
            continue;
        }
        let anchored = checked.anchored_at.map_or_else(
            || "not anchored".to_owned(),
            |at| format!("anchored {}", second(at)),
        );
        let state = if checked.faults.is_empty() {
            "intact"
        } else {
            "BROKEN"
        };
        say(&format!(
            "{slug:<24} {state}  {} entries, {anchored}",
            checked.entries
        ));
        for fault in &checked.faults {
            say(&format!("  entry {} is {}", fault.seq, fault.fault));
        }
    }
    if how.json {
        say(&json!({"intact": broken.is_empty(), "data": told}).to_string());
    }
    if !broken.is_empty() {
        bail!("the audit log is not whole: {}", broken.join(", "));
    }
    Ok(())
}

/// One entry for people.
fn line(entry: &Value) -> String {
    let word = |pointer: &str| {
        let found = entry.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    let name = match word("/actor/name") {
        name if name.is_empty() => word("/actor/id"),
        name => name,
    };
    let reason = match word("/reason") {
        reason if reason.is_empty() => reason,
        reason => format!("  \"{reason}\""),
    };
    let at = word("/at").parse().map_or_else(|_| word("/at"), second);
    format!(
        "{:>6}  {at}  {:<20} {}  by {} {name}{reason}",
        entry["seq"],
        word("/action"),
        word("/resource"),
        word("/actor/kind"),
    )
}

fn second(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}
