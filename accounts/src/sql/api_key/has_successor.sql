-- Whether a key that is not revoked has replaced this one. Served by the primary key.
select exists (
    select from app.api_keys
    where tenant_id = app.current_tenant() and rotated_from = $1::uuid and revoked_at is null
)
