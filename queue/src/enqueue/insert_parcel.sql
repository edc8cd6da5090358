-- Enqueues one parcel of many members, whose bodies take $11 bytes (null up to 1024), counts them and
-- wakes the workers of its queue. A job that is due soon would start late if a poll had to find it: an `s`
-- notification makes workers ask for the next due time.
with inserted as (
    insert into queue.parcels
        (id, tenant, lane, run_at, queue, kind, priority, max_attempts, n, state, bytes, body)
    select
        nextval('queue.parcel_id'), $1::int4, $2::bigint, due.at, $5::int4, $6::int4, $7::int2,
        $8::int2, cardinality($9::bytea[]),
        case when due.at > now() then 's' else 'a' end::"char", $11::int4, $9::bytea[]
    from (
        select greatest($3::timestamptz, case when $4::bigint > 0 or $3::timestamptz is null
            then now() + $4::bigint * interval '1 millisecond' end) as at
    ) due
    returning id, created_at, run_at, tenant, queue, kind, state, n
),
counted as (
    insert into queue.deltas (tenant, queue, kind, scheduled, ready, enqueued)
    select
        tenant, queue, kind, case when state = 's' then n else 0 end,
        case when state = 'a' then n else 0 end, n
    from inserted
)
select
    id, created_at, run_at, state::text,
    case when $10::bool and run_at < now() + interval '2 seconds' then
        pg_notify('harkara', case when state = 's' then 's:' else 'q:' end || queue)::text
    end
from inserted
