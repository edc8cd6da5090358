-- Uses up a code's time step, once; with $4, the authenticator is confirmed. Served by the primary key.
update app.users
set totp_last_step = $3::int8, totp_confirmed_at = coalesce(totp_confirmed_at, now())
where tenant_id = $1 and id = $2 and (totp_last_step is null or totp_last_step < $3::int8)
    and totp_sealed is not null and ($4::bool or totp_confirmed_at is not null)
returning id
