-- A delivery's latest hundred requests, latest first, each with the event that was sent. Served by the
-- primary keys.
select
    a.number, a.cause, a.started_at, a.duration_ms, a.url, a.header_names, host(a.address) as address,
    a.status_code, a.response_headers, a.response_body, a.response_cut, a.error_code, a.error_message,
    e.id as event_id, e.type as event_type, e.created_at as event_at, left(e.data, 16384) as data
from app.delivery_attempts a
join app.deliveries d on d.tenant_id = a.tenant_id and d.id = a.delivery_id
join app.events e on e.tenant_id = d.tenant_id and e.id = d.event_id
where a.tenant_id = $1 and a.delivery_id = $2
order by a.number desc
limit 100
