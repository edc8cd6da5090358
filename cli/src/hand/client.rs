//! Room: database roles of applications that enqueue by SQL.
//! Takes: a command. Gives: a role that may, one that may no more, a list of them.
//! Never: makes a role or a password: those are the database's.

use anyhow::{Context, bail};
use clap::Subcommand;
use harkara_api::access::{self, Tenant};
use harkara_jobs::publish::publish;
use harkara_queue::Engine;
use harkara_shared::audit::Entry;
use harkara_shared::config::Settings;
use harkara_shared::id::TenantId;
use serde_json::json;

use super::steer::{How, engine, noting};
use crate::up::say;

/// `harkara client …`
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Let a login role of the database call queue.enqueue
    Grant {
        /// The role's name
        role: String,
        /// Id or slug of the tenant whose jobs it enqueues; repeat the command for more
        #[arg(long, required_unless_present = "all_tenants")]
        tenant: Option<String>,
        /// It may enqueue for every tenant, and names one in each call
        #[arg(long, conflicts_with = "tenant")]
        all_tenants: bool,
        #[command(flatten)]
        how: How,
    },
    /// Let it no more
    Revoke {
        /// The role's name
        role: String,
        /// For this tenant only, by id or slug; without it the role may enqueue nothing any more
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// List who may
    Ls {
        #[command(flatten)]
        how: How,
    },
}

pub(crate) async fn client(command: ClientCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        ClientCommand::Grant {
            role,
            tenant,
            all_tenants: _,
            how,
        } => {
            let engine = engine(&how, settings)?;
            let tenant = found(&engine, tenant.as_deref()).await?;
            // So that the role's first transaction meets kinds and lanes that are there.
            publish(&engine).await?;
            let id: Option<TenantId> = tenant.as_ref().map(|tenant| tenant.id);
            let entry = Entry::new("client.grant", &role);
            let new = noting(&engine, id, entry)
                .await?
                .grant_client(&role, id)
                .await
                .with_context(|| format!("the role `{role}`"))?;
            if how.json {
                let slug = tenant.as_ref().map(|tenant| &tenant.slug);
                let told = json!({"role": role, "tenant_id": id, "tenant": slug, "new": new});
                say(&told.to_string());
            } else {
                say(&format!(
                    "{role} may enqueue for {}",
                    whose(tenant.as_ref())
                ));
            }
            Ok(())
        }
        ClientCommand::Revoke { role, tenant, how } => {
            let engine = engine(&how, settings)?;
            let tenant = found(&engine, tenant.as_deref()).await?;
            let id = tenant.map(|tenant| tenant.id);
            let entry = Entry::new("client.revoke", &role);
            let engine = noting(&engine, id, entry).await?;
            let revoked = engine.revoke_client(&role, id).await?;
            if how.json {
                say(&json!({"role": role, "revoked": revoked}).to_string());
            } else {
                say(&format!("{revoked} grants of {role} have ended"));
            }
            Ok(())
        }
        ClientCommand::Ls { how } => {
            let clients = engine(&how, settings)?.sql_clients().await?;
            if how.json {
                say(&json!({ "data": clients }).to_string());
                return Ok(());
            }
            for client in &clients {
                let slug = client.slug.as_deref().unwrap_or("all tenants");
                say(&format!("{:<24} {slug}", client.role));
            }
            Ok(())
        }
    }
}

async fn found(engine: &Engine, tenant: Option<&str>) -> anyhow::Result<Option<Tenant>> {
    let Some(name) = tenant else {
        return Ok(None);
    };
    match access::find_tenant(engine.pool(), name).await? {
        None => bail!("there is no tenant `{name}`"),
        found => Ok(found),
    }
}

fn whose(tenant: Option<&Tenant>) -> &str {
    tenant.map_or("every tenant", |tenant| tenant.slug.as_str())
}
