-- Deliveries of endpoint $2 after $3 whose event was posted from $4 to $5, oldest first, locked, with what
-- it takes to make them again. Served by deliveries_endpoint; ids are UUIDv7, so that the first may be told by
-- their time alone.
select
    d.id, d.endpoint_id, d.state, d.job_id, e.data is not null as has_payload, e.ordering_key,
    p.status, p.ordering, cardinality(p.retry_delays) + 1 as attempts
from app.deliveries d
join app.events e on e.tenant_id = d.tenant_id and e.id = d.event_id
left join app.webhook_endpoints p on p.tenant_id = d.tenant_id and p.id = d.endpoint_id
where d.tenant_id = $1 and d.endpoint_id = $2 and d.id > $3::uuid
  and d.created_at >= $4 and d.created_at <= $5
order by d.id
limit $6::int8
for update of d
