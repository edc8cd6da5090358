-- Says, in the transaction that carries the request out, that it was, unless somebody else has taken the
-- key over. Served by the primary key.
update app.idempotency
set state = 'committed'
where tenant_id = $1::uuid and subject = $2::text and method = $3::text and route = $4::text
    and key = $5::text and token = $6::uuid and state in ('running', 'committed')
