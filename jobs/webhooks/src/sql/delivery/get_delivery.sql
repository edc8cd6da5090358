-- One delivery. Served by the primary key.
select
    d.id, d.event_id, d.endpoint_id, d.job_id, d.state,
    d.attempts, d.last_status,
    d.created_at, d.finished_at
from app.deliveries d
where d.tenant_id = $1 and d.id = $2
