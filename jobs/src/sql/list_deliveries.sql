-- A page, newest first (ids are UUIDv7). Served by deliveries_endpoint, deliveries_event or the primary key.
select
    d.id, d.event_id, d.endpoint_id, d.job_id, d.state,
    d.attempts,
    d.created_at, d.finished_at
from app.deliveries d
where d.tenant_id = $1
  and ($2::uuid is null or d.id < $2::uuid)
  and ($4::uuid is null or d.endpoint_id = $4::uuid)
  and ($5::text is null or d.event_id = $5::text)
  and ($6::text[] is null or d.state = any ($6::text[]))
order by d.id desc
limit $3::int8
