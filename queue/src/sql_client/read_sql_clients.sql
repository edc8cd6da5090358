-- Login roles that can enqueue by SQL, and for which tenants. Few rows: read from end to end.
select c.role, c.tenant_id, t.slug, c.created_at
from queue.clients c
left join app.tenants t on t.id = c.tenant_id
order by c.role, t.slug nulls first
