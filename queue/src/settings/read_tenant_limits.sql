-- The limits that a tenant has set for its keys. Served by limiters_set.
select
    g.key, g.max_running, g.running, g.rate_count,
    (extract(epoch from g.rate_period) * 1000000)::int8 as rate_period, g.rate_burst
from queue.limiters g
where g.tenant = (select number from queue.tenants where id = $1::uuid)
  and g.key is not null
  and (g.max_running is not null or g.rate_count is not null)
order by g.key
limit $2::int8
