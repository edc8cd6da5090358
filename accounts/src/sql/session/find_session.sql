-- The session of a token, if it is valid now, with its user, their tenant and their permissions at this
-- moment; records once a minute that it was seen. Served by sessions_token_hash_key, and the primary keys
-- of users and tenants.
with found as (
    select s.tenant_id, s.id, s.user_id, s.method, s.expires_at, s.last_seen_at, s.confirmed_at,
        u.email, u.name
    from app.sessions s
    join app.users u on u.tenant_id = s.tenant_id and u.id = s.user_id
    where s.token_hash = $1::bytea and s.ended_at is null and s.expires_at > now()
        and s.last_seen_at > now() - make_interval(secs => $2::float8) and u.disabled_at is null
),
seen as (
    update app.sessions s set last_seen_at = now()
    from found f
    where s.tenant_id = f.tenant_id and s.id = f.id and s.last_seen_at < now() - interval '1 minute'
)
select f.tenant_id, t.slug as tenant_slug, t.name as tenant_name, t.status as tenant_status,
    f.id, f.user_id, f.method, f.expires_at, f.email, f.name,
    case when f.confirmed_at > now() - make_interval(secs => $3::float8)
        then f.confirmed_at + make_interval(secs => $3::float8) end as confirmed_until,
    may.roles, may.permissions
from found f
join app.tenants t on t.id = f.tenant_id
cross join lateral app.effective_permissions(f.tenant_id, f.user_id) may
