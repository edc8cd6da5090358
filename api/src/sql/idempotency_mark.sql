-- Marks the request as committed, in the transaction that does its work; no row when another request has
-- taken over the key. Served by the primary key.
update app.idempotency
set state = 'committed'
where tenant_id = $1::uuid and subject = $2::text and method = $3::text and route = $4::text
    and key = $5::text and token = $6::uuid and state in ('running', 'committed')
