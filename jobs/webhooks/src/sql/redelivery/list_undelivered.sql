-- Deliveries of endpoint $2 after $3 up to $4 whose event was posted from $5 to $6 and that are in one of
-- the states $7, oldest first, locked, with the data for making them again. Served by deliveries_endpoint.
select
    d.id, d.endpoint_id, d.state, d.job_id, e.data is not null as has_payload, e.ordering_key,
    p.status, p.ordering, cardinality(p.retry_delays) + 1 as attempts
from app.deliveries d
join app.events e on e.tenant_id = d.tenant_id and e.id = d.event_id
left join app.webhook_endpoints p on p.tenant_id = d.tenant_id and p.id = d.endpoint_id
where d.tenant_id = $1 and d.endpoint_id = $2 and d.id > $3::uuid and d.id <= $4::uuid
  and d.created_at >= $5 and d.created_at <= $6 and d.state = any ($7::text[])
order by d.id
for update of d
