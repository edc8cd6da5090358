-- Creates a tenant; no row when its slug is taken. Served by tenants_slug_key.
insert into app.tenants (id, slug, name, sla_tier)
values ($1::uuid, $2::text, $3::text, $4::text)
on conflict (slug) do nothing
returning id, slug, name, sla_tier, status, paused, contract_endpoint_id,
    erasure_asked_at is not null as erasing, created_at
