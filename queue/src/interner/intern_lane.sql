-- A lane of a tenant in a queue, created if it is new, and how many of its jobs can share a parcel. $1
-- queue, $2 tenant, $3 key, $4 whether it is strict, $5 the limits that distinguish it from other lanes
-- with its key; $6 and $7 the limiters and costs of the limits that its jobs name: in a strict lane the
-- last named ones apply. Served by the unique index of lanes and the primary key of limiters.
with guard as materialized (
    -- A long transaction can be inserting the same row.
    select set_config('lock_timeout', '1s', true)
),
named as materialized (
    select $6::bigint[] as ids, $7::int4[] as costs
),
known as materialized (
    select l.id, l.limiter,
        l.used_at < now() - interval '1 hour'
            or cardinality(n.ids) > 0 and (l.named, l.costs) is distinct from (n.ids, n.costs)
            as stale
    from queue.lanes l cross join named n
    where l.queue = $1::int4 and l.tenant = $2::int4 and l.key = $3::text and l.strict = $4::bool
        and l.limits = $5::text
),
-- The settings of a lane apply to all its rows, later ones included.
sibling as materialized (
    select l.weight, l.paused, l.paused_at, l.limiter, l.breaker_after, l.breaker_share, l.breaker_window,
        l.breaker_rest
    from queue.lanes l
    where l.queue = $1::int4 and l.tenant = $2::int4 and l.key = $3::text and l.strict = $4::bool
    order by l.id
    limit 1
),
made as (
    insert into queue.lanes (
        queue, tenant, key, strict, limits, named, costs, weight, paused, paused_at, limiter,
        breaker_after, breaker_share, breaker_window, breaker_rest
    )
    select
        $1::int4, $2::int4, $3::text, $4::bool, $5::text, n.ids, n.costs, coalesce(s.weight, 1),
        coalesce(s.paused, false), s.paused_at, s.limiter, s.breaker_after,
        coalesce(s.breaker_share, 100), coalesce(s.breaker_window, '5 minutes'), s.breaker_rest
    from named n left join sibling s on true
    where not exists (select from known) and (select count(*) from guard) = 1
    on conflict (queue, tenant, key, strict, limits) do update set used_at = now()
    returning id, limiter
),
-- A lane that has not been used for a day is removed, so its use is recorded in time. One that is being removed
-- at this moment is not returned, and the next call creates it again.
used as (
    update queue.lanes l
    set used_at = now(),
        named = case when cardinality(n.ids) > 0 then n.ids else l.named end,
        costs = case when cardinality(n.ids) > 0 then n.costs else l.costs end
    from known k cross join named n
    where l.id = k.id and k.stale
    returning l.id, l.limiter
)
select
    f.id,
    case when $4::bool then 1 else (
        select least(500, min(least(g.max_running, g.rate_burst / greatest(c.cost, 1))))
        from (
            select q.limiter, 1 as cost from queue.queues q where q.id = $1::int4
            union all
            select t.limiter, 1 from queue.tenants t where t.number = $2::int4
            union all
            select f.limiter, 1
            union all
            select u.id, u.cost from named n cross join unnest(n.ids, n.costs) as u(id, cost)
        ) c
        join queue.limiters g on g.id = c.limiter
    ) end as pack
from (
    select id, limiter from known where not stale
    union all
    select id, limiter from used
    union all
    select id, limiter from made
) f
