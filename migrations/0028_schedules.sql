-- The built-in schedules of the platform beside `retention`, and what their jobs look for.
-- Locks: SHARE on app.api_keys, app.sessions and app.sign_in_links while an index is built on each. Previous
-- release: emits no slot whose kind it does not know, and says so in its log.

insert into app.schedules (tenant_id, id, name, cron, timezone, kind) values
(
    '01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000003',
    'usage-reset', '0 0 1 * *', 'UTC', 'maintenance.usage_reset'
),
(
    '01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000004',
    'audit-anchor', '0 * * * *', 'UTC', 'audit.anchor'
),
(
    '01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000005',
    'access-expiry', '*/5 * * * *', 'UTC', 'maintenance.access_expiry'
);

-- Keys whose expiry does not stand in the audit log yet.
create index api_keys_expiry on app.api_keys (tenant_id, expires_at)
    where expires_at is not null and revoked_at is null and not expiry_told;

-- Sessions and links by when they were over, and who removes them.
create index sessions_over on app.sessions (tenant_id, least(ended_at, expires_at));
create index sign_in_links_over on app.sign_in_links (tenant_id, least(used_at, expires_at));
grant delete on app.sessions, app.sign_in_links to harkara_engine;
grant update on app.sign_in_links to harkara_engine;
