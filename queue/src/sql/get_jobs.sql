-- Jobs by their parcels' ids. Found by primary key; row-level security keeps to the tenant.
select
    p.id, p.lo, t.id as tenant_id, k.name as kind, q.name as queue, p.state::text as state, p.priority,
    p.attempt, p.max_attempts, p.run_at, p.created_at, p.started_at, p.finished_at,
    p.error_code, p.error_message, p.results[1] as result, p.body[1] as body
from queue.parcels p
join queue.kinds k on k.id = p.kind
join queue.queues q on q.id = p.queue
join queue.tenants t on t.number = p.tenant
where p.id = any ($1::bigint[])
