//! Room: names to numbers.
//! Takes: names of queues, kinds, tenants and lanes. Gives: the numbers parcels carry, made on
//! first use. Never: hands out a number whose row might be rolled back: rows are made on a
//! connection of their own, committed at once.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use harkara_shared::database::query_scalar;
use harkara_shared::id::TenantId;
use sqlx::PgPool;

/// Bound of each cache: past it the cache is emptied, because names are few and lanes can be many.
const MOST_CACHED: usize = 100_000;

/// A cache of numbers that never change once they exist.
#[derive(Debug)]
struct Numbers<K, V>(RwLock<HashMap<K, V>>);

impl<K: std::hash::Hash + Eq, V: Copy> Numbers<K, V> {
    fn new() -> Self {
        Self(RwLock::new(HashMap::new()))
    }

    fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: std::hash::Hash + Eq + ?Sized,
    {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .copied()
    }

    fn put(&self, key: K, value: V) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MOST_CACHED {
            map.clear();
        }
        map.insert(key, value);
    }
}

/// The numbers this process has met.
#[derive(Debug)]
pub(crate) struct Names {
    pool: PgPool,
    queues: Numbers<String, i32>,
    kinds: Numbers<String, i32>,
    tenants: Numbers<TenantId, i32>,
    lanes: Numbers<(i32, i32), i64>,
}

impl Names {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self {
            pool,
            queues: Numbers::new(),
            kinds: Numbers::new(),
            tenants: Numbers::new(),
            lanes: Numbers::new(),
        }
    }

    pub(crate) async fn queue(&self, name: &str) -> Result<i32, sqlx::Error> {
        if let Some(number) = self.queues.get(name) {
            return Ok(number);
        }
        let number = query_scalar(include_str!("sql/intern_queue.sql"))
            .bind(name)
            .fetch_one(&self.pool)
            .await?;
        self.queues.put(name.to_owned(), number);
        Ok(number)
    }

    pub(crate) async fn kind(&self, name: &str) -> Result<i32, sqlx::Error> {
        if let Some(number) = self.kinds.get(name) {
            return Ok(number);
        }
        let number = query_scalar(include_str!("sql/intern_kind.sql"))
            .bind(name)
            .fetch_one(&self.pool)
            .await?;
        self.kinds.put(name.to_owned(), number);
        Ok(number)
    }

    pub(crate) async fn tenant(&self, id: TenantId) -> Result<i32, sqlx::Error> {
        if let Some(number) = self.tenants.get(&id) {
            return Ok(number);
        }
        let number = query_scalar(include_str!("sql/intern_tenant.sql"))
            .bind(id)
            .fetch_one(&self.pool)
            .await?;
        self.tenants.put(id, number);
        Ok(number)
    }

    /// The default lane of a tenant in a queue.
    pub(crate) async fn lane(&self, queue: i32, tenant: i32) -> Result<i64, sqlx::Error> {
        if let Some(number) = self.lanes.get(&(queue, tenant)) {
            return Ok(number);
        }
        let number = query_scalar(include_str!("sql/intern_lane.sql"))
            .bind(queue)
            .bind(tenant)
            .fetch_one(&self.pool)
            .await?;
        self.lanes.put((queue, tenant), number);
        Ok(number)
    }
}
