-- One due schedule, locked. Found by its unique id.
select tenant_id, name, cron, timezone, kind, payload, next_slot, now() as now
from app.schedules
where id = $1::uuid and not paused and (next_slot is null or next_slot <= now())
for update skip locked
