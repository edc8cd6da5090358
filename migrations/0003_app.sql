-- Tenants, API keys, webhooks and schedules.
-- Locks: new objects only. Previous release: none.

create table app.tenants (
    id uuid primary key,
    slug text not null unique check (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    name text not null check (length(name) between 1 and 200),
    sla_tier text not null check (sla_tier in ('FREE', 'PRO', 'ENTERPRISE')),
    status text not null default 'active' check (
        status in ('active', 'trialing', 'past_due', 'suspended', 'pending_payment', 'canceled')
    ),
    created_at timestamptz not null default now()
);

create table app.api_keys (
    tenant_id uuid not null references app.tenants,
    id uuid not null unique,
    -- The part of the key that is not secret: found first, then the hash is compared.
    public_id text not null unique,
    hash bytea not null check (length(hash) = 32),
    last4 text not null,
    name text not null,
    tier text not null check (tier in ('free', 'developer', 'business', 'enterprise')),
    scopes text[] not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    primary key (tenant_id, id)
);

create table app.webhook_endpoints (
    tenant_id uuid not null references app.tenants,
    id uuid not null unique,
    url text not null check (length(url) <= 2048),
    -- Patterns such as `invoice.*`; an empty list takes every type.
    event_types text[] not null default '{}',
    headers jsonb not null default '{}',
    status text not null default 'active' check (status in ('active', 'paused', 'disabled')),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (tenant_id, id)
);

-- Sealed with the master key; associated data is 'app.endpoint_secrets/<endpoint id>'.
create table app.endpoint_secrets (
    tenant_id uuid not null,
    endpoint_id uuid not null,
    id uuid not null,
    sealed bytea not null,
    created_at timestamptz not null default now(),
    -- Null for the current secret; a rotated one signs along until then.
    expires_at timestamptz,
    primary key (tenant_id, endpoint_id, id),
    foreign key (tenant_id, endpoint_id)
        references app.webhook_endpoints (tenant_id, id) on delete cascade
);

create table app.events (
    tenant_id uuid not null references app.tenants,
    -- The application's own id of the event, or evt_… made here; sent as webhook-id.
    id text not null check (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    type text not null,
    -- As it was posted, to the byte: jsonb would reorder members and write numbers out.
    data text not null,
    created_at timestamptz not null default now(),
    primary key (tenant_id, id)
);

create index events_age on app.events (tenant_id, created_at);

create table app.deliveries (
    tenant_id uuid not null,
    id uuid not null unique,
    event_id text not null,
    endpoint_id uuid not null,
    job_id bigint,
    state text not null default 'pending' check (
        state in ('pending', 'succeeded', 'failed', 'skipped', 'cancelled')
    ),
    attempts int4 not null default 0,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    primary key (tenant_id, id),
    foreign key (tenant_id, event_id) references app.events (tenant_id, id) on delete cascade
);
create index deliveries_endpoint on app.deliveries (tenant_id, endpoint_id, id);
create index deliveries_event on app.deliveries (tenant_id, event_id, id);

create table app.delivery_attempts (
    tenant_id uuid not null,
    delivery_id uuid not null,
    number int4 not null,
    started_at timestamptz not null,
    duration_ms int8 not null,
    status_code int4,
    response_body text,
    error_code text,
    error_message text,
    primary key (tenant_id, delivery_id, number),
    foreign key (tenant_id, delivery_id)
        references app.deliveries (tenant_id, id) on delete cascade
);

-- A periodic job. The row's `next_slot` moves on and the job is enqueued in one transaction.
create table app.schedules (
    tenant_id uuid not null references app.tenants,
    id uuid not null unique,
    name text not null check (length(name) between 1 and 100),
    cron text not null,
    timezone text not null default 'UTC',
    kind text not null,
    payload jsonb not null default '{}',
    paused boolean not null default false,
    next_slot timestamptz,
    last_slot timestamptz,
    created_at timestamptz not null default now(),
    primary key (tenant_id, id),
    unique (tenant_id, name)
);
create index schedules_next on app.schedules (next_slot) where not paused;

-- Who leads. The term grows with each change of holder and is checked in every emission.
create table app.leaders (
    role text primary key,
    holder uuid not null,
    term int8 not null,
    expires_at timestamptz not null
);

do $$
declare
    target text;
begin
    alter table app.tenants enable row level security;
    alter table app.tenants force row level security;
    create policy tenant_rows on app.tenants to harkara_app
        using (id = app.current_tenant()) with check (id = app.current_tenant());
    create policy engine_rows on app.tenants to harkara_engine using (true) with check (true);
    foreach target in array array[
        'api_keys', 'webhook_endpoints', 'endpoint_secrets', 'events', 'deliveries',
        'delivery_attempts', 'schedules'
    ] loop
        execute format('alter table app.%I enable row level security', target);
        execute format('alter table app.%I force row level security', target);
        execute format(
            'create policy tenant_rows on app.%I to harkara_app
             using (tenant_id = app.current_tenant()) with check (tenant_id = app.current_tenant())',
            target
        );
    end loop;
    -- Who calls is found before the tenant is known; schedules are emitted across tenants.
    create policy engine_rows on app.api_keys to harkara_engine using (true) with check (true);
    create policy engine_rows on app.schedules to harkara_engine using (true) with check (true);
end
$$;

grant select, insert, update on app.tenants to harkara_engine;
grant select, insert, update on app.api_keys, app.schedules, app.leaders to harkara_engine;
grant delete on app.schedules to harkara_engine;
grant select on app.tenants to harkara_app;
grant select, insert, update, delete on
    app.webhook_endpoints, app.endpoint_secrets, app.events, app.deliveries, app.delivery_attempts
    to harkara_app;
grant select on app.api_keys, app.schedules to harkara_app;
