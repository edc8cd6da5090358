-- Removes sign-in links that were used or expired more than a day ago, at most $1. Served by
-- sign_in_links_over, one probe a tenant.
delete from app.sign_in_links l
where l.ctid = any (array(
    select o.ctid
    from app.tenants t cross join lateral (
        select a.ctid from app.sign_in_links a
        where a.tenant_id = t.id and least(a.used_at, a.expires_at) < now() - interval '1 day'
        limit $1::int8
        for update skip locked
    ) o
    limit $1::int8
))
