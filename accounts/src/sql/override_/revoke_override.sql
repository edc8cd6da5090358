-- Revokes an allowed or denied permission that has not been revoked. Served by the primary key.
update app.user_permissions set revoked_at = now()
where tenant_id = $1 and user_id = $2 and id = $3 and revoked_at is null
returning id, permission, effect, not_before, expires_at, granted_by, reason, created_at, revoked_at
