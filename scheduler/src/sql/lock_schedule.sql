-- One due schedule of a tenant whose status permits jobs, locked. Served by its unique id and the primary
-- key of tenants.
select s.tenant_id, s.name, s.cron, s.timezone, s.kind, s.payload, s.next_slot, now() as now
from app.schedules s join app.tenants t on t.id = s.tenant_id
where s.id = $1::uuid and not s.paused and (s.next_slot is null or s.next_slot <= now())
  and t.status in ('active', 'trialing', 'past_due')
for update of s skip locked
