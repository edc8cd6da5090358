-- Found by primary key.
select id, url, event_types, headers, status, created_at, updated_at
from app.webhook_endpoints
where tenant_id = $1 and id = $2
