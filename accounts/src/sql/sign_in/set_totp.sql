-- Stores a user's new authenticator, not confirmed yet; no row when they have a confirmed one. Served by
-- the primary key.
update app.users set totp_sealed = $3::bytea, totp_last_step = null, updated_at = now()
where tenant_id = $1 and id = $2 and totp_confirmed_at is null
returning id
