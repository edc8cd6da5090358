-- Users with this email, in one tenant or in all, oldest first. Served by users_email.
select u.tenant_id, t.slug as tenant_slug, u.id, u.email, u.password_hash, u.totp_sealed,
    u.totp_confirmed_at is not null as has_totp, u.disabled_at is not null as is_disabled
from app.users u
join app.tenants t on t.id = u.tenant_id
where u.email = $1::text and ($2::text is null or t.slug = $2::text)
order by u.created_at, u.id
limit $3::int8
