-- A page of queues by number: all of them, or, for a tenant, those it has lanes in and those named in $2.
-- Served by the primary key of queues or the unique index on name, and by lanes' unique index.
select
    q.id, q.name, q.paused, g.max_running, g.running, g.rate_count,
    (extract(epoch from g.rate_period) * 1000000)::int8 as rate_period, g.rate_burst
from queue.queues q
left join queue.limiters g on g.id = q.limiter
where q.id > $4::int4
  and ($3::text is null or q.name = $3::text)
  and (
      $1::uuid is null
      or q.name = any ($2::text[])
      or exists (
          select from queue.lanes l
          where l.queue = q.id
            and l.tenant = (select number from queue.tenants where id = $1::uuid)
      )
  )
order by q.id
limit $5::int8
