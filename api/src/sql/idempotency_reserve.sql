-- Reserves an idempotency key for a request, unless it has been used. Reads first: an insert would wait
-- for a transaction that marks the row. Served by the primary key.
insert into app.idempotency (
    tenant_id, subject, method, route, key, token, fingerprint, state, locked_until, expires_at, rights
)
select $1::uuid, $2::text, $3::text, $4::text, $5::text, $6::uuid, $7::bytea, 'running',
    now() + make_interval(secs => $8::float8), now() + make_interval(secs => $9::float8), $10::text[]
where not exists (
    select from app.idempotency
    where tenant_id = $1::uuid and subject = $2::text and method = $3::text and route = $4::text
        and key = $5::text
)
on conflict do nothing
