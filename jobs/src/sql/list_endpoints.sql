-- A page, newest first (ids are UUIDv7). Served by the primary key.
select id, url, event_types, headers, status, created_at, updated_at
from app.webhook_endpoints
where tenant_id = $1 and ($2::uuid is null or id < $2::uuid)
order by id desc
limit $3::int8
