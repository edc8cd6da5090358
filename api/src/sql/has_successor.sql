-- Whether a key that was not revoked has taken this one's place. Served by the primary key.
select exists (
    select from app.api_keys
    where tenant_id = app.current_tenant() and rotated_from = $1::uuid and revoked_at is null
)
