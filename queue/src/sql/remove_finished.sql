-- Removes finished jobs of two states older than $2 seconds, at most $3, with their labels and keys.
-- Served by parcels_finished, labels_job and unique_keys_job.
with old as materialized (
    select id from queue.parcels
    where state = any (array[($1::text[])[1]::"char", ($1::text[])[2]::"char"])
      and finished_at is not null
      and finished_at < now() - $2::float8 * interval '1 second'
    limit $3::int4
    for update skip locked
),
removed as (
    delete from queue.parcels p where p.id = any (array(select id from old)) returning p.id, p.lo
),
unlabelled as (
    delete from queue.labels l where l.job_id = any (array(select id * 1024 + lo from removed))
),
unkeyed as (
    delete from queue.unique_keys k where k.job_id = any (array(select id * 1024 + lo from removed))
)
select count(*) from removed
