-- The deliveries $2, with their events. Served by primary keys.
select
    d.id, e.id as event_id, e.type as event_type, e.created_at as event_at, e.data,
    d.endpoint_id, d.state, d.job_id
from app.deliveries d
join app.events e on e.tenant_id = d.tenant_id and e.id = d.event_id
where d.tenant_id = $1 and d.id = any ($2::uuid[])
