-- Gives the tenant test.tenant a row in every table of the schema app. Run by a superuser, who bypasses
-- row-level security. Every column that no export may show contains `secret`.
do $$
declare
    own uuid := current_setting('test.tenant')::uuid;
    endpoint uuid := gen_random_uuid();
    delivery uuid := gen_random_uuid();
    key uuid := gen_random_uuid();
    person uuid := gen_random_uuid();
    secret bytea := convert_to('secret-secret-secret-secret-secr', 'UTF8');
begin
    insert into app.api_keys (tenant_id, id, public_id, hash, last4, name, tier, scopes)
    values (own, key, key::text, secret, 'last', 'seeded', 'free', '{jobs:read}');
    insert into app.webhook_endpoints (tenant_id, id, url) values (own, endpoint, 'https://example.com/');
    insert into app.endpoint_secrets (tenant_id, endpoint_id, id, sealed)
    values (own, endpoint, gen_random_uuid(), secret);
    insert into app.events (tenant_id, id, type, data)
    select own, 'e' || g, 'invoice.paid', '{"n": ' || g || '}' from generate_series(1, 1500) g;
    insert into app.event_types (tenant_id, name, version, description, schema, example)
    values (own, 'invoice.paid', 1, 'seeded', '{"type": "object"}', '{"n": 1}');
    insert into app.deliveries (tenant_id, id, event_id, endpoint_id) values (own, delivery, 'e1', endpoint);
    insert into app.delivery_attempts (tenant_id, delivery_id, number, started_at, duration_ms)
    values (own, delivery, 1, '2026-01-01 00:00+00', 5);
    insert into app.endpoint_hours (tenant_id, endpoint_id, hour, succeeded, durations)
    values (own, endpoint, '2026-01-01 00:00+00', 1, '{1}');
    insert into app.webhook_settings (tenant_id, payload_seconds) values (own, 86400);
    insert into app.schedules (tenant_id, id, name, cron, kind)
    values (own, gen_random_uuid(), 'seeded', '0 0 1 1 *', 'http.request');
    insert into app.audit_anchors (tenant_id, seq, hash, anchored_at)
    values (own, 1, secret, '2026-01-01 00:00+00');
    insert into app.idempotency (
        tenant_id, subject, method, route, key, token, fingerprint, state, status, headers, body,
        locked_until, expires_at
    ) values (
        own, 'test', 'POST', '/v1/jobs', 'seeded', gen_random_uuid(), secret, 'done', 201, '{}', secret,
        '2026-01-01 00:00+00', '2027-01-01 00:00+00'
    );
    insert into app.usage (tenant_id, key_id, month, requests) values (own, key, '2026-01-01', 5);
    insert into app.users (tenant_id, id, email, name, password_hash, totp_sealed)
    values (own, person, 'seeded@example.com', 'Seeded', 'secret', secret);
    insert into app.role_grants (tenant_id, id, user_id, role, granted_by)
    values (own, gen_random_uuid(), person, 'viewer', 'test');
    insert into app.user_permissions (tenant_id, id, user_id, permission, effect, granted_by)
    values (own, gen_random_uuid(), person, 'jobs:read', 'deny', 'test');
    insert into app.sessions (tenant_id, id, user_id, token_hash, method, expires_at)
    values (own, gen_random_uuid(), person, sha256(own::text::bytea), 'link', '2027-01-01 00:00+00');
    insert into app.sign_in_links (tenant_id, id, user_id, token_hash, created_by, expires_at)
    values (own, gen_random_uuid(), person, sha256(own::text::bytea), 'test', '2027-01-01 00:00+00');
    perform app.append_audit_entry(
        own, 'system', 'test', null, 'thing.do', 'thing', null, null, null, null, null, null
    ) from generate_series(1, 3);
end
$$
