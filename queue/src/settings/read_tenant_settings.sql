-- The settings of a tenant as a whole. Served by the unique index on id and the primary key of limiters.
select
    t.weight, t.paused, t.max_waiting,
    case when t.max_waiting is null then 0 else queue.count_waiting(t.number) end as waiting, g.max_running, g.running, g.rate_count,
    (extract(epoch from g.rate_period) * 1000000)::int8 as rate_period, g.rate_burst
from queue.tenants t
left join queue.limiters g on g.id = t.limiter
where t.id = $1::uuid
