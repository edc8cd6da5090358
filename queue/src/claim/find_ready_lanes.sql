-- Lanes that have ready jobs. $1 are queues; $2 and $3 bound the lane ids to read in each, exclusively; $4 is
-- the maximum number of lanes for each entry. A queue can occur several times. Uses the indexes parcels_ready
-- and parcels_lost: one probe a lane, however many jobs wait in it. Paused and parked lanes are
-- included. `is_keyed` is true for a lane whose jobs name a key and run concurrently. `nth` is null for a lane
-- found by its lost jobs.
with recursive want as (
    select w.queue, w.after, w.before
    from unnest($1::int4[], $2::bigint[], $3::bigint[]) as w(queue, after, before)
    join queue.queues q on q.id = w.queue and not q.paused
),
next_lane(queue, before, lane, nth) as (
    select want.queue, want.before, n.lane, 1
    from want cross join lateral (
        select p.lane
        from queue.parcels p
        where p.queue = want.queue and p.state = 'a' and not p.lost and p.lane > want.after
            and p.lane < want.before
        order by p.lane
        limit 1
    ) n
    union all
    select l.queue, l.before, n.lane, l.nth + 1
    from next_lane l cross join lateral (
        select p.lane
        from queue.parcels p
        where p.queue = l.queue and p.state = 'a' and not p.lost and p.lane > l.lane
            and p.lane < l.before
        order by p.lane
        limit 1
    ) n
    where l.nth < $4::int4
),
next_lost(queue, before, lane, nth) as (
    select want.queue, want.before, n.lane, 1
    from want cross join lateral (
        select p.lane
        from queue.parcels p
        where p.queue = want.queue and p.state = 'a' and p.lost and p.lane > want.after
            and p.lane < want.before
        order by p.lane
        limit 1
    ) n
    union all
    select l.queue, l.before, n.lane, l.nth + 1
    from next_lost l cross join lateral (
        select p.lane
        from queue.parcels p
        where p.queue = l.queue and p.state = 'a' and p.lost and p.lane > l.lane
            and p.lane < l.before
        order by p.lane
        limit 1
    ) n
    where l.nth < $4::int4
)
select
    f.queue, f.lane, f.nth, l.tenant, l.weight as lane_weight, t.weight as tenant_weight,
    l.paused or t.paused as is_paused, l.key <> '' and not l.strict as is_keyed,
    case when l.parked_until > now()
        then ceil(extract(epoch from l.parked_until - now()) * 1000)::int8 end as wait_ms
from (
    select queue, lane, nth from next_lane
    union all
    select queue, lane, null from next_lost
) f
join queue.lanes l on l.id = f.lane
join queue.tenants t on t.number = l.tenant
