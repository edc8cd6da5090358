-- A page of users, newest first (ids are UUIDv7), or one by id or email, with their permissions now.
-- Served by the primary key or users_tenant_id_email_key.
select u.id, u.email, u.name, u.password_hash is not null as has_password,
    u.totp_confirmed_at is not null as has_totp, u.oidc_subject is not null as has_oidc,
    u.created_at, u.updated_at, u.last_sign_in_at, u.disabled_at, may.roles, may.permissions
from (
    select * from app.users
    where tenant_id = $1 and ($2::uuid is null or id < $2::uuid)
        and ($3::uuid is null or id = $3::uuid) and ($4::text is null or email = $4::text)
    order by id desc
    limit $5::int8
) u
cross join lateral app.effective_permissions(u.tenant_id, u.id) may
order by u.id desc
