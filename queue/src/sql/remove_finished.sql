-- Removes jobs that finished in state $1 more than $2 seconds ago, the oldest first, at most $3, with
-- their labels and keys. One whose key is held for a while yet stays: whoever repeats the key is
-- answered with it. Served by parcels_finished, labels_job and unique_keys_job.
with old as materialized (
    select p.id, p.lo from queue.parcels p
    where p.state = $1::text::"char"
      and p.finished_at is not null
      and p.finished_at < now() - $2::float8 * interval '1 second'
      -- No `exists`: that may be answered by reading all keys.
      and not (
          p.keyed
          and (
              select count(*) from queue.unique_keys k
              where k.job_id = p.id * 1024 + p.lo and k.expires_at > now()
          ) > 0
      )
    order by p.finished_at
    limit $3::int4
    for update skip locked
),
removed as (
    delete from queue.parcels p where p.id = any (array(select id from old))
    returning p.id * 1024 + p.lo as job_id
),
unlabelled as (
    delete from queue.labels l where l.job_id = any (array(select job_id from removed))
),
-- Whoever holds one of these is taking it, and will have it.
outlived as materialized (
    select k.tenant, k.kind, k.key
    from queue.unique_keys k
    where k.job_id = any (array(select job_id from removed))
    for update skip locked
),
unkeyed as (
    delete from queue.unique_keys k
    using outlived o
    where k.tenant = o.tenant and k.kind = o.kind and k.key = o.key
)
select count(*) from removed
