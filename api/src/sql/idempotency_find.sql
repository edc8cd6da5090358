-- The outcome of the request with a key. Served by the primary key.
select token, fingerprint, state, status, headers, body, rights, expires_at <= now() as expired,
    locked_until <= now() as abandoned
from app.idempotency
where tenant_id = $1::uuid and subject = $2::text and method = $3::text and route = $4::text
    and key = $5::text
