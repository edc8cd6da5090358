-- Reserves a key whose row has expired or whose request was abandoned, under a new token; no row while a
-- transaction that marks the row is open. Served by the primary key.
with free as (
    select tenant_id, subject, method, route, key
    from app.idempotency
    where tenant_id = $1::uuid and subject = $2::text and method = $3::text and route = $4::text
        and key = $5::text and token = $11::uuid
        and (expires_at <= now() or state = 'running' and locked_until <= now())
    for update skip locked
)
update app.idempotency i
set token = $6::uuid, fingerprint = $7::bytea, state = 'running', status = null, headers = null,
    body = null, locked_until = now() + make_interval(secs => $8::float8),
    expires_at = now() + make_interval(secs => $9::float8), created_at = now(), rights = $10::text[]
from free
where i.tenant_id = free.tenant_id and i.subject = free.subject and i.method = free.method
    and i.route = free.route and i.key = free.key
