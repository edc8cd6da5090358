-- Lowers the keys of a tenant whose tier is above what its contract grants now. Served by the primary key.
update app.api_keys
set tier = $2::text
where tenant_id = $1::uuid and revoked_at is null
    and array_position(array['free', 'developer', 'business', 'enterprise'], tier)
        > array_position(array['free', 'developer', 'business', 'enterprise'], $2::text)
