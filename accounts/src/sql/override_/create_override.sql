-- Allows or denies a permission to one user. Served by the primary keys of users and permissions.
insert into app.user_permissions
    (tenant_id, id, user_id, permission, effect, not_before, expires_at, granted_by, reason)
select u.tenant_id, $3::uuid, u.id, p.name, $5::text, coalesce($6::timestamptz, now()),
    $7::timestamptz, $8::text, $9::text
from app.users u
join app.permissions p on p.name = $4::text
where u.tenant_id = $1 and u.id = $2
returning id, permission, effect, not_before, expires_at, granted_by, reason, created_at, revoked_at
