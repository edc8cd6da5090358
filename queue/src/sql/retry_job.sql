-- Makes a dead or cancelled job ready again with a full set of attempts, unless another live job
-- holds its unique key; answers the state, whether it changed, and that other job.
-- Found by primary key, then by labels_job and the primary key of unique_keys. As in cancel_job,
-- the update may first meet the row as it was before the lock was waited for.
with found as materialized (
    select id, state, queue, tenant, kind, keyed, id * 1024 + lo as job_id
    from queue.parcels
    where id = $1::bigint
    for update
),
-- Takes the key back for as long as the job lives, unless the job itself still holds it for a time
-- of its own. The update of a key that is held by another live job is refused by its condition and
-- answers nothing.
taken as (
    insert into queue.unique_keys as held (tenant, kind, key, job_id, expires_at)
    select f.tenant, f.kind, l.value, f.job_id, 'infinity'
    from found f
    join queue.labels l on l.tenant = f.tenant and l.name = 'unique_key' and l.job_id = f.job_id
    where f.keyed and f.state in ('x', 'c')
    on conflict (tenant, kind, key) do update
    set job_id = excluded.job_id,
        expires_at = case
            when held.expires_at <= now() then excluded.expires_at else held.expires_at
        end
    where held.expires_at <= now() or held.job_id = excluded.job_id
    returning job_id
),
changed as (
    update queue.parcels p
    set state = 'a', attempt = 0, deferrals = 0, run_at = now(), finished_at = null, lease = null,
        token = null, cancel = false
    from found f
    where p.id = f.id and f.state in ('x', 'c') and (not f.keyed or exists (select from taken))
    returning p.state, p.queue
),
told as (
    select pg_notify('harkara', 'q:' || queue)::text from changed where $2::bool
)
select
    coalesce((select state from changed), f.state)::text,
    exists (select from changed) and coalesce((select true from told), true),
    (
        select k.job_id
        from queue.labels l
        join queue.unique_keys k on k.tenant = l.tenant and k.kind = f.kind and k.key = l.value
        where l.tenant = f.tenant and l.name = 'unique_key' and l.job_id = f.job_id
          and f.keyed and f.state in ('x', 'c') and k.job_id <> f.job_id and k.expires_at > now()
    )
from found f
