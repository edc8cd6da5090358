-- Grants a role. Served by the primary keys of users and roles.
insert into app.role_grants
    (tenant_id, id, user_id, role, not_before, expires_at, granted_by, reason)
select u.tenant_id, $3::uuid, u.id, r.name, coalesce($5::timestamptz, now()), $6::timestamptz,
    $7::text, $8::text
from app.users u
join app.roles r on r.name = $4::text
where u.tenant_id = $1 and u.id = $2
returning id, role, not_before, expires_at, granted_by, reason, created_at, revoked_at
