-- What holds for a tenant as a whole. Served by the unique index on id and the primary key of gates.
select
    t.weight, t.paused, g.max_running, g.running, g.rate_count,
    (extract(epoch from g.rate_period) * 1000000)::int8 as rate_period, g.rate_burst
from queue.tenants t
left join queue.gates g on g.id = t.gate
where t.id = $1::uuid
