-- What a user can prove their identity with. Served by the primary key of users.
select u.tenant_id, t.slug as tenant_slug, u.id, u.email, u.password_hash, u.totp_sealed,
    u.totp_confirmed_at is not null as has_totp, u.disabled_at is not null as is_disabled
from app.users u
join app.tenants t on t.id = u.tenant_id
where u.tenant_id = $1 and u.id = $2
