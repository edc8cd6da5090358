-- What these tenants were served in their queues so far. Served by the primary key.
select s.queue, s.tenant, s.served
from unnest($1::int4[], $2::int4[]) as w(queue, tenant)
join queue.shares s on s.queue = w.queue and s.tenant = w.tenant
