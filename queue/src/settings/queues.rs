//! Room: settings of queues.
//! Takes: a queue's name and what is to change. Gives: it changed; queues and what holds for them.
//! Never: makes a queue.

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::TenantId;

use super::change::{LimitChange, LimitRow, LimiterChange, change_limiters};
use super::{QueueSettings, QueueView, SettingsError};
use crate::engine::Engine;
use crate::error::Error;

#[derive(sqlx::FromRow)]
struct Row {
    id: i32,
    name: String,
    paused: bool,
    #[sqlx(flatten)]
    limit: LimitRow,
}

impl From<Row> for QueueSettings {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            name: row.name,
            paused: row.paused,
            limit: row.limit.into(),
        }
    }
}

impl Engine {
    /// At most `limit` queues whose number is greater than `after`, by number.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn queues(
        &self,
        view: QueueView<'_>,
        after: i32,
        limit: u32,
    ) -> Result<Vec<QueueSettings>, Error> {
        self.read_queues(view, None, after, limit).await
    }

    /// One queue, if it is there and in view.
    ///
    /// # Errors
    /// When the database refuses.
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
        let (tenant, known): (Option<TenantId>, &[&str]) = match view {
            QueueView::All => (None, &[]),
            QueueView::VisibleTo(tenant, known) => (Some(tenant), known),
        };
        let rows: Vec<Row> = query_as(include_str!("../sql/show_queues.sql"))
            .bind(tenant)
            .bind(known)
            .bind(name)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await?;
        Ok(rows.into_iter().map(QueueSettings::from).collect())
    }

    /// Makes a queue unless it is there: before the first job, or the first worker, comes to it.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn make_queue(&self, name: &str) -> Result<(), Error> {
        self.interner().queue_number(name).await?;
        Ok(())
    }

    /// Has no more jobs of a queue start, or lets them go on. Jobs that run are left alone.
    ///
    /// # Errors
    /// [`SettingsError::QueueNotFound`], or when the database refuses.
    pub async fn pause_queue(&self, name: &str, paused: bool) -> Result<(), SettingsError> {
        let mut tx = self.pool().begin().await?;
        let number: Option<i32> = query_scalar(include_str!("../sql/pause_queue.sql"))
            .bind(name)
            .bind(paused)
            .fetch_optional(&mut *tx)
            .await?;
        let number = number.ok_or(SettingsError::QueueNotFound)?;
        self.wake(&mut tx, Some(number), None).await?;
        self.record_audit(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Limits a queue, for the jobs of all tenants together.
    ///
    /// # Errors
    /// [`SettingsError::QueueNotFound`], [`SettingsError::InvalidLimit`], or when the database refuses.
    pub async fn set_queue(&self, name: &str, change: &LimitChange) -> Result<(), SettingsError> {
        let limiter: Option<(i32, Option<i64>, bool)> =
            query_as(include_str!("../sql/limiter_of_queue.sql"))
                .bind(name)
                .bind(change.sets_something())
                .fetch_optional(self.pool())
                .await?;
        let (number, limiter, made) = limiter.ok_or(SettingsError::QueueNotFound)?;
        let made = limiter.filter(|_| made && change.counts());
        let mut tx = self.pool().begin().await?;
        let changes: Vec<LimiterChange> = limiter
            .map(|limiter| LimiterChange {
                limiter,
                key: None,
                change: *change,
            })
            .into_iter()
            .collect();
        // Such limiters are not removed.
        let unfinished = change_limiters(&mut tx, &changes)
            .await?
            .unwrap_or_default();
        self.wake(&mut tx, Some(number), None).await?;
        self.record_audit(&mut tx).await?;
        tx.commit().await?;
        self.after_change(unfinished, made).await
    }
}
