-- Removes a user's authenticator. Served by the primary key.
update app.users
set totp_sealed = null, totp_confirmed_at = null, totp_last_step = null, updated_at = now()
where tenant_id = $1 and id = $2 and totp_sealed is not null
returning id
