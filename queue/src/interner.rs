//! Interns the names of queues, kinds, tenants and lanes: maps them to the internal numbers that
//! parcels store, and back.
//!
//! A name is given a number when it is first used. Never returns a number whose row could be rolled
//! back: rows are inserted on connections outside the callers' transactions and committed at once.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::TenantId;
use sqlx::PgPool;

use crate::job::{Lane, LimitUse, NewJob};

/// How long a lane stays cached: far shorter than idle lanes are kept, and short enough that a change
/// of its limits soon applies to the packing of its jobs.
const LANE_CACHE_TTL: Duration = Duration::from_secs(60);

/// Entries at which a cache is emptied. Names are few, but lanes can be many.
const MAX_CACHED: usize = 100_000;

/// How often interning a lane is tried: it yields nothing while another transaction inserts or removes
/// the same lane.
const MAX_LANE_TRIES: u32 = 10;

/// A cache of ids that never change once assigned.
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
        if map.len() >= MAX_CACHED {
            map.clear();
        }
        map.insert(key, value);
    }
}

/// Interns names on connections of `pool`, and caches what this process has interned.
#[derive(Debug)]
pub(crate) struct Interner {
    pool: PgPool,
    queues: IdCache<String, i32>,
    kinds: IdCache<String, i32>,
    tenants: IdCache<TenantId, i32>,
    lanes: IdCache<LaneIdentity, (LaneRef, Instant)>,
    kind_names: IdCache<i32, Arc<str>>,
    tenant_ids: IdCache<i32, TenantId>,
}

/// What distinguishes one lane from another. Queue and tenant are internal numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LaneIdentity {
    queue: i32,
    tenant: i32,
    lane: Lane,
    limits: Vec<LimitUse>,
}

/// What an enqueue needs to know of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneRef {
    pub(crate) id: i64,
    /// Whether its jobs run one after another.
    pub(crate) strict: bool,
    /// Most of its jobs in one parcel: as many as its limits let start at once. Jobs of a named lane get
    /// a parcel each, so that a worker can claim as few of them as it has slots for; claims merge them.
    pub(crate) max_parcel_jobs: usize,
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

    /// The internal number of a queue.
    pub(crate) async fn queue_number(&self, name: &str) -> Result<i32, sqlx::Error> {
        if let Some(number) = self.queues.get(name) {
            return Ok(number);
        }
        let number = query_scalar(include_str!("interner/intern_queue.sql"))
            .bind(name)
            .fetch_one(&self.pool)
            .await?;
        self.queues.put(name.to_owned(), number);
        Ok(number)
    }

    /// The internal number of a kind.
    pub(crate) async fn kind_number(&self, name: &str) -> Result<i32, sqlx::Error> {
        if let Some(number) = self.kinds.get(name) {
            return Ok(number);
        }
        let number = query_scalar(include_str!("interner/intern_kind.sql"))
            .bind(name)
            .fetch_one(&self.pool)
            .await?;
        self.kinds.put(name.to_owned(), number);
        Ok(number)
    }

    /// The internal number of a tenant.
    pub(crate) async fn tenant_number(&self, id: TenantId) -> Result<i32, sqlx::Error> {
        if let Some(number) = self.tenants.get(&id) {
            return Ok(number);
        }
        let number = query_scalar(include_str!("interner/intern_tenant.sql"))
            .bind(id)
            .fetch_one(&self.pool)
            .await?;
        self.tenants.put(id, number);
        Ok(number)
    }

    /// Interns all names of `job`, so that an enqueue soon after finds them in the cache.
    pub(crate) async fn prepare(&self, tenant: TenantId, job: &NewJob) -> Result<(), sqlx::Error> {
        let tenant = self.tenant_number(tenant).await?;
        let queue = self.queue_number(&job.queue).await?;
        self.kind_number(&job.kind).await?;
        self.lane_cached_within(queue, tenant, job, LANE_CACHE_TTL / 2)
            .await?;
        Ok(())
    }

    /// The lane a job of `tenant` waits in.
    pub(crate) async fn lane(
        &self,
        queue: i32,
        tenant: i32,
        job: &NewJob,
    ) -> Result<LaneRef, sqlx::Error> {
        self.lane_cached_within(queue, tenant, job, LANE_CACHE_TTL)
            .await
    }

    /// As [`Self::lane`], using a cache entry only if it is younger than `max_age`.
    async fn lane_cached_within(
        &self,
        queue: i32,
        tenant: i32,
        job: &NewJob,
        max_age: Duration,
    ) -> Result<LaneRef, sqlx::Error> {
        let mut limits = job.limits.clone();
        limits.sort();
        let identity = LaneIdentity {
            queue,
            tenant,
            lane: job.lane.clone(),
            limits,
        };
        if let Some((lane, since)) = self.lanes.get(&identity)
            && since.elapsed() < max_age
        {
            return Ok(lane);
        }
        let strict = matches!(identity.lane, Lane::Ordered(_));
        // Jobs of one ordered lane share it whatever limits they name; other lanes differ by limits.
        let limits_text = if strict {
            String::new()
        } else {
            let limits = identity.limits.iter();
            let lines: Vec<String> = limits
                .map(|limit| format!("{}\u{1f}{}", limit.key, limit.cost))
                .collect();
            lines.join("\n")
        };
        let (keys, costs): (Vec<&str>, Vec<i32>) = identity
            .limits
            .iter()
            .map(|limit| (limit.key.as_str(), i32::from(limit.cost)))
            .unzip();
        let limiters: Vec<i64> = if keys.is_empty() {
            Vec::new()
        } else {
            query_scalar(include_str!("interner/intern_limiters.sql"))
                .bind(tenant)
                .bind(keys)
                .fetch_all(&self.pool)
                .await?
        };
        let mut tries = 0;
        let (id, max_parcel_jobs): (i64, i32) = loop {
            let lane = query_as(include_str!("interner/intern_lane.sql"))
                .bind(queue)
                .bind(tenant)
                .bind(identity.lane.key())
                .bind(strict)
                .bind(&limits_text)
                .bind(&limiters)
                .bind(&costs)
                .fetch_optional(&self.pool)
                .await?;
            tries += 1;
            match lane {
                Some(lane) => break lane,
                None if tries < MAX_LANE_TRIES => {}
                None => return Err(sqlx::Error::RowNotFound),
            }
        };
        let lane = LaneRef {
            id,
            strict,
            max_parcel_jobs: match identity.lane {
                Lane::Named(_) => 1,
                Lane::Default | Lane::Ordered(_) => usize::try_from(max_parcel_jobs)
                    .map_err(|_| {
                        let reason = format!("lane {id}: parcel size {max_parcel_jobs}");
                        sqlx::Error::Decode(reason.into())
                    })?
                    .max(1),
            },
        };
        self.lanes.put(identity, (lane, Instant::now()));
        Ok(lane)
    }

    /// The name of the kind with this internal number.
    pub(crate) async fn kind_name(&self, number: i32) -> Result<Arc<str>, sqlx::Error> {
        if let Some(name) = self.kind_names.get(&number) {
            return Ok(name);
        }
        let name: String = query_scalar(include_str!("interner/get_kind.sql"))
            .bind(number)
            .fetch_one(&self.pool)
            .await?;
        let name: Arc<str> = name.into();
        self.kind_names.put(number, Arc::clone(&name));
        Ok(name)
    }

    /// The id of the tenant with this internal number.
    pub(crate) async fn tenant_id(&self, number: i32) -> Result<TenantId, sqlx::Error> {
        if let Some(id) = self.tenant_ids.get(&number) {
            return Ok(id);
        }
        let id = query_scalar(include_str!("interner/get_tenant.sql"))
            .bind(number)
            .fetch_one(&self.pool)
            .await?;
        self.tenant_ids.put(number, id);
        Ok(id)
    }
}
