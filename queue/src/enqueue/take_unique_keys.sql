-- Takes the keys that are free or expired, and returns for each key its holder: our job if it was taken,
-- or the job that was seen to hold it. A key that a concurrent transaction took meanwhile is not returned;
-- its row is then locked and can be found. Served by the primary key. Keys are visited in one order
-- everywhere, so that two batches cannot deadlock. Those seen to be held are left alone: a conflict locks
-- its row even if it changes nothing, and the settlement of the job that holds the key would have to wait
-- for this transaction.
with wanted as materialized (
    select * from unnest($1::int4[], $2::int4[], $3::text[], $4::bigint[], $5::bigint[])
        as k(tenant, kind, key, job_id, hold_ms)
),
known as materialized (
    select h.tenant, h.kind, h.key, h.job_id
    from wanted w
    join queue.unique_keys h on h.tenant = w.tenant and h.kind = w.kind and h.key = w.key
    where h.expires_at > now()
),
taken as (
    insert into queue.unique_keys as held (tenant, kind, key, job_id, expires_at)
    select
        w.tenant, w.kind, w.key, w.job_id,
        case
            when w.hold_ms is null then 'infinity'
            else now() + w.hold_ms * interval '1 millisecond'
        end
    from wanted w
    where (w.tenant, w.kind, w.key) not in (select tenant, kind, key from known)
    order by w.tenant, w.kind, w.key
    on conflict (tenant, kind, key) do update
    set job_id = excluded.job_id, expires_at = excluded.expires_at
    where held.expires_at <= now()
    returning tenant, kind, key, job_id
)
select tenant, kind, key, job_id from known
union all
select tenant, kind, key, job_id from taken
