-- Removes sessions that ended more than a day ago, at most $1. Served by sessions_over, one probe a
-- tenant.
delete from app.sessions s
where s.ctid = any (array(
    select o.ctid
    from app.tenants t cross join lateral (
        select a.ctid from app.sessions a
        where a.tenant_id = t.id and least(a.ended_at, a.expires_at) < now() - interval '1 day'
        limit $1::int8
        for update skip locked
    ) o
    limit $1::int8
))
