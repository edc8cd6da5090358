-- What every installation has from the start: the platform's own tenant and its schedules.
-- Locks: none that matter. Previous release: none.

insert into app.tenants (id, slug, name, sla_tier)
values ('01900000-0000-7000-8000-000000000001', 'platform', 'Platform', 'ENTERPRISE');

insert into app.schedules (tenant_id, id, name, cron, timezone, kind)
values (
    '01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000002',
    'retention', '15 3 * * *', 'UTC', 'maintenance.retention'
);
