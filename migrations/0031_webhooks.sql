-- Webhooks as their receivers and senders want them: channels, order, schedules, keys of their own, health,
-- what was sent and answered, numbers by the hour.
-- Locks: ACCESS EXCLUSIVE on the webhook tables until the end; no table is rewritten, but the index of payloads
-- is built, which reads app.events once. Previous release: goes on; what it makes has the defaults, and it leaves
-- health and numbers alone.

alter table app.webhook_endpoints
    add column description text check (length(description) <= 500),
    -- An event is taken if it names one of these channels; an empty list takes all events.
    add column channels text[] not null default '{}',
    add column ordering text not null default 'none' check (ordering in ('none', 'fifo')),
    -- Seconds from each failed attempt to the next; one attempt more than there are entries.
    add column retry_delays int4[] not null
        default '{5,300,1800,7200,18000,36000,50400,72000,86400}',
    add column rate_per_second int4 check (rate_per_second > 0),
    add column max_in_flight int4 check (max_in_flight > 0),
    -- Mutual TLS: the chain as PEM, and its private key, sealed with 'app.webhook_endpoints/<id>/key'.
    add column client_certificate text,
    add column client_key bytea,
    -- OAuth 2 client credentials: all but the secret, which is sealed with
    -- 'app.webhook_endpoints/<id>/oauth2'.
    add column oauth2 jsonb,
    add column oauth2_secret bytea,
    add column disabled_reason text,
    add column disabled_at timestamptz,
    -- Health: since when there was no success, how many attempts failed since, and of how much of the way
    -- to being disabled (in percent) its people were told.
    add column failing_since timestamptz,
    add column failures int4 not null default 0,
    add column alerted int4 not null default 0,
    -- The receiver asked for less: so many a second for now, and since when.
    add column slowed_to int4,
    add column slowed_at timestamptz,
    add check ((client_certificate is null) = (client_key is null)),
    add check (oauth2 is not null or oauth2_secret is null);

alter table app.endpoint_secrets
    add column algorithm text not null default 'v1' check (algorithm in ('v1', 'v1a')),
    -- What receivers verify `v1a` with.
    add column public_key text;

alter table app.events
    add column channels text[] not null default '{}',
    add column ordering_key text,
    -- The version of its type that it was checked against, if it named one.
    add column version int4,
    -- Null when the payload was removed before the event.
    alter column data drop not null;

alter table app.deliveries
    -- What the receiver answered last.
    add column last_status int4,
    -- Found by tenant and id alone; one index less to write for each delivery.
    drop constraint deliveries_id_key;

alter table app.delivery_attempts
    -- Why the request was made: an event, a person (manual), a recovery, or to test the endpoint.
    add column cause text not null default 'event',
    add column url text,
    -- Names of the endpoint's own headers, which were sent along.
    add column header_names text[],
    add column address inet,
    add column response_headers jsonb,
    add column response_cut boolean not null default false,
    -- Those that are there have the default.
    add constraint delivery_attempts_cause
        check (cause in ('event', 'manual', 'recovery', 'test')) not valid;

-- How long an event's payload and the answers to it are kept, where that is less than the event itself.
create table app.webhook_settings (
    tenant_id uuid primary key references app.tenants,
    payload_seconds int4 not null check (payload_seconds >= 3600)
);

-- What became of an endpoint's attempts, by hour. `durations` counts the answered ones by how long they
-- took; the bounds stand in jobs/src/webhook/stats.rs.
create table app.endpoint_hours (
    tenant_id uuid not null,
    endpoint_id uuid not null,
    hour timestamptz not null,
    succeeded int8 not null default 0,
    failed int8 not null default 0,
    last_success_at timestamptz,
    last_failure_at timestamptz,
    durations int8[] not null,
    primary key (tenant_id, endpoint_id, hour)
) with (fillfactor = 50);

do $$
declare
    target text;
begin
    foreach target in array array['webhook_settings', 'endpoint_hours'] loop
        execute format('alter table app.%I enable row level security', target);
        execute format('alter table app.%I force row level security', target);
        execute format(
            'create policy tenant_rows on app.%I to harkara_app
             using (tenant_id = app.current_tenant()) with check (tenant_id = app.current_tenant())',
            target
        );
    end loop;
end
$$;
grant select, insert, update, delete on app.webhook_settings, app.endpoint_hours to harkara_app;

-- Events that still have their payload, by age.
create index events_payloads on app.events (tenant_id, created_at) where data is not null;
