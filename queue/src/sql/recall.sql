-- What runs under lease $1 by none of the tokens $2. Served by parcels_running.
select
    p.id, p.queue, k.name as kind, t.id as tenant_id, p.attempt, p.max_attempts, p.deferrals,
    p.run_at, p.started_at, p.lo, p.token, p.body[1] as body
from queue.parcels p
left join queue.kinds k on k.id = p.kind
left join queue.tenants t on t.number = p.tenant
where p.state = 'r' and p.lease = $1::bigint and p.token <> all ($2::bigint[])
