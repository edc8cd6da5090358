-- Gives the tenant test.tenant something in every table of the schema app. Run by the superuser, whom no
-- policy holds back. What is secret says so: `secret` stands in every column that no export may show.
do $$
declare
    own uuid := current_setting('test.tenant')::uuid;
    endpoint uuid := gen_random_uuid();
    delivery uuid := gen_random_uuid();
    key uuid := gen_random_uuid();
    secret bytea := convert_to('secret-secret-secret-secret-secr', 'UTF8');
begin
    insert into app.api_keys (tenant_id, id, public_id, hash, last4, name, tier, scopes)
    values (own, key, key::text, secret, 'last', 'furnished', 'free', '{jobs:read}');
    insert into app.webhook_endpoints (tenant_id, id, url) values (own, endpoint, 'https://example.com/');
    insert into app.endpoint_secrets (tenant_id, endpoint_id, id, sealed)
    values (own, endpoint, gen_random_uuid(), secret);
    insert into app.events (tenant_id, id, type, data)
    select own, 'e' || g, 'invoice.paid', '{"n": ' || g || '}' from generate_series(1, 1500) g;
    insert into app.deliveries (tenant_id, id, event_id, endpoint_id) values (own, delivery, 'e1', endpoint);
    insert into app.delivery_attempts (tenant_id, delivery_id, number, started_at, duration_ms)
    values (own, delivery, 1, '2026-01-01 00:00+00', 5);
    insert into app.schedules (tenant_id, id, name, cron, kind)
    values (own, gen_random_uuid(), 'furnished', '0 0 1 1 *', 'http.request');
    insert into app.audit_anchors (tenant_id, seq, hash, anchored_at)
    values (own, 1, secret, '2026-01-01 00:00+00');
    perform app.audit(
        own, 'system', 'test', null, 'thing.do', 'thing', null, null, null, null, null, null
    ) from generate_series(1, 3);
end
$$
