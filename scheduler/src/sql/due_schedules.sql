-- Schedules that are due or have no slot yet, of tenants whose status permits jobs. Served by
-- schedules_next and the primary key of tenants.
select s.id
from app.schedules s join app.tenants t on t.id = s.tenant_id
where not s.paused and (s.next_slot is null or s.next_slot <= now())
  and t.status in ('active', 'trialing', 'past_due')
order by s.next_slot nulls first
limit 1000
