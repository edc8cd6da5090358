//! `harkara user …`: creates users with sign-in links, creates further links, lists users.
//!
//! No command takes a password: users set their own.

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::Subcommand;
use harkara_accounts::users::{self, DEFAULT_LIFE, NewUser, SignInLink, User};
use harkara_accounts::{PLATFORM_SLUG, Tenant};
use harkara_shared::config::Settings;
use harkara_shared::database::TenantTx;
use harkara_shared::id::UserId;
use serde_json::{Value, json};

use super::context::{CommonArgs, cli_actor, connect, require_tenant};
use crate::output::say;
use crate::up::Home;

/// Users read per page.
const PAGE_SIZE: u32 = 200;

/// `harkara user …`
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Create a user and print a link for the first sign-in
    Create {
        /// Email address
        email: String,
        /// Initial role: admin, manager, team_lead, sales_rep, operator or viewer
        #[arg(long)]
        role: String,
        /// Id or slug of the tenant
        #[arg(long, default_value = PLATFORM_SLUG)]
        tenant: String,
        /// Display name; by default the part of the email address before the @
        #[arg(long)]
        name: Option<String>,
        /// When the role expires, such as 2030-01-31T12:00:00Z
        #[arg(long)]
        expires_at: Option<DateTime<Utc>>,
        /// Reason, for the audit log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Create another sign-in link; unused links become invalid
    Link {
        /// Email address
        email: String,
        /// Id or slug of the tenant
        #[arg(long, default_value = PLATFORM_SLUG)]
        tenant: String,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// List users, newest first
    Ls {
        /// Id or slug of the tenant
        #[arg(long, default_value = PLATFORM_SLUG)]
        tenant: String,
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(crate) async fn user(command: UserCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        UserCommand::Create {
            email,
            role,
            tenant,
            name,
            expires_at,
            reason,
            common,
        } => {
            let (local_part, _) = email.split_once('@').unwrap_or((&email, ""));
            let new = NewUser {
                name: name.unwrap_or_else(|| local_part.trim().to_owned()),
                email,
                role,
                expires_at,
                reason,
            };
            let (mut tx, tenant) = begin(&tenant, &common, settings).await?;
            let user = users::create_user(&mut tx, &cli_actor(), new).await?;
            let link = users::create_link(&mut tx, &cli_actor(), user.id, DEFAULT_LIFE).await?;
            tx.commit().await?;
            print_link(
                &user,
                &tenant,
                &link,
                &base_url(&common, settings)?,
                &common,
            );
        }
        UserCommand::Link {
            email,
            tenant,
            common,
        } => {
            let (mut tx, tenant) = begin(&tenant, &common, settings).await?;
            let Some(user) = users::find_user_by_email(&mut tx, &email).await? else {
                bail!("user `{email}` of tenant {} not found", tenant.slug);
            };
            if user.disabled_at.is_some() {
                bail!("user {} is disabled", user.email);
            }
            let link = users::create_link(&mut tx, &cli_actor(), user.id, DEFAULT_LIFE).await?;
            tx.commit().await?;
            print_link(
                &user,
                &tenant,
                &link,
                &base_url(&common, settings)?,
                &common,
            );
        }
        UserCommand::Ls { tenant, common } => {
            let (mut tx, _) = begin(&tenant, &common, settings).await?;
            let users = all_users(&mut tx).await?;
            tx.commit().await?;
            if common.json {
                let data: Vec<Value> = users.iter().map(user_json).collect();
                say(&json!({ "data": data }).to_string());
            } else {
                for user in &users {
                    let state = user.disabled_at.map_or("", |_| "  disabled");
                    let roles = user.roles.join(", ");
                    say(&format!(
                        "{}  {}  {}  {roles}{state}",
                        user.id, user.email, user.name
                    ));
                }
            }
        }
    }
    Ok(())
}

async fn begin(
    tenant: &str,
    common: &CommonArgs,
    settings: &Settings,
) -> anyhow::Result<(TenantTx, Tenant)> {
    let pool = connect(&common.target, settings).await?;
    let tenant = require_tenant(&pool, tenant).await?;
    Ok((TenantTx::begin(&pool, tenant.id).await?, tenant))
}

/// The base URL of the platform: the configured one, else that of the running `up`, else the API's
/// listen address.
fn base_url(common: &CommonArgs, settings: &Settings) -> anyhow::Result<String> {
    if let Some(url) = &settings.http.public_url {
        return Ok(url.to_string());
    }
    let running = match &settings.database {
        None => Home::open(&common.target.data_dir)?.api_url()?,
        Some(_) => None,
    };
    Ok(running.unwrap_or_else(|| format!("http://{}", settings.api_addr)))
}

async fn all_users(tx: &mut TenantTx) -> anyhow::Result<Vec<User>> {
    let mut users: Vec<User> = Vec::new();
    loop {
        let before: Option<UserId> = users.last().map(|user| user.id);
        let page = users::list_users(tx, before, PAGE_SIZE).await?;
        if page.is_empty() {
            return Ok(users);
        }
        users.extend(page);
    }
}

fn user_json(user: &User) -> Value {
    json!({
        "id": user.id, "email": user.email, "name": user.name, "roles": user.roles,
        "permissions": user.permissions, "created_at": user.created_at,
        "last_sign_in_at": user.last_sign_in_at, "disabled_at": user.disabled_at,
    })
}

fn print_link(user: &User, tenant: &Tenant, link: &SignInLink, base: &str, common: &CommonArgs) {
    let url = link.url(base);
    if common.json {
        let mut answer = user_json(user);
        answer["tenant_id"] = json!(tenant.id);
        answer["sign_in_url"] = json!(url);
        answer["sign_in_until"] = json!(link.expires_at);
        say(&answer.to_string());
    } else {
        say(&format!(
            "user {} of {}; sign in once, until {}, at:\n{url}",
            user.id,
            tenant.slug,
            link.expires_at.format("%H:%M UTC")
        ));
    }
}
