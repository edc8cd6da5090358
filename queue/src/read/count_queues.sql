-- For each of the queues $1: jobs by state, activity of the last whole minute, and since when the oldest
-- job that could start now has been due, reading $3 lanes of each queue at most; of tenant $2, or (null)
-- of all. Counters and the deltas that are not rolled up yet are read in one statement: see
-- queue.pending_deltas. Served by the primary keys of tallies and history, history_moments, and
-- queue.oldest_ready.
with asked as materialized (
    select
        -- A tenant that never had a job has no number: no tenant has number 0.
        case when $2::uuid is not null then coalesce(
            (select t.number from queue.tenants t where t.id = $2::uuid), 0
        ) end as tenant,
        date_trunc('minute', now()) - interval '1 minute' as minute
),
unfolded as materialized (
    select d.* from queue.pending_deltas((select tenant from asked)) d
),
counts as (
    select a.queue, a.scheduled, a.ready, a.running, a.dead, 0 as enqueued, 0 as succeeded, 0 as failed
    from queue.tallies a
    where $2::uuid is not null and a.tenant = (select tenant from asked)
    union all
    select a.queue, a.scheduled, a.ready, a.running, a.dead, 0, 0, 0
    from queue.tallies a
    where $2::uuid is null
    union all
    select h.queue, 0, 0, 0, 0, h.enqueued, h.succeeded, h.retried + h.died
    from queue.history h
    where $2::uuid is not null and h.tenant = (select tenant from asked)
      and h.span = 'm' and h.at = (select minute from asked)
    union all
    select h.queue, 0, 0, 0, 0, h.enqueued, h.succeeded, h.retried + h.died
    from queue.history h
    where $2::uuid is null and h.span = 'm' and h.at = (select minute from asked)
    union all
    select u.queue, u.scheduled, u.ready, u.running, u.dead, 0, 0, 0
    from unfolded u
    union all
    select u.queue, 0, 0, 0, 0, u.enqueued, u.succeeded, u.retried + u.died
    from unfolded u
    where u.minute = (select minute from asked)
),
counted as (
    select
        t.queue, sum(t.scheduled) as scheduled, sum(t.ready) as ready, sum(t.running) as running,
        sum(t.dead) as dead, sum(t.enqueued) as enqueued, sum(t.succeeded) as succeeded,
        sum(t.failed) as failed
    from counts t
    where t.queue = any ($1::int4[])
    group by t.queue
)
select
    q.queue, coalesce(c.scheduled, 0)::int8 as scheduled, coalesce(c.ready, 0)::int8 as ready,
    coalesce(c.running, 0)::int8 as running, coalesce(c.dead, 0)::int8 as dead,
    case when o.run_at is not null
        then extract(epoch from greatest(now() - o.run_at, '0'))::float8 end as oldest_ready_seconds,
    coalesce(c.enqueued, 0)::int8 as enqueued, coalesce(c.succeeded, 0)::int8 as succeeded,
    coalesce(c.failed, 0)::int8 as failed
from unnest($1::int4[]) as q(queue)
left join counted c on c.queue = q.queue
left join queue.oldest_ready($1::int4[], (select tenant from asked), $3::int4) o on o.queue = q.queue
