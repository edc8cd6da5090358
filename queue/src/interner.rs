//! Room: names to numbers, and back.
//! Takes: names of queues, kinds, tenants and lanes. Gives: the numbers parcels carry, made on
//! first use. Never: hands out a number whose row might be rolled back: rows are made on a
//! connection of their own, committed at once.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::TenantId;
use sqlx::PgPool;

use crate::job::{Lane, LimitUse, NewJob};

/// How long a lane is remembered: far less than an idle lane is kept, and no longer than its limits
/// may be out of date where jobs are packed.
const LANE_KNOWN: Duration = Duration::from_secs(60);

/// Bound of each cache: past it the cache is emptied, because names are few and lanes can be many.
const MOST_CACHED: usize = 100_000;

/// A cache of numbers that never change once they exist.
#[derive(Debug)]
struct IdCache<K, V>(RwLock<HashMap<K, V>>);

impl<K: std::hash::Hash + Eq, V: Clone> IdCache<K, V> {
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
            .cloned()
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
pub(crate) struct Interner {
    pool: PgPool,
    queues: IdCache<String, i32>,
    kinds: IdCache<String, i32>,
    tenants: IdCache<TenantId, i32>,
    lanes: IdCache<LaneName, (LaneRef, Instant)>,
    kind_names: IdCache<i32, Arc<str>>,
    tenant_ids: IdCache<i32, TenantId>,
}

/// What tells one lane from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LaneName {
    queue: i32,
    tenant: i32,
    lane: Lane,
    limits: Vec<LimitUse>,
}

/// A lane as enqueues know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneRef {
    pub(crate) id: i64,
    /// One job after another.
    pub(crate) strict: bool,
    /// Most of its jobs in one parcel: what limits it lets start at once. Those of a lane that names a key
    /// lie alone, so that a worker can take as few of them as it may hold; claims merge them again.
    pub(crate) pack: usize,
}

impl Interner {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self {
            pool,
            queues: IdCache::new(),
            kinds: IdCache::new(),
            tenants: IdCache::new(),
            lanes: IdCache::new(),
            kind_names: IdCache::new(),
            tenant_ids: IdCache::new(),
        }
    }

    pub(crate) async fn queue_number(&self, name: &str) -> Result<i32, sqlx::Error> {
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

    pub(crate) async fn kind_number(&self, name: &str) -> Result<i32, sqlx::Error> {
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

    pub(crate) async fn tenant_number(&self, id: TenantId) -> Result<i32, sqlx::Error> {
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

    /// Makes sure that what `job` names will be known without asking for a while.
    pub(crate) async fn prepare(&self, tenant: TenantId, job: &NewJob) -> Result<(), sqlx::Error> {
        let tenant = self.tenant_number(tenant).await?;
        let queue = self.queue_number(&job.queue).await?;
        self.kind_number(&job.kind).await?;
        self.lane_within(queue, tenant, job, LANE_KNOWN / 2).await?;
        Ok(())
    }

    /// The lane a job of `tenant` waits in.
    pub(crate) async fn lane(
        &self,
        queue: i32,
        tenant: i32,
        job: &NewJob,
    ) -> Result<LaneRef, sqlx::Error> {
        self.lane_within(queue, tenant, job, LANE_KNOWN).await
    }

    /// The same, learnt no longer ago than `age`.
    async fn lane_within(
        &self,
        queue: i32,
        tenant: i32,
        job: &NewJob,
        age: Duration,
    ) -> Result<LaneRef, sqlx::Error> {
        let mut limits = job.limits.clone();
        limits.sort();
        let name = LaneName {
            queue,
            tenant,
            lane: job.lane.clone(),
            limits,
        };
        if let Some((lane, since)) = self.lanes.get(&name)
            && since.elapsed() < age
        {
            return Ok(lane);
        }
        let strict = matches!(name.lane, Lane::Ordered(_));
        // Jobs of one ordered lane stay in line whatever limits they name.
        let identity = if strict {
            String::new()
        } else {
            let words = name.limits.iter();
            let lines: Vec<String> = words
                .map(|limit| format!("{}\u{1f}{}", limit.key, limit.cost))
                .collect();
            lines.join("\n")
        };
        let (keys, costs): (Vec<&str>, Vec<i32>) = name
            .limits
            .iter()
            .map(|limit| (limit.key.as_str(), i32::from(limit.cost)))
            .unzip();
        let limiters: Vec<i64> = if keys.is_empty() {
            Vec::new()
        } else {
            query_scalar(include_str!("sql/intern_limiters.sql"))
                .bind(tenant)
                .bind(keys)
                .fetch_all(&self.pool)
                .await?
        };
        let mut tries = 0;
        let (id, pack): (i64, i32) = loop {
            let lane = query_as(include_str!("sql/intern_lane.sql"))
                .bind(queue)
                .bind(tenant)
                .bind(name.lane.key())
                .bind(strict)
                .bind(&identity)
                .bind(&limiters)
                .bind(&costs)
                .fetch_optional(&self.pool)
                .await?;
            tries += 1;
            match lane {
                Some(lane) => break lane,
                None if tries < 10 => {}
                None => return Err(sqlx::Error::RowNotFound),
            }
        };
        let lane = LaneRef {
            id,
            strict,
            pack: match name.lane {
                Lane::Named(_) => 1,
                Lane::Default | Lane::Ordered(_) => usize::try_from(pack).unwrap_or(1).max(1),
            },
        };
        self.lanes.put(name, (lane, Instant::now()));
        Ok(lane)
    }

    /// The name of a kind by its number.
    pub(crate) async fn kind_name(&self, number: i32) -> Result<Arc<str>, sqlx::Error> {
        if let Some(name) = self.kind_names.get(&number) {
            return Ok(name);
        }
        let name: String = query_scalar(include_str!("sql/get_kind.sql"))
            .bind(number)
            .fetch_one(&self.pool)
            .await?;
        let name: Arc<str> = name.into();
        self.kind_names.put(number, Arc::clone(&name));
        Ok(name)
    }

    /// Whose number this is.
    pub(crate) async fn tenant_id(&self, number: i32) -> Result<TenantId, sqlx::Error> {
        if let Some(id) = self.tenant_ids.get(&number) {
            return Ok(id);
        }
        let id = query_scalar(include_str!("sql/get_tenant.sql"))
            .bind(number)
            .fetch_one(&self.pool)
            .await?;
        self.tenant_ids.put(number, id);
        Ok(id)
    }
}
