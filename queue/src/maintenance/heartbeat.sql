-- A worker's periodic query: promotes at most $2 parcels that have come due, wakes the workers of their
-- queues if $3, cancels jobs that have expired, and returns how long until the next parcel is due and
-- which of the worker's own runs are to be cancelled. Served by parcels_due, parcels_expiring and
-- parcels_cancelling.
with due as materialized (
    select ctid as t from queue.parcels
    where state = 's' and run_at <= now()
    order by run_at
    limit $2::int4
    for update skip locked
),
promoted as (
    update queue.parcels p set state = 'a' where p.ctid = any (array(select t from due))
    returning p.tenant, p.queue, p.kind, p.n - coalesce(cardinality(p.gone), 0) as jobs
),
counted as (
    insert into queue.deltas (tenant, queue, kind, scheduled, ready)
    select tenant, queue, kind, -sum(jobs), sum(jobs)
    from promoted
    group by tenant, queue, kind
),
notified as materialized (
    select pg_notify('harkara', 'q:' || left(string_agg(distinct queue::text, ','), 4000))::text
    from promoted
    where $3::bool
    having count(*) > 0
)
select
    (select count(*) from promoted) as promoted,
    (
        select (extract(epoch from min(run_at) - now()) * 1000)::int8
        from queue.parcels
        where state = 's' and run_at > now()
    ) as next_due_ms,
    array(
        select queue.job_id(p.id, p.lo, p.ids, m)
        from queue.parcels p cross join unnest(p.cancelling) m
        where p.state = 'r' and p.cancelling is not null and p.lease = $1::bigint
          and m <> all (coalesce(p.gone, '{}')) and m <> all (coalesce(p.acked, '{}'))
    ) as cancelling,
    (select count(*) from notified) as notified,
    case when exists (
        select from queue.parcels
        where state in ('s', 'a') and expires_at is not null and started_at is null
            and expires_at <= now()
    ) then queue.cancel_expired_jobs($2::int4) end as expired
