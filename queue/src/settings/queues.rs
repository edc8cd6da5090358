//! Settings of queues.
//!
//! Lists queues, pauses and limits them. A change never creates a queue; [`Engine::make_queue`] does.

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::TenantId;

use super::error::SettingsError;
use super::limit::{Limit, LimitChange};
use super::limiters::{LimitRow, LimiterChange, change_limiters};
use crate::engine::Engine;
use crate::error::Error;

/// The settings of a queue, which all tenants share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// Internal number, by which queues are listed.
    pub id: i32,
    /// The name that jobs refer to.
    pub name: String,
    /// Whether none of its jobs start.
    pub paused: bool,
    /// The limit on the jobs of all tenants together.
    pub limit: Limit,
}

/// Which queues a reader can see.
#[derive(Debug, Clone, Copy)]
pub enum QueueView<'a> {
    /// Every queue.
    All,
    /// The queues visible to a tenant: those in which it has lanes, and these public ones.
    VisibleTo(TenantId, &'a [&'a str]),
}

#[derive(sqlx::FromRow)]
struct QueueRow {
    id: i32,
    name: String,
    paused: bool,
    #[sqlx(flatten)]
    limit: LimitRow,
}

impl TryFrom<QueueRow> for QueueSettings {
    type Error = sqlx::Error;

    fn try_from(row: QueueRow) -> Result<Self, sqlx::Error> {
        let limit = row.limit.decode(&format!("queue `{}`", row.name))?;
        Ok(Self {
            id: row.id,
            name: row.name,
            paused: row.paused,
            limit,
        })
    }
}

impl Engine {
    /// The queues in view, at most `limit`, by internal number, starting after the number `after`.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn queues(
        &self,
        view: QueueView<'_>,
        after: i32,
        limit: u32,
    ) -> Result<Vec<QueueSettings>, Error> {
        self.read_queues(view, None, after, limit).await
    }

    /// One queue; `None` if it does not exist or is not in view.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn queue(
        &self,
        view: QueueView<'_>,
        name: &str,
    ) -> Result<Option<QueueSettings>, Error> {
        Ok(self.read_queues(view, Some(name), 0, 1).await?.pop())
    }

    async fn read_queues(
        &self,
        view: QueueView<'_>,
        name: Option<&str>,
        after: i32,
        limit: u32,
    ) -> Result<Vec<QueueSettings>, Error> {
        let (tenant, public): (Option<TenantId>, &[&str]) = match view {
            QueueView::All => (None, &[]),
            QueueView::VisibleTo(tenant, public) => (Some(tenant), public),
        };
        let rows: Vec<QueueRow> = query_as(include_str!("read_queues.sql"))
            .bind(tenant)
            .bind(public)
            .bind(name)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await?;
        let queues = rows.into_iter().map(QueueSettings::try_from);
        Ok(queues.collect::<Result<_, _>>()?)
    }

    /// Creates a queue unless it exists, ahead of its first job or worker.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn make_queue(&self, name: &str) -> Result<(), Error> {
        self.interner().queue_number(name).await?;
        Ok(())
    }

    /// Pauses or resumes a queue: while it is paused, none of its jobs start. Running jobs are not
    /// affected.
    ///
    /// # Errors
    /// [`SettingsError::QueueNotFound`], or when a statement fails.
    pub async fn pause_queue(&self, name: &str, paused: bool) -> Result<(), SettingsError> {
        let mut tx = self.pool().begin().await?;
        let number: Option<i32> = query_scalar(include_str!("pause_queue.sql"))
            .bind(name)
            .bind(paused)
            .fetch_optional(&mut *tx)
            .await?;
        let number = number.ok_or(SettingsError::QueueNotFound)?;
        self.wake_workers(&mut tx, Some(number), None).await?;
        self.record_audit(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Changes the limit on a queue's jobs, those of all tenants together.
    ///
    /// # Errors
    /// [`SettingsError::QueueNotFound`], [`SettingsError::InvalidLimit`], or when a statement fails.
    pub async fn set_queue(&self, name: &str, change: &LimitChange) -> Result<(), SettingsError> {
        let limiter: Option<(i32, Option<i64>, bool)> =
            query_as(include_str!("limiter_of_queue.sql"))
                .bind(name)
                .bind(change.needs_limiter())
                .fetch_optional(self.pool())
                .await?;
        let (number, limiter, is_new) = limiter.ok_or(SettingsError::QueueNotFound)?;
        let new_limiter = limiter.filter(|_| is_new && change.needs_running_count());
        let mut tx = self.pool().begin().await?;
        let changes: Vec<LimiterChange> = limiter
            .map(|limiter| LimiterChange {
                limiter,
                key: None,
                change: *change,
            })
            .into_iter()
            .collect();
        // Never `None`: only limiters of keys are removed when unused.
        let uncounted = change_limiters(&mut tx, &changes)
            .await?
            .unwrap_or_default();
        self.wake_workers(&mut tx, Some(number), None).await?;
        self.record_audit(&mut tx).await?;
        tx.commit().await?;
        self.count_running_jobs(uncounted, new_limiter).await
    }
}
