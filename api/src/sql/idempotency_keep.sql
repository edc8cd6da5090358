-- Stores the response if the key still belongs to this request; with the flag, only if the request was
-- committed. Served by the primary key.
update app.idempotency
set state = 'done', status = $7::int2, headers = $8::jsonb, body = $9::bytea
where tenant_id = $1::uuid and subject = $2::text and method = $3::text and route = $4::text
    and key = $5::text and token = $6::uuid
    and state = any (case when $10::bool then array['committed'] else array['running', 'committed'] end)
