-- Takes back what dead workers held: running parcels whose lease has expired, is closed or is gone. A
-- run that was lost counts as an attempt; a job that has none left is dead, one that was being
-- cancelled is cancelled.
-- The parcels are asked, not the leases: a claim may be written after somebody found nothing under
-- its lease and closed that. Served by parcels_running, one probe a lease, then the lease's parcels.
with recursive holder(lease) as (
    (select p.lease from queue.parcels p where p.state = 'r' order by p.lease limit 1)
    union all
    select n.lease
    from holder h cross join lateral (
        select p.lease
        from queue.parcels p
        where p.state = 'r' and p.lease > h.lease
        order by p.lease
        limit 1
    ) n
),
expired as materialized (
    select h.lease as id
    from holder h
    where not exists (
        select from queue.leases l
        where l.id = h.lease and l.expires_at > now() and l.closed_at is null
    )
),
lost as materialized (
    select p.id from queue.parcels p
    where p.state = 'r' and p.lease = any (array(select id from expired))
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
-- For the people who look after workers: nothing depends on it.
closed as (
    update queue.leases l set closed_at = now()
    where l.closed_at is null and l.expires_at <= now()
      and not exists (select from queue.parcels p where p.lease = l.id and p.state = 'r')
)
select count(*) as rescued, count(*) filter (where state = 'x') as dead from taken
