-- Since when the oldest job that could start now has been due, for each of the queues that has one; of a tenant,
-- or (null) of all. Jobs of paused queues, tenants and lanes, and of parked lanes, could not start. In each lane
-- the first job of each priority is read, by parcels_ready; of a queue at most p_lanes lanes: the tenant's first
-- by key, or the first of all that have ready jobs. Of jobs that lost their worker, by parcels_lost, the hundred
-- that have been due for longest.
create or replace function queue.oldest_ready(p_queues int4[], p_tenant int4, p_lanes int4)
returns table (queue int4, run_at timestamptz)
language plpgsql stable rows 10
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    with recursive asked as materialized (
        select q.id as queue from queue.queues q where q.id = any (p_queues) and not q.paused
    ),
    own as materialized (
        select a.queue, l.id as lane
        from asked a cross join lateral (
            select l.id from queue.lanes l
            where l.queue = a.queue and l.tenant = p_tenant
            order by l.key
            limit p_lanes
        ) l
        where p_tenant is not null
    ),
    any_lane(queue, lane, nth) as (
        select a.queue, n.lane, 1
        from asked a cross join lateral (
            select p.lane from queue.parcels p
            where p.queue = a.queue and p.state = 'a' and not p.lost
            order by p.lane
            limit 1
        ) n
        where p_tenant is null
        union all
        select l.queue, n.lane, l.nth + 1
        from any_lane l cross join lateral (
            select p.lane from queue.parcels p
            where p.queue = l.queue and p.state = 'a' and not p.lost and p.lane > l.lane
            order by p.lane
            limit 1
        ) n
        where l.nth < p_lanes
    ),
    open_lane as materialized (
        select c.queue, c.lane
        from (select o.queue, o.lane from own o union all select y.queue, y.lane from any_lane y) c
        -- Limited, so that each is found by a probe, and lanes are not read from end to end.
        cross join lateral (
            select k.tenant, k.paused, k.parked_until from queue.lanes k where k.id = c.lane limit 1
        ) l
        cross join lateral (
            select o.paused from queue.tenants o where o.number = l.tenant limit 1
        ) t
        where not l.paused and not t.paused and (l.parked_until is null or l.parked_until <= now())
    ),
    level(queue, lane, priority, run_at) as (
        select o.queue, o.lane, n.priority, n.run_at
        from open_lane o cross join lateral (
            select p.priority, p.run_at from queue.parcels p
            where p.queue = o.queue and p.lane = o.lane and p.state = 'a' and not p.lost
            order by p.priority, p.run_at
            limit 1
        ) n
        union all
        select v.queue, v.lane, n.priority, n.run_at
        from level v cross join lateral (
            select p.priority, p.run_at from queue.parcels p
            where p.queue = v.queue and p.lane = v.lane and p.state = 'a' and not p.lost
              and p.priority > v.priority
            order by p.priority, p.run_at
            limit 1
        ) n
    ),
    lost as materialized (
        select a.queue, o.run_at
        from asked a
        cross join lateral (
            select p.lane, p.run_at from queue.parcels p
            where p.queue = a.queue and p.state = 'a' and p.lost
            order by p.run_at
            limit 100
        ) o
        cross join lateral (
            select k.tenant, k.paused, k.parked_until from queue.lanes k where k.id = o.lane limit 1
        ) l
        cross join lateral (
            select c.paused from queue.tenants c where c.number = l.tenant limit 1
        ) t
        where not l.paused and not t.paused and (l.parked_until is null or l.parked_until <= now())
          and (p_tenant is null or l.tenant = p_tenant)
    )
    select f.queue, min(f.run_at)
    from (select v.queue, v.run_at from level v union all select k.queue, k.run_at from lost k) f
    group by f.queue;
end
$$;

revoke execute on function queue.oldest_ready(int4[], int4, int4) from public;
grant execute on function queue.oldest_ready(int4[], int4, int4) to harkara_engine;
