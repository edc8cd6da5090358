-- Makes a dead or cancelled job ready again with a full set of attempts, unless another live job
-- holds its unique key; answers the state, whether it changed, and that other job. Such a job has a row
-- to itself. Found by `queue.find` and primary key, then by labels_job and the primary key of
-- unique_keys. The row is judged when it is locked, and a job that has moved told, as in cancel_job.
with place as materialized (
    select * from queue.find(array[$1::bigint])
),
found as materialized (
    select
        p.tenant, p.id, p.part, p.state, p.queue, p.kind, p.keyed, p.lo, p.n, p.ids, p.gone,
        (select member from place) as member,
        (select member from place) = any (coalesce(p.acked, '{}')) as succeeded
    from queue.parcels p
    where p.tenant = (select tenant from place)
      and p.id = (select id from place)
      and p.part = (select part from place)
    for update
),
here as materialized (
    select f.*, f.state in ('x', 'c') and not f.succeeded as again
    from found f
    where queue.job_of(f.id, f.lo, f.ids, f.member) = $1::bigint
      and f.member <= f.n
      and f.member <> all (coalesce(f.gone, '{}'))
),
-- Takes the key back for as long as the job lives, unless the job itself still holds it for a time
-- of its own. The update of a key that is held by another live job is refused by its condition and
-- answers nothing.
taken as (
    insert into queue.unique_keys as held (tenant, kind, key, job_id, expires_at)
    select h.tenant, h.kind, l.value, l.job_id, 'infinity'
    from here h
    join queue.labels l on l.tenant = h.tenant and l.name = 'unique_key' and l.job_id = $1::bigint
    where h.keyed and h.again
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
        token = null, cancelling = null, lost = false, probe = false, gates = null
    from here h
    where p.tenant = h.tenant and p.id = h.id and p.part = h.part
      and h.again and (not h.keyed or exists (select from taken))
    returning p.state, p.queue
),
told as (
    select pg_notify('harkara', 'q:' || queue)::text from changed where $2::bool
)
select
    coalesce(c.state, case when h.succeeded then 'd' else h.state end)::text as state,
    c.state is not null and coalesce((select true from told), true) as changed,
    (
        select k.job_id
        from queue.labels l
        join queue.unique_keys k on k.tenant = l.tenant and k.kind = h.kind and k.key = l.value
        where l.tenant = h.tenant and l.name = 'unique_key' and l.job_id = $1::bigint
          and h.keyed and h.again and k.job_id <> $1::bigint and k.expires_at > now()
    ) as holder,
    null::bigint as emptied,
    null::int2 as emptied_part
from place f
left join here h on true
left join changed c on true
