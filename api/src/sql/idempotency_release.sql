-- Releases the key of a request that changed nothing. Served by the primary key.
delete from app.idempotency
where tenant_id = $1::uuid and subject = $2::text and method = $3::text and route = $4::text
    and key = $5::text and token = $6::uuid and state = 'running'
