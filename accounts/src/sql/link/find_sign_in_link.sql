-- The user of a link that can still be used. Served by sign_in_links_token_hash_key and the primary key of
-- users.
select l.tenant_id, u.email, u.name
from app.sign_in_links l
join app.users u on u.tenant_id = l.tenant_id and u.id = l.user_id
where l.token_hash = $1::bytea and l.used_at is null and l.expires_at > now()
    and u.disabled_at is null
