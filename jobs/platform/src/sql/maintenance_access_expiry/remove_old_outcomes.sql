-- Removes outcomes of requests whose idempotency keys have expired, at most $1. Served by
-- idempotency_expiry, one probe a tenant.
delete from app.idempotency i
where i.ctid = any (array(
    select o.ctid
    from app.tenants t cross join lateral (
        select a.ctid from app.idempotency a
        where a.tenant_id = t.id and a.expires_at <= now()
        limit $1::int8
        for update skip locked
    ) o
    limit $1::int8
))
