//! Settings of tenants: weight, pause, the bound of waiting jobs, and limits.
//!
//! Never creates a limiter for a limit that is not set.

use std::collections::BTreeMap;

use harkara_shared::database::{query, query_as, query_scalar};
use harkara_shared::id::TenantId;
use serde::Serialize;
use sqlx::PgConnection;

use super::error::SettingsError;
use super::limit::{Change, Limit, LimitChange, MAX_TENANT_LIMITS, Rate};
use super::limiters::{LimitRow, LimiterChange, change_limiters, decode_number, weight_column};
use crate::engine::Engine;
use crate::error::Error;

/// The largest value of a tenant's bound of waiting jobs.
pub const MAX_WAITING_JOBS: u32 = 1_000_000_000;

/// The settings of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSettings {
    /// Its share of starts relative to other tenants, 1 to 1000.
    pub weight: u16,
    /// Whether none of its jobs start.
    pub paused: bool,
    /// Maximum jobs that can wait, scheduled and ready together: further ones are refused.
    pub max_waiting: Option<u32>,
    /// Jobs waiting now. Counted only while `max_waiting` is set.
    pub waiting: u64,
    /// The limit on all its jobs together.
    pub limit: Limit,
    /// The limits on jobs that name a key, by key.
    pub limits: BTreeMap<String, Limit>,
}

/// A change of a tenant's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TenantChange {
    /// Its share of starts relative to other tenants; 1 when removed.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub weight: Change<u16>,
    /// Whether none of its jobs start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Maximum jobs that can wait, 1 to [`MAX_WAITING_JOBS`].
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub max_waiting: Change<u32>,
    /// The limit on all its jobs together.
    pub limit: LimitChange,
    /// The limits on jobs that name a key, by key; [`LimitChange::removal`] removes one.
    pub limits: BTreeMap<String, LimitChange>,
}

/// How many limits to read: one more than allowed, so that an excess shows.
fn limits_to_read() -> i64 {
    i64::try_from(MAX_TENANT_LIMITS + 1).unwrap_or(i64::MAX)
}

#[derive(sqlx::FromRow)]
struct TenantRow {
    weight: i16,
    paused: bool,
    max_waiting: Option<i64>,
    waiting: i64,
    #[sqlx(flatten)]
    limit: LimitRow,
}

#[derive(sqlx::FromRow)]
struct KeyLimitRow {
    key: String,
    #[sqlx(flatten)]
    limit: LimitRow,
}

impl Engine {
    /// The settings of a tenant.
    ///
    /// # Errors
    /// When a statement fails.
    pub async fn tenant(&self, tenant: TenantId) -> Result<TenantSettings, Error> {
        let row: Option<TenantRow> = query_as(include_str!("read_tenant_settings.sql"))
            .bind(tenant)
            .fetch_optional(self.pool())
            .await?;
        // The engine stores a tenant from its first job or its first setting on.
        let Some(row) = row else {
            return Ok(TenantSettings {
                weight: 1,
                paused: false,
                max_waiting: None,
                waiting: 0,
                limit: Limit::default(),
                limits: BTreeMap::new(),
            });
        };
        let name = format!("tenant {tenant}");
        Ok(TenantSettings {
            weight: decode_number(&name, "weight", row.weight)?,
            paused: row.paused,
            max_waiting: row
                .max_waiting
                .map(|most| decode_number(&name, "max_waiting", most))
                .transpose()?,
            // Counters that are being repaired can be below zero for a moment.
            waiting: u64::try_from(row.waiting).unwrap_or_default(),
            limit: row.limit.decode(&name)?,
            limits: self.tenant_limits(tenant).await?,
        })
    }

    async fn tenant_limits(&self, tenant: TenantId) -> Result<BTreeMap<String, Limit>, Error> {
        let rows: Vec<KeyLimitRow> = query_as(include_str!("read_tenant_limits.sql"))
            .bind(tenant)
            .bind(limits_to_read())
            .fetch_all(self.pool())
            .await?;
        let limits = rows.into_iter().map(|row| {
            let limit = row.limit.decode(&format!("limit `{}`", row.key))?;
            Ok((row.key, limit))
        });
        limits.collect()
    }

    /// Pauses or resumes a tenant: while it is paused, none of its jobs start. Running jobs are not
    /// affected.
    ///
    /// # Errors
    /// When a statement fails.
    pub async fn pause_tenant(&self, tenant: TenantId, paused: bool) -> Result<(), SettingsError> {
        let change = TenantChange {
            paused: Some(paused),
            ..TenantChange::default()
        };
        self.set_tenant(tenant, &change).await
    }

    /// Applies the whole change to a tenant, or none of it.
    ///
    /// # Errors
    /// [`SettingsError::InvalidLimit`], [`SettingsError::TooManyLimits`], or when a statement fails.
    pub async fn set_tenant(
        &self,
        tenant: TenantId,
        change: &TenantChange,
    ) -> Result<(), SettingsError> {
        let number = self.interner().tenant_number(tenant).await?;
        let mut limiters = Vec::new();
        let (limiter, is_new): (Option<i64>, bool) =
            query_as(include_str!("limiter_of_tenant.sql"))
                .bind(number)
                .bind(change.limit.needs_limiter())
                .fetch_one(self.pool())
                .await?;
        let new_limiter = limiter.filter(|_| is_new && change.limit.needs_running_count());
        if let Some(limiter) = limiter.filter(|_| !change.limit.is_empty()) {
            limiters.push(LimiterChange {
                limiter,
                key: None,
                change: change.limit,
            });
        }
        let uncounted = loop {
            if let Some(uncounted) = self
                .change_tenant(tenant, number, change, &limiters)
                .await?
            {
                break uncounted;
            }
        };
        self.count_running_jobs(uncounted, new_limiter).await
    }

    /// Makes the change in one transaction and returns the limiters whose running jobs could not all be
    /// counted. Returns `None`, with nothing changed, when it must be tried again because an unused
    /// limiter was removed in the meantime.
    async fn change_tenant(
        &self,
        tenant: TenantId,
        number: i32,
        change: &TenantChange,
        tenant_limiter: &[LimiterChange],
    ) -> Result<Option<Vec<i64>>, SettingsError> {
        let mut tx = self.pool().begin().await?;
        query(include_str!("set_tenant.sql"))
            .bind(number)
            .bind(change.paused)
            .bind(weight_column(change.weight))
            .bind(change.max_waiting != Change::Keep)
            .bind(change.max_waiting.value().map(i64::from))
            .execute(&mut *tx)
            .await?;
        let mut limiters = tenant_limiter.to_vec();
        if !change.limits.is_empty() {
            limiters.extend(limiters_of_keys(&mut tx, number, &change.limits).await?);
        }
        let Some(uncounted) = change_limiters(&mut tx, &limiters).await? else {
            return Ok(None);
        };
        if change.limits.values().any(LimitChange::needs_limiter)
            && has_too_many_limits(&mut tx, tenant).await?
        {
            return Err(SettingsError::TooManyLimits);
        }
        self.wake_workers(&mut tx, None, Some(number)).await?;
        self.record_audit(&mut tx).await?;
        tx.commit().await?;
        Ok(Some(uncounted))
    }
}

/// The changes of the limiters of keys, which are created where a value is set.
async fn limiters_of_keys(
    connection: &mut PgConnection,
    tenant: i32,
    limits: &BTreeMap<String, LimitChange>,
) -> Result<Vec<LimiterChange>, sqlx::Error> {
    let keys: Vec<&str> = limits.keys().map(String::as_str).collect();
    let make: Vec<bool> = limits.values().map(LimitChange::needs_limiter).collect();
    let limiters: Vec<(String, i64)> = query_as(include_str!("limiters_of_keys.sql"))
        .bind(tenant)
        .bind(&keys)
        .bind(&make)
        .fetch_all(connection)
        .await?;
    Ok(limiters
        .into_iter()
        .filter_map(|(key, limiter)| {
            let change = *limits.get(&key)?;
            Some(LimiterChange {
                limiter,
                key: Some(key),
                change,
            })
        })
        .collect())
}

async fn has_too_many_limits(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> Result<bool, sqlx::Error> {
    let rows = query(include_str!("read_tenant_limits.sql"))
        .bind(tenant)
        .bind(limits_to_read())
        .fetch_all(connection)
        .await?;
    Ok(rows.len() > MAX_TENANT_LIMITS)
}

/// Sets the rate and the bound of waiting jobs that a new tenant's contract states, in the transaction
/// that creates the tenant.
///
/// # Errors
/// When a statement fails.
pub async fn set_tier_limits(
    connection: &mut PgConnection,
    tenant: TenantId,
    rate: Rate,
    max_waiting: u32,
) -> Result<(), SettingsError> {
    let number: i32 = query_scalar(include_str!("../interner/intern_tenant.sql"))
        .bind(tenant)
        .fetch_one(&mut *connection)
        .await?;
    let (limiter, _): (i64, bool) = query_as(include_str!("limiter_of_tenant.sql"))
        .bind(number)
        .bind(true)
        .fetch_one(&mut *connection)
        .await?;
    let change = LimiterChange {
        limiter,
        key: None,
        change: LimitChange::rate(rate),
    };
    change_limiters(&mut *connection, &[change]).await?;
    query(include_str!("set_tenant.sql"))
        .bind(number)
        .bind(None::<bool>)
        .bind(None::<i16>)
        .bind(true)
        .bind(i64::from(max_waiting))
        .execute(connection)
        .await?;
    Ok(())
}
