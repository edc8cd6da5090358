-- Changes one of the tenant's keys, or revokes it. Served by the primary key.
update app.api_keys
set name = coalesce($2::text, name), addresses = coalesce($3::text[], addresses),
    expires_at = least(expires_at, $4::timestamptz),
    revoked_at = case when $5::boolean then coalesce(revoked_at, now()) else revoked_at end
where tenant_id = app.current_tenant() and id = $1::uuid
returning id, tenant_id, name, public_id, last4, tier, scopes, addresses, created_by, created_at, expires_at,
    revoked_at, last_used_at, rotated_from
