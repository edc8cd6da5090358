-- All permissions that a user has or can come to have without another grant: denials and start times are
-- ignored. Served by role_grants_user and user_permissions_user.
with recursive held (role) as (
    select g.role from app.role_grants g
    where g.tenant_id = $1 and g.user_id = $2 and g.revoked_at is null
        and (g.expires_at is null or g.expires_at > now())
    union
    select p.parent from held h join app.role_parents p on p.role = h.role
)
select p.permission from held h join app.role_permissions p on p.role = h.role
union
select o.permission from app.user_permissions o
where o.tenant_id = $1 and o.user_id = $2 and o.effect = 'allow' and o.revoked_at is null
    and (o.expires_at is null or o.expires_at > now())
