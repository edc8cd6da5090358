-- What a run needs to deliver. Found by primary keys.
select
    e.id as event_id, e.type as event_type, e.created_at as event_at, e.data,
    d.endpoint_id, d.state, p.url, p.headers, p.status
from app.deliveries d
join app.events e on e.tenant_id = d.tenant_id and e.id = d.event_id
left join app.webhook_endpoints p on p.tenant_id = d.tenant_id and p.id = d.endpoint_id
where d.tenant_id = $1 and d.id = $2
