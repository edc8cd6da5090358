-- All permissions that a user was allowed or denied, newest first (ids are UUIDv7). Served by
-- user_permissions_user.
select id, permission, effect, not_before, expires_at, granted_by, reason, created_at, revoked_at
from app.user_permissions
where tenant_id = $1 and user_id = $2
order by id desc
limit 1000
