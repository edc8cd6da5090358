-- Enqueues parcels of few members and wakes the workers of their queues once each. Ids are assigned here,
-- or were assigned by the caller where a unique key needed them first. $12 is how many of the bodies $13
-- each parcel has, one parcel's after the other's; $15 the time by which a job must have started, $16 the
-- size of a parcel's bodies (null up to 1024 bytes).
with j as materialized (
    select
        coalesce(u.id, nextval('queue.parcel_id')) as id, u.tenant,
        u.lane, greatest(u.run_at, case when u.delay_ms > 0 or u.run_at is null
            then now() + u.delay_ms * interval '1 millisecond' end) as run_at,
        u.queue, u.kind, u.priority, u.max_attempts, u.keyed, u.strict, u.n,
        u.expires_at, u.bytes,
        sum(u.n) over (order by u.place) as upto, u.place
    from unnest(
        $1::int4[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::bigint[], $6::int4[],
        $7::int4[], $8::int2[], $9::int2[], $10::bool[], $11::bool[], $12::int2[],
        $15::timestamptz[], $16::int4[]
    ) with ordinality as u(
        tenant, id, lane, run_at, delay_ms, queue, kind, priority, max_attempts, keyed, strict, n,
        expires_at, bytes, place
    )
),
inserted as (
    insert into queue.parcels
        (id, tenant, lane, run_at, queue, kind, priority, max_attempts, n, state, keyed, strict,
         expires_at, bytes, body)
    select
        id, tenant, lane, run_at, queue, kind, priority, max_attempts, n,
        case when run_at > now() then 's' else 'a' end::"char", keyed, strict,
        expires_at, bytes, ($13::bytea[])[upto - n + 1:upto]
    from j
    order by place
    returning tenant, queue, kind, run_at, state, n
),
counted as (
    insert into queue.deltas (tenant, queue, kind, scheduled, ready, enqueued)
    select
        tenant, queue, kind, coalesce(sum(n) filter (where state = 's'), 0),
        coalesce(sum(n) filter (where state = 'a'), 0), sum(n)
    from inserted
    group by tenant, queue, kind
),
-- A job that is due soon would start late if a poll had to find it: `s` makes workers ask for the next due
-- time. A notification holds less than 8000 bytes.
woken as (
    select case when run_at > now() then 's:' else 'q:' end
        || left(string_agg(distinct queue::text, ','), 4000) as said
    from inserted
    where $14::bool and run_at < now() + interval '2 seconds'
    group by run_at > now()
)
select
    id, now() as created_at, run_at, case when run_at > now() then 's' else 'a' end as state,
    (select string_agg(pg_notify('harkara', said)::text, '') from woken)
from j
order by place
