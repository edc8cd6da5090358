-- Reserves a key for a request, unless it has been used. Served by the primary key.
insert into app.idempotency (
    tenant_id, subject, method, route, key, token, fingerprint, state, locked_until, expires_at
)
values (
    $1::uuid, $2::text, $3::text, $4::text, $5::text, $6::uuid, $7::bytea, 'running',
    now() + make_interval(secs => $8::float8), now() + make_interval(secs => $9::float8)
)
on conflict do nothing
