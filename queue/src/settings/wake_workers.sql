-- Makes the workers of a queue, or of all queues in which a tenant has lanes, read again at once and
-- forget which lanes were closed. Served by the primary key of queues and lanes' unique index.
select pg_notify('harkara', 'o:' || left(string_agg(q.id::text, ','), 4000))::text
from queue.queues q
where ($1::int4 is null or q.id = $1::int4)
  and (
      $2::int4 is null
      or exists (select from queue.lanes l where l.queue = q.id and l.tenant = $2::int4)
  )
having count(*) > 0
