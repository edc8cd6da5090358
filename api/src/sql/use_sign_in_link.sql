-- Uses a link up, or answers nothing when it is used, too old or not there. Served by
-- sign_in_links_token_hash_key.
update app.sign_in_links set used_at = now()
where tenant_id = $1 and token_hash = $2::bytea and used_at is null and expires_at > now()
returning user_id
