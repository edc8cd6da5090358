-- The endpoints $2 with what a request to them needs. Served by the primary key.
select
    e.id, e.url, e.headers, e.status, e.retry_delays, e.client_certificate, e.client_key, e.oauth2,
    e.oauth2_secret, e.updated_at
from app.webhook_endpoints e
where e.tenant_id = $1 and e.id = any ($2::uuid[])
