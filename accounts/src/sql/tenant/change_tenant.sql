-- Changes a tenant. Served by the primary key.
update app.tenants
set name = coalesce($2::text, name), sla_tier = coalesce($3::text, sla_tier),
    status = coalesce($4::text, status), paused = coalesce($5::boolean, paused),
    updated_at = now()
where id = $1::uuid
returning id, slug, name, sla_tier, status, paused, contract_endpoint_id,
    erasure_asked_at is not null as erasing, created_at
