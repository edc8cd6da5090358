-- A delivery that is to be made again, locked, with its event and endpoint. Served by primary keys.
select
    d.id, d.endpoint_id, d.state, d.job_id, e.data is not null as has_payload, e.ordering_key,
    p.status, p.ordering, cardinality(p.retry_delays) + 1 as attempts
from app.deliveries d
join app.events e on e.tenant_id = d.tenant_id and e.id = d.event_id
left join app.webhook_endpoints p on p.tenant_id = d.tenant_id and p.id = d.endpoint_id
where d.tenant_id = $1 and d.id = $2
for update of d
