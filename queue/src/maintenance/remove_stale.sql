-- Removes at most $2 unique keys that have expired, and the records of workers that stopped $1 seconds
-- ago. Served by unique_keys_expiry; there are few workers.
with stale as materialized (
    select tenant, kind, key from queue.unique_keys
    where expires_at <= now() and expires_at < 'infinity'
    order by expires_at
    limit $2::int4
    -- A locked key is being taken by another transaction and stays.
    for update skip locked
),
keys as (
    delete from queue.unique_keys k
    using stale s
    where k.tenant = s.tenant and k.kind = s.kind and k.key = s.key
    returning 1
),
workers as (
    delete from queue.workers w
    where w.last_seen_at < now() - $1::float8 * interval '1 second'
      and not exists (
          select from queue.leases l where l.worker_id = w.id and l.closed_at is null
      )
    returning 1
)
select (select count(*) from keys), (select count(*) from workers)
