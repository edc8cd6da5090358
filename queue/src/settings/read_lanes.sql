-- A page of a tenant's lanes in a queue, by id, or those of one key. Served by lanes' unique index; the
-- names of limits by the primary key of limiters.
select
    l.id, l.key, l.strict, l.weight, l.paused,
    case when l.parked_until > now() then l.parked_until end as parked_until,
    l.breaker::text as breaker, l.breaker_after,
    l.breaker_share, (extract(epoch from l.breaker_window) * 1000000)::int8 as breaker_window,
    (extract(epoch from l.breaker_rest) * 1000000)::int8 as breaker_rest,
    case when l.breaker = 'c' and l.window_from + l.breaker_window <= now() then 0 else l.failures end
        as failures,
    g.max_running, g.running, g.rate_count,
    (extract(epoch from g.rate_period) * 1000000)::int8 as rate_period, g.rate_burst,
    array(
        select n.key from unnest(l.named) with ordinality as u(limiter, nth)
        join queue.limiters n on n.id = u.limiter
        order by u.nth
    ) as named,
    l.costs
from queue.lanes l
left join queue.limiters g on g.id = l.limiter
where l.queue = (select id from queue.queues where name = $2::text)
  and l.tenant = (select number from queue.tenants where id = $1::uuid)
  and ($3::text is null or l.key = $3::text)
  and ($4::bool is null or l.strict = $4::bool)
  and l.id > $5::bigint
order by l.id
limit $6::int8
