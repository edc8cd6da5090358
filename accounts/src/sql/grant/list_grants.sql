-- All roles that a user was granted, newest first (ids are UUIDv7). Served by role_grants_user.
select id, role, not_before, expires_at, granted_by, reason, created_at, revoked_at
from app.role_grants
where tenant_id = $1 and user_id = $2
order by id desc
limit 1000
