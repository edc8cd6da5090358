-- Marks a link as used; no row when it is unknown, used or expired. Served by
-- sign_in_links_token_hash_key.
update app.sign_in_links set used_at = now()
where tenant_id = $1 and token_hash = $2::bytea and used_at is null and expires_at > now()
returning user_id
