-- Revokes a granted role that has not been revoked. Served by the primary key.
update app.role_grants set revoked_at = now()
where tenant_id = $1 and user_id = $2 and id = $3 and revoked_at is null
returning id, role, not_before, expires_at, granted_by, reason, created_at, revoked_at
