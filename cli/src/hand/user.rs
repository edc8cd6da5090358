//! Room: people, by hand.
//! Takes: a command. Gives: a person made with a link to sign in, another link, a list.
//! Never: takes a password: people set their own.

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::Subcommand;
use harkara_api::access::{self, PLATFORM_SLUG, Tenant};
use harkara_api::people::{self, DEFAULT_LIFE, NewUser, SignInLink, User};
use harkara_shared::config::Settings;
use harkara_shared::database::TenantTx;
use harkara_shared::id::UserId;
use serde_json::{Value, json};

use super::steer::How;
use super::{by_hand, pool};
use crate::up::{Home, say};

/// People that one page of the list holds.
const PAGE: u32 = 200;

/// `harkara user …`
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user; the answer holds a link to sign in with, once
    Create {
        /// Their email
        email: String,
        /// The role they begin with: admin, manager, team_lead, sales_rep, operator or viewer
        #[arg(long)]
        role: String,
        /// Id or slug of their tenant
        #[arg(long, default_value = PLATFORM_SLUG)]
        tenant: String,
        /// What people call them; without it what stands before the @ of their email
        #[arg(long)]
        name: Option<String>,
        /// When they lose the role again, as in 2030-01-31T12:00:00Z
        #[arg(long)]
        expires_at: Option<DateTime<Utc>>,
        /// Why, for the audit log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Make another link to sign in with; those that were not used end
    Link {
        /// Their email
        email: String,
        /// Id or slug of their tenant
        #[arg(long, default_value = PLATFORM_SLUG)]
        tenant: String,
        #[command(flatten)]
        how: How,
    },
    /// List users, newest first
    Ls {
        /// Id or slug of their tenant
        #[arg(long, default_value = PLATFORM_SLUG)]
        tenant: String,
        #[command(flatten)]
        how: How,
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
            how,
        } => {
            let before_at = email.split('@').next().unwrap_or_default();
            let new = NewUser {
                name: name.unwrap_or_else(|| before_at.trim().to_owned()),
                email,
                role,
                expires_at,
                reason,
            };
            let (mut tx, tenant) = begin(&tenant, &how, settings).await?;
            let user = people::create_user(&mut tx, &by_hand(), new).await?;
            let link = people::create_link(&mut tx, &by_hand(), user.id, DEFAULT_LIFE).await?;
            tx.commit().await?;
            tell_link(&user, &tenant, &link, &base(&how, settings)?, &how);
        }
        UserCommand::Link { email, tenant, how } => {
            let (mut tx, tenant) = begin(&tenant, &how, settings).await?;
            let Some(user) = people::find_user_by_email(&mut tx, &email).await? else {
                bail!("the tenant {} has no user `{email}`", tenant.slug);
            };
            if user.disabled_at.is_some() {
                bail!("{} is disabled", user.email);
            }
            let link = people::create_link(&mut tx, &by_hand(), user.id, DEFAULT_LIFE).await?;
            tx.commit().await?;
            tell_link(&user, &tenant, &link, &base(&how, settings)?, &how);
        }
        UserCommand::Ls { tenant, how } => {
            let (mut tx, _) = begin(&tenant, &how, settings).await?;
            let users = all(&mut tx).await?;
            tx.commit().await?;
            if how.is_json() {
                let data: Vec<Value> = users.iter().map(shown).collect();
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

async fn begin(tenant: &str, how: &How, settings: &Settings) -> anyhow::Result<(TenantTx, Tenant)> {
    let pool = pool(how.place(), settings)?;
    let Some(tenant) = access::find_tenant(&pool, tenant).await? else {
        bail!("there is no tenant `{tenant}`");
    };
    Ok((TenantTx::begin(&pool, tenant.id).await?, tenant))
}

/// Where the platform is reached: as configured, else where `up` runs on the data directory, else where
/// the API listens.
fn base(how: &How, settings: &Settings) -> anyhow::Result<String> {
    if let Some(url) = &settings.http.public_url {
        return Ok(url.to_string());
    }
    let running = match &settings.database {
        None => Home::open(&how.place().data_dir)?.api_url()?,
        Some(_) => None,
    };
    Ok(running.unwrap_or_else(|| format!("http://{}", settings.api_addr)))
}

async fn all(tx: &mut TenantTx) -> anyhow::Result<Vec<User>> {
    let mut users: Vec<User> = Vec::new();
    loop {
        let before: Option<UserId> = users.last().map(|user| user.id);
        let page = people::list_users(tx, before, PAGE).await?;
        if page.is_empty() {
            return Ok(users);
        }
        users.extend(page);
    }
}

fn shown(user: &User) -> Value {
    json!({
        "id": user.id, "email": user.email, "name": user.name, "roles": user.roles,
        "permissions": user.permissions, "created_at": user.created_at,
        "last_sign_in_at": user.last_sign_in_at, "disabled_at": user.disabled_at,
    })
}

fn tell_link(user: &User, tenant: &Tenant, link: &SignInLink, base: &str, how: &How) {
    let url = link.url(base);
    if how.is_json() {
        let mut answer = shown(user);
        answer["tenant_id"] = json!(tenant.id);
        answer["sign_in_url"] = json!(url);
        answer["sign_in_until"] = json!(link.expires_at);
        say(&answer.to_string());
    } else {
        say(&format!(
            "user {} of {}, who signs in once, until {}, by:\n{url}",
            user.id,
            tenant.slug,
            link.expires_at.format("%H:%M UTC")
        ));
    }
}
