-- Enqueues single-member parcels and wakes the workers of their queues once each.
-- Ids are taken here, or were taken by the caller where a unique key needed them first.
with j as materialized (
    select
        coalesce(u.id, nextval('queue.parcel_id')) as id,
        u.lane, greatest(u.run_at, case when u.delay_ms > 0 or u.run_at is null
            then now() + u.delay_ms * interval '1 millisecond' end) as run_at,
        u.queue, u.kind, u.priority,
        u.max_attempts, u.keyed, u.body, u.place
    from unnest(
        $2::bigint[], $3::bigint[], $4::timestamptz[], $5::bigint[], $6::int4[], $7::int4[],
        $8::int2[], $9::int2[], $10::bool[], $11::bytea[]
    ) with ordinality as u(
        id, lane, run_at, delay_ms, queue, kind, priority, max_attempts, keyed, body, place
    )
),
inserted as (
    insert into queue.parcels
        (id, lane, run_at, queue, tenant, kind, priority, max_attempts, state, keyed, body)
    select
        id, lane, run_at, queue, $1::int4, kind, priority, max_attempts,
        case when run_at > now() then 's' else 'a' end::"char", keyed, array[body]
    from j
    returning queue, run_at
),
-- A job that is due soon would miss its moment if a poll had to find it: `s` has workers ask when the
-- next one is. A notification holds less than 8000 bytes.
woken as (
    select case when run_at > now() then 's:' else 'q:' end
        || left(string_agg(distinct queue::text, ','), 4000) as said
    from inserted
    where $12::bool and run_at < now() + interval '2 seconds'
    group by run_at > now()
)
select j.id, (select string_agg(pg_notify('harkara', said)::text, '') from woken)
from j
order by j.place
