//! Room: settings of tenants.
//! Takes: a tenant and what is to change. Gives: it changed; what holds for the tenant and for the keys
//! its jobs name. Never: makes a limiter for a limit that is not wanted.

use std::collections::BTreeMap;

use harkara_shared::database::{query, query_as, query_scalar};
use harkara_shared::id::TenantId;
use sqlx::PgConnection;

use super::change::{Change, LimitChange, LimitRow, LimiterChange, change_limiters};
use super::{Limit, MAX_TENANT_LIMITS, Rate, SettingsError, TenantChange, TenantSettings};
use crate::engine::Engine;
use crate::error::Error;

#[derive(sqlx::FromRow)]
struct Row {
    weight: i16,
    paused: bool,
    max_waiting: Option<i64>,
    waiting: i64,
    #[sqlx(flatten)]
    limit: LimitRow,
}

#[derive(sqlx::FromRow)]
struct NamedRow {
    key: String,
    #[sqlx(flatten)]
    limit: LimitRow,
}

impl Engine {
    /// What holds for a tenant.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn tenant(&self, tenant: TenantId) -> Result<TenantSettings, Error> {
        let row: Option<Row> = query_as(include_str!("../sql/show_tenant.sql"))
            .bind(tenant)
            .fetch_optional(self.pool())
            .await?;
        // The engine meets a tenant with its first job or its first setting.
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
        Ok(TenantSettings {
            weight: u16::try_from(row.weight).unwrap_or(1),
            paused: row.paused,
            max_waiting: row.max_waiting.and_then(|most| u32::try_from(most).ok()),
            waiting: u64::try_from(row.waiting).unwrap_or_default(),
            limit: row.limit.into(),
            limits: self.limits(tenant).await?,
        })
    }

    async fn limits(&self, tenant: TenantId) -> Result<BTreeMap<String, Limit>, Error> {
        let most = i64::try_from(MAX_TENANT_LIMITS + 1).unwrap_or(i64::MAX);
        let rows: Vec<NamedRow> = query_as(include_str!("../sql/show_limits.sql"))
            .bind(tenant)
            .bind(most)
            .fetch_all(self.pool())
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| (row.key, row.limit.into()))
            .collect())
    }

    /// Has no more jobs of a tenant start, or lets them go on. Jobs that run are left alone.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn pause_tenant(&self, tenant: TenantId, paused: bool) -> Result<(), SettingsError> {
        let change = TenantChange {
            paused: Some(paused),
            ..TenantChange::default()
        };
        self.set_tenant(tenant, &change).await
    }

    /// Changes what holds for a tenant, all of it or nothing.
    ///
    /// # Errors
    /// [`SettingsError::InvalidLimit`], [`SettingsError::TooManyLimits`], or when the database refuses.
    pub async fn set_tenant(
        &self,
        tenant: TenantId,
        change: &TenantChange,
    ) -> Result<(), SettingsError> {
        let number = self.interner().tenant_number(tenant).await?;
        let mut limiters = Vec::new();
        let (limiter, made): (Option<i64>, bool) =
            query_as(include_str!("../sql/limiter_of_tenant.sql"))
                .bind(number)
                .bind(change.limit.sets_something())
                .fetch_one(self.pool())
                .await?;
        let made = limiter.filter(|_| made && change.limit.counts());
        if let Some(limiter) = limiter.filter(|_| !change.limit.is_empty()) {
            limiters.push(LimiterChange {
                limiter,
                key: None,
                change: change.limit,
            });
        }
        let unfinished = loop {
            if let Some(unfinished) = self
                .change_tenant(tenant, number, change, &limiters)
                .await?
            {
                break unfinished;
            }
        };
        self.after_change(unfinished, made).await
    }

    /// Makes the change in one transaction; `None`, with nothing changed, when it is to be made again.
    async fn change_tenant(
        &self,
        tenant: TenantId,
        number: i32,
        change: &TenantChange,
        own: &[LimiterChange],
    ) -> Result<Option<Vec<i64>>, SettingsError> {
        let mut tx = self.pool().begin().await?;
        let weight = match change.weight {
            Change::Keep => None,
            Change::Remove => Some(1),
            Change::Set(weight) => i16::try_from(weight).ok(),
        };
        query(include_str!("../sql/set_tenant.sql"))
            .bind(number)
            .bind(change.paused)
            .bind(weight)
            .bind(change.max_waiting != Change::Keep)
            .bind(change.max_waiting.value().map(i64::from))
            .execute(&mut *tx)
            .await?;
        let mut limiters = own.to_vec();
        if !change.limits.is_empty() {
            limiters.extend(limiters_of_keys(&mut tx, number, &change.limits).await?);
        }
        let Some(unfinished) = change_limiters(&mut tx, &limiters).await? else {
            return Ok(None);
        };
        if change.limits.values().any(LimitChange::sets_something)
            && too_many(&mut tx, tenant).await?
        {
            return Err(SettingsError::TooManyLimits);
        }
        self.wake(&mut tx, None, Some(number)).await?;
        self.record_audit(&mut tx).await?;
        tx.commit().await?;
        Ok(Some(unfinished))
    }
}

/// The limiters of keys, made for those that are to limit something.
async fn limiters_of_keys(
    connection: &mut PgConnection,
    tenant: i32,
    limits: &BTreeMap<String, LimitChange>,
) -> Result<Vec<LimiterChange>, sqlx::Error> {
    let keys: Vec<&str> = limits.keys().map(String::as_str).collect();
    let make: Vec<bool> = limits.values().map(LimitChange::sets_something).collect();
    let limiters: Vec<(String, i64)> = query_as(include_str!("../sql/limiters_of_keys.sql"))
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

async fn too_many(connection: &mut PgConnection, tenant: TenantId) -> Result<bool, sqlx::Error> {
    let rows = query(include_str!("../sql/show_limits.sql"))
        .bind(tenant)
        .bind(i64::try_from(MAX_TENANT_LIMITS + 1).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    Ok(rows.len() > MAX_TENANT_LIMITS)
}

/// Gives a tenant that is being made the rate of its contract and the bound of its waiting jobs, in the
/// transaction that makes it.
///
/// # Errors
/// When the database refuses.
pub async fn set_tier_limits(
    connection: &mut PgConnection,
    tenant: TenantId,
    rate: Rate,
    max_waiting: u32,
) -> Result<(), SettingsError> {
    let number: i32 = query_scalar(include_str!("../sql/intern_tenant.sql"))
        .bind(tenant)
        .fetch_one(&mut *connection)
        .await?;
    let (limiter, _): (i64, bool) = query_as(include_str!("../sql/limiter_of_tenant.sql"))
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
    query(include_str!("../sql/set_tenant.sql"))
        .bind(number)
        .bind(None::<bool>)
        .bind(None::<i16>)
        .bind(true)
        .bind(i64::from(max_waiting))
        .execute(connection)
        .await?;
    Ok(())
}
