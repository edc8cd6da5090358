-- Whether a user, or any user of the tenant, is an admin who can sign in and act as one now. Served by
-- role_grants_user and the primary key of users.
select exists (
    select from app.role_grants g
    join app.users u on u.tenant_id = g.tenant_id and u.id = g.user_id and u.disabled_at is null
    cross join lateral app.effective_permissions(u.tenant_id, u.id) may
    where g.tenant_id = $1 and ($2::uuid is null or g.user_id = $2::uuid) and g.role = 'admin'
        and g.revoked_at is null and g.not_before <= now()
        and (g.expires_at is null or g.expires_at > now())
        and may.permissions @> array['accounts:manage', 'admin:manage']
)
