-- Seconds to the next slot of any schedule whose tenant permits jobs. Served by schedules_next, read from
-- its beginning, and the primary key of tenants.
select extract(epoch from s.next_slot - now())::float8
from app.schedules s join app.tenants t on t.id = s.tenant_id
where not s.paused and s.next_slot < 'infinity' and t.status in ('active', 'trialing', 'past_due')
order by s.next_slot
limit 1
