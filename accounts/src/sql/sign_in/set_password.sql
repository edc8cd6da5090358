-- Stores the hash of a user's new password, or a stronger hash of the same one. Served by the primary key.
update app.users set password_hash = $3::text, updated_at = now()
where tenant_id = $1 and id = $2 and ($4::text is null or password_hash = $4::text)
returning id
