-- Takes back what dead workers held: parcels under leases that have expired. A run that was lost
-- counts as an attempt; a job that has none left is dead, one that was being cancelled is cancelled.
-- Served by leases_open and parcels_running.
with expired as materialized (
    select id from queue.leases where closed_at is null and expires_at <= now() order by expires_at
    limit 100
),
lost as materialized (
    select p.id from queue.parcels p
    where p.state = 'r' and p.lease = any (array(select id from expired))
    order by p.id
    limit $1::int4
    for update skip locked
),
taken as (
    update queue.parcels p
    set state = case
            when p.cancel then 'c'
            when p.attempt >= p.max_attempts then 'x'
            else 'a'
        end::"char",
        token = null,
        cancel = false,
        finished_at = case when p.cancel or p.attempt >= p.max_attempts then now() end,
        error_code = 'worker_lost',
        error_message = 'the worker died or lost its lease while the job ran'
    where p.id = any (array(select id from lost))
    returning p.*
),
logged as (
    insert into queue.attempts (
        job_id, tenant, started_at, finished_at, next_run_at, worker_id, outcome, error_code,
        error_message
    )
    select
        t.id * 1024 + t.lo, t.tenant, t.started_at, now(), case when t.state = 'a' then now() end,
        (select l.worker_id from queue.leases l where l.id = t.lease),
        'lost', t.error_code, t.error_message
    from taken t
),
freed as materialized (
    select k.tenant, k.kind, k.key
    from queue.unique_keys k
    where k.job_id = any (
        array(select id * 1024 + lo from taken where keyed and state in ('x', 'c'))
    )
      and k.expires_at = 'infinity'
    order by k.tenant, k.kind, k.key
    for update
),
released as (
    delete from queue.unique_keys k
    using freed
    where k.tenant = freed.tenant and k.kind = freed.kind and k.key = freed.key
),
-- A lease is closed once a later look finds nothing under it.
closed as (
    update queue.leases l set closed_at = now()
    where l.id = any (array(select id from expired))
      and not exists (select from queue.parcels p where p.lease = l.id and p.state = 'r')
)
select count(*) as rescued, count(*) filter (where state = 'x') as dead from taken
