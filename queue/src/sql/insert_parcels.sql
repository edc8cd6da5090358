-- Enqueues single-member parcels and wakes the workers of their queues once each.
-- Ids are taken here, or were taken by the caller where a unique key needed them first.
with j as materialized (
    select
        coalesce(u.id, nextval('queue.parcel_id')) as id,
        u.lane, coalesce(u.run_at, now()) as run_at, u.queue, u.kind, u.priority,
        u.max_attempts, u.keyed, u.body, u.place
    from unnest(
        $2::bigint[], $3::bigint[], $4::timestamptz[], $5::int4[], $6::int4[], $7::int2[],
        $8::int2[], $9::bool[], $10::bytea[]
    ) with ordinality as u(id, lane, run_at, queue, kind, priority, max_attempts, keyed, body, place)
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
-- A job due within two seconds would miss its moment if a poll had to find it.
woken as (
    select string_agg(distinct queue::text, ',') as queues
    from inserted
    where $11::bool and run_at < now() + interval '2 seconds'
)
select j.id, (select pg_notify('harkara', 'q:' || queues)::text from woken where queues is not null)
from j
order by j.place
