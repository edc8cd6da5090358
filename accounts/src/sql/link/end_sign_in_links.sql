-- Ends the open links of a user that this creator did not make. Served by sign_in_links_user.
delete from app.sign_in_links
where tenant_id = $1 and user_id = $2 and used_at is null and ($3::text is null or created_by <> $3::text)
