//! `harkara client …`: permits database roles of applications to enqueue by SQL.
//!
//! Roles and passwords themselves are created in the database.

use anyhow::Context;
use clap::Subcommand;
use harkara_accounts::Tenant;
use harkara_jobs::publish::publish;
use harkara_queue::Engine;
use harkara_shared::audit::Entry;
use harkara_shared::config::Settings;
use harkara_shared::id::TenantId;
use serde_json::json;

use super::context::{CommonArgs, engine_with_audit, open_engine, require_tenant};
use crate::output::say;

/// `harkara client …`
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Permit a login role of the database to call queue.enqueue
    Grant {
        /// Name of the role
        role: String,
        /// Id or slug of the tenant whose jobs the role enqueues; repeat the command for more
        #[arg(long, required_unless_present = "all_tenants")]
        tenant: Option<String>,
        /// Permit every tenant; each call then names one
        #[arg(long, conflicts_with = "tenant")]
        all_tenants: bool,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Revoke the permission
    Revoke {
        /// Name of the role
        role: String,
        /// Id or slug of the only tenant to revoke; without it all permissions of the role are revoked
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// List permitted roles
    Ls {
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(crate) async fn client(command: ClientCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        ClientCommand::Grant {
            role,
            tenant,
            all_tenants: _,
            common,
        } => {
            let engine = open_engine(&common, settings).await?;
            let tenant = optional_tenant(&engine, tenant.as_deref()).await?;
            // The role's first transaction needs the kinds and lanes to exist.
            publish(&engine).await?;
            let id: Option<TenantId> = tenant.as_ref().map(|tenant| tenant.id);
            let entry = Entry::new("client.grant", &role);
            let new = engine_with_audit(&engine, id, entry)
                .await?
                .grant_client(&role, id)
                .await
                .with_context(|| format!("the role `{role}`"))?;
            if common.json {
                let slug = tenant.as_ref().map(|tenant| &tenant.slug);
                let answer = json!({"role": role, "tenant_id": id, "tenant": slug, "new": new});
                say(&answer.to_string());
            } else {
                say(&format!(
                    "{role} can enqueue for {}",
                    tenant_name(tenant.as_ref())
                ));
            }
            Ok(())
        }
        ClientCommand::Revoke {
            role,
            tenant,
            common,
        } => {
            let engine = open_engine(&common, settings).await?;
            let tenant = optional_tenant(&engine, tenant.as_deref()).await?;
            let id = tenant.map(|tenant| tenant.id);
            let entry = Entry::new("client.revoke", &role);
            let engine = engine_with_audit(&engine, id, entry).await?;
            let revoked = engine.revoke_client(&role, id).await?;
            if common.json {
                say(&json!({"role": role, "revoked": revoked}).to_string());
            } else {
                say(&format!("revoked {revoked} permissions of {role}"));
            }
            Ok(())
        }
        ClientCommand::Ls { common } => {
            let clients = open_engine(&common, settings).await?.sql_clients().await?;
            if common.json {
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

async fn optional_tenant(engine: &Engine, tenant: Option<&str>) -> anyhow::Result<Option<Tenant>> {
    match tenant {
        None => Ok(None),
        Some(tenant) => require_tenant(engine.pool(), tenant).await.map(Some),
    }
}

fn tenant_name(tenant: Option<&Tenant>) -> &str {
    tenant.map_or("every tenant", |tenant| tenant.slug.as_str())
}
