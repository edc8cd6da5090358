-- Creates a link for a user in place of the unused ones. Served by the primary key of users and
-- sign_in_links_user.
with others as (
    delete from app.sign_in_links
    where tenant_id = $1 and user_id = $2
        and (used_at is null or expires_at < now() - interval '7 days')
)
insert into app.sign_in_links (tenant_id, id, user_id, token_hash, created_by, expires_at)
select tenant_id, $3::uuid, id, $4::bytea, $5::text, now() + make_interval(secs => $6::float8)
from app.users
where tenant_id = $1 and id = $2 and disabled_at is null
returning expires_at
