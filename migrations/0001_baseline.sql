-- oldest-release: 0.1.0
--
-- The whole schema of the first release: roles, tables, indexes, policies, rights and seeds. What it amounts to
-- after all later migrations is in schema.sql; the functions are in functions/. migrations/README.md describes
-- how to change any of it.
--
-- Contents
--    1  Roles and schemas
--    2  State of the schema itself
--    3  app: tenants, API keys, usage, request limits, idempotency
--    4  app: users, roles, sessions
--    5  app: audit log
--    6  app: webhooks
--    7  app: schedules and leadership
--    8  queue: names and settings (tenants, kinds, queues, limiters, lanes)
--    9  queue: workers and leases
--   10  queue: parcels and what belongs to a job
--   11  queue: counters
--   12  queue: enqueueing from SQL
--   13  Row-level security
--   14  Rights
--   15  Seeds

---------------------------------------------------------------------------------------------------------------
-- 1  Roles and schemas
---------------------------------------------------------------------------------------------------------------

-- Three roles that cannot log in:
--   harkara_app     a tenant's transaction; held by row-level security
--   harkara_engine  claims and maintenance across tenants
--   harkara_client  may call queue.enqueue and queue.enqueue_many, and nothing else
-- The login role of the platform is a member of the first two: engine statements have the rights of
-- harkara_engine by inheritance, and every tenant transaction narrows itself to harkara_app.
--
-- Roles belong to the whole cluster, so two databases that migrate at once can collide here: a role that exists
-- already, or a catalogue row that the other side is writing, is retried.
do $$
declare
    wanted text;
    tries int;
begin
    foreach wanted in array array['harkara_app', 'harkara_engine', 'harkara_client'] loop
        tries := 0;
        loop
            begin
                if not exists (select from pg_roles where rolname = wanted) then
                    execute format('create role %I nologin nobypassrls', wanted);
                end if;
                -- 'usage', not 'member': since PostgreSQL 16 the creator of a role is a member that can
                -- neither inherit from it nor become it.
                if wanted <> 'harkara_client' and not pg_has_role(current_user, wanted, 'usage') then
                    execute format('grant %I to %I', wanted, current_user);
                end if;
                exit;
            exception when duplicate_object or unique_violation or internal_error then
                tries := tries + 1;
                if tries > 50 then
                    raise;
                end if;
                perform pg_sleep(0.02);
            end;
        end loop;
    end loop;
end
$$;

create schema app;
create schema queue;

grant usage on schema app to harkara_app, harkara_engine;
grant usage on schema queue to harkara_app, harkara_engine, harkara_client;

-- The tenant of the running transaction, or null outside of one. nullif: after a transaction that set it, the
-- setting reads as '' for the rest of the session.
-- It is here, not in functions/, because the policies below refer to it.
create function app.current_tenant() returns uuid
language sql stable
return nullif(current_setting('app.tenant_id', true), '')::uuid;
grant execute on function app.current_tenant() to harkara_app, harkara_engine;

-- A login role that is a member of both runtime roles and owns nothing is enough to run the platform: it reads
-- which migrations were applied.
grant select on _sqlx_migrations to harkara_app, harkara_engine;

---------------------------------------------------------------------------------------------------------------
-- 2  State of the schema itself
---------------------------------------------------------------------------------------------------------------

-- One row, written by `harkara migrate`.
create table app.schema_state (
    one boolean primary key default true check (one),
    -- Releases older than this one must not run on this schema: the highest `oldest-release` of the applied
    -- migrations.
    oldest_release text not null,
    -- The release whose functions are installed, and the digest of them all. Null until they are.
    functions_release text,
    functions_digest text,
    -- Digests of all functions that were ever installed: a process whose functions were replaced by later ones runs
    -- on, one whose functions are still to be installed does not.
    functions_history text[] not null default '{}'
);

-- The functions that `harkara migrate` has installed, with the checksum of each file.
create table app.schema_functions (
    -- Schema and name, such as queue.claim.
    name text primary key,
    checksum text not null,
    applied_at timestamptz not null default now()
);

---------------------------------------------------------------------------------------------------------------
-- 3  app: tenants, API keys, usage, request limits, idempotency
---------------------------------------------------------------------------------------------------------------

create table app.tenants (
    id uuid primary key,
    slug text not null unique check (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    name text not null check (length(name) between 1 and 200),
    sla_tier text not null check (sla_tier in ('FREE', 'PRO', 'ENTERPRISE')),
    status text not null default 'active' check (
        status in ('active', 'trialing', 'past_due', 'suspended', 'pending_payment', 'canceled')
    ),
    created_at timestamptz not null default now(),
    -- Paused by the operator, whatever its status.
    paused boolean not null default false,
    -- When its erasure was requested; a request cannot be withdrawn.
    erasure_asked_at timestamptz,
    -- The endpoint that its contract was set up with.
    contract_endpoint_id uuid,
    updated_at timestamptz not null default now()
);

create table app.api_keys (
    tenant_id uuid not null references app.tenants,
    id uuid not null unique,
    -- The part of the key that is not secret: the row is found by it, then the hash is compared.
    public_id text not null unique,
    hash bytea not null check (length(hash) = 32),
    last4 text not null,
    name text not null,
    tier text not null check (tier in ('free', 'developer', 'business', 'enterprise')),
    scopes text[] not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    -- Id of the user or key that created it.
    created_by text,
    -- Networks the key can be used from; empty for all.
    addresses text[] not null default '{}',
    -- To the minute.
    last_used_at timestamptz,
    -- The key that this one replaced, and the first key of that sequence of rotations. Requests are limited by
    -- the family, so that a rotated key gets no new budget.
    rotated_from uuid,
    family uuid,
    -- Request limits that replace those of the tier.
    limits jsonb,
    -- Whether the audit log has an entry of its expiry.
    expiry_told boolean not null default false,
    primary key (tenant_id, id)
);
-- Keys whose expiry the audit log does not record yet.
create index api_keys_expiry on app.api_keys (tenant_id, expires_at)
    where expires_at is not null and revoked_at is null and not expiry_told;

-- Allowed requests of each key by month (UTC).
create table app.usage (
    tenant_id uuid not null references app.tenants,
    key_id uuid not null,
    -- First day of the month.
    month date not null check (extract(day from month) = 1),
    requests int8 not null check (requests >= 0),
    updated_at timestamptz not null default now(),
    -- When the month was over and its number final.
    closed_at timestamptz,
    primary key (tenant_id, key_id, month)
);
create index usage_month on app.usage (tenant_id, month);

-- Counters of request limits, one live row for each subject and policy. Not a tenant's table: a subject is a
-- key, a user or an address that signs in.
-- Unlogged: a charge writes nothing else, so its commit does not wait for the disk. After a crash of the
-- database the table is empty and all counters start again; the month's counter continues from app.usage.
-- Durations are whole microseconds, times are microseconds since 1970.
create unlogged table app.request_counters (
    subject text collate "C" not null check (length(subject) between 1 and 400),
    policy text collate "C" not null check (length(policy) between 1 and 40),
    -- Grows with every change; the highest version is the valid one. The index leads to it directly, however
    -- many dead versions precede it while a snapshot is held.
    version int8 not null,
    -- What the counter measures. When the policy changes to another strategy or width, it starts again.
    strategy text not null,
    width int8 not null,
    -- When it started, and when it last changed.
    begun int8 not null,
    touched int8 not null,
    -- From this time its quota is whole again, and the row means the same as no row.
    whole_at int8 not null,
    -- Fixed window: start of the window; sliding window: its newest slice; month: start of the month.
    place int8 not null,
    -- Windows: requests in it. Token bucket: its content, where one token weighs `width` and a microsecond adds
    -- `quota`. Leaky bucket: theoretical arrival time of the next request.
    used int8 not null,
    -- Sliding window: requests in each of its 61 slices, newest first.
    slices int4[],
    primary key (subject, policy, version)
) with (
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);

-- Outcomes of requests that carry an idempotency key, for as long as the key is valid.
--
-- A row is reserved before its request runs, with a token of its own. The transaction that carries the request
-- out marks the row `committed`, so that a process that dies at any moment leaves a correct row; `done` holds
-- the response. A caller that takes over a row whose lock has run out gives it a new token, so that the former
-- holder can commit nothing more.
create table app.idempotency (
    tenant_id uuid not null references app.tenants,
    -- Id of the key or user that sent the request.
    subject text not null,
    method text not null,
    -- Template of the route.
    route text not null,
    key text not null check (length(key) between 1 and 255),
    token uuid not null,
    -- SHA-256 of the request.
    fingerprint bytea not null check (length(fingerprint) = 32),
    state text not null check (state in ('running', 'committed', 'done')),
    -- Permissions of the first caller; a repeated request needs them all to receive the stored response.
    rights text[] not null default '{}',
    status int2,
    -- Response headers that are repeated.
    headers jsonb,
    -- Sealed with the master key, since responses can hold secrets; associated data is
    -- 'app.idempotency/<tenant>/<token>'.
    body bytea,
    locked_until timestamptz not null,
    expires_at timestamptz not null,
    created_at timestamptz not null default now(),
    primary key (tenant_id, subject, method, route, key),
    check ((state = 'done') = (status is not null and headers is not null and body is not null))
);
create index idempotency_expiry on app.idempotency (tenant_id, expires_at);

---------------------------------------------------------------------------------------------------------------
-- 4  app: users, roles, sessions
---------------------------------------------------------------------------------------------------------------

-- Permissions and roles are the same for all tenants, and data rather than code, so that a role can be read,
-- joined and shown. The API decides what each permission opens.
create table app.permissions (
    name text primary key,
    area text not null,
    description text not null
);

create table app.roles (
    name text primary key,
    description text not null
);

-- A role includes all permissions of its parents.
create table app.role_parents (
    role text not null references app.roles,
    parent text not null references app.roles,
    primary key (role, parent),
    check (role <> parent)
);

create table app.role_permissions (
    role text not null references app.roles,
    permission text not null references app.permissions,
    primary key (role, permission)
);

-- A user belongs to one tenant; the same address can belong to a user of each of several tenants.
create table app.users (
    tenant_id uuid not null references app.tenants,
    id uuid not null unique,
    email text not null check (
        email = lower(email) and length(email) between 3 and 254 and email like '%_@_%'
    ),
    name text not null check (length(name) between 1 and 200),
    -- Argon2id, as a PHC string. Null: signs in by link or provider only.
    password_hash text,
    -- Secret of the authenticator, sealed with the master key; associated data is 'app.users/<id>'.
    totp_sealed bytea,
    -- Null until the first code is accepted; the second factor is required from then on.
    totp_confirmed_at timestamptz,
    -- Time step of the last accepted code: no code is accepted twice.
    totp_last_step int8,
    -- Identity of the user at the provider. Set by the first sign-in through it.
    oidc_issuer text,
    oidc_subject text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    last_sign_in_at timestamptz,
    disabled_at timestamptz,
    primary key (tenant_id, id),
    unique (tenant_id, email),
    check ((oidc_issuer is null) = (oidc_subject is null))
);
-- The user who signs in is found before the tenant is known.
create index users_email on app.users (email);
create index users_subject on app.users (oidc_issuer, oidc_subject) where oidc_subject is not null;

create table app.role_grants (
    tenant_id uuid not null,
    id uuid not null,
    user_id uuid not null,
    role text not null references app.roles,
    not_before timestamptz not null default now(),
    expires_at timestamptz,
    -- Id of the user or key.
    granted_by text not null,
    reason text check (length(reason) between 1 and 500),
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    -- Whether the audit log has an entry of its expiry.
    expiry_told boolean not null default false,
    primary key (tenant_id, id),
    foreign key (tenant_id, user_id) references app.users on delete cascade,
    check (expires_at > not_before)
);
create index role_grants_user on app.role_grants (tenant_id, user_id, id);
create index role_grants_expiry on app.role_grants (tenant_id, expires_at)
    where expires_at is not null and revoked_at is null and not expiry_told;

-- Single permissions allowed or denied to a user beside the roles; deny wins.
create table app.user_permissions (
    tenant_id uuid not null,
    id uuid not null,
    user_id uuid not null,
    permission text not null references app.permissions,
    effect text not null check (effect in ('allow', 'deny')),
    not_before timestamptz not null default now(),
    expires_at timestamptz,
    -- Id of the user or key.
    granted_by text not null,
    reason text check (length(reason) between 1 and 500),
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    -- Whether the audit log has an entry of its expiry.
    expiry_told boolean not null default false,
    primary key (tenant_id, id),
    foreign key (tenant_id, user_id) references app.users on delete cascade,
    check (expires_at > not_before)
);
create index user_permissions_user on app.user_permissions (tenant_id, user_id, id);
create index user_permissions_expiry on app.user_permissions (tenant_id, expires_at)
    where expires_at is not null and revoked_at is null and not expiry_told;

create table app.sessions (
    tenant_id uuid not null,
    id uuid not null,
    user_id uuid not null,
    -- SHA-256 of the 256 random bits that the browser keeps.
    token_hash bytea not null unique check (length(token_hash) = 32),
    -- How the user signed in.
    method text not null check (method in ('password', 'link', 'oidc')),
    created_at timestamptz not null default now(),
    -- To the minute.
    last_seen_at timestamptz not null default now(),
    expires_at timestamptz not null,
    address text,
    user_agent text,
    -- When the user last proved their identity.
    confirmed_at timestamptz not null default now(),
    ended_at timestamptz,
    primary key (tenant_id, id),
    foreign key (tenant_id, user_id) references app.users on delete cascade
);
create index sessions_user on app.sessions (tenant_id, user_id, id);
-- For removal, by when they were over.
create index sessions_over on app.sessions (tenant_id, least(ended_at, expires_at));

create table app.sign_in_links (
    tenant_id uuid not null,
    id uuid not null,
    user_id uuid not null,
    token_hash bytea not null unique check (length(token_hash) = 32),
    -- Id of the user or key.
    created_by text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    used_at timestamptz,
    primary key (tenant_id, id),
    foreign key (tenant_id, user_id) references app.users on delete cascade
);
create index sign_in_links_user on app.sign_in_links (tenant_id, user_id, id);
create index sign_in_links_over on app.sign_in_links (tenant_id, least(used_at, expires_at));

-- Sign-ins in progress at the provider. They belong to no tenant yet.
create table app.oidc_flows (
    -- SHA-256 of `state`.
    state_hash bytea primary key check (length(state_hash) = 32),
    -- SHA-256 of the secret that the browser which began it keeps.
    browser_hash bytea not null check (length(browser_hash) = 32),
    -- Nonce and PKCE verifier, sealed; associated data is 'app.oidc_flows/<state_hash in hex>'.
    sealed bytea not null,
    expires_at timestamptz not null
);
create index oidc_flows_expiry on app.oidc_flows (expires_at);

---------------------------------------------------------------------------------------------------------------
-- 5  app: audit log
---------------------------------------------------------------------------------------------------------------

-- One hash chain a tenant, which can be appended to and read, and nothing else. Each entry's hash covers the
-- entry and the hash before it, so app.verify_audit_chain finds an entry that was changed, removed or inserted.
-- Entries cut off at the end are found by comparing with the head, and a head that was changed as well by the
-- anchors outside of the database. The triggers that refuse changes come with app.refuse_audit_change.
create table app.audit_log (
    -- A row of app.audit_heads.
    tenant_id uuid not null,
    -- From 1, without gaps.
    seq int8 not null check (seq > 0),
    at timestamptz not null,
    actor_kind text not null,
    -- Id of the key or user, name of a part of the platform, or the name that an unauthenticated caller gave.
    actor_id text not null,
    actor_name text,
    -- `noun.verb`.
    action text not null,
    -- Id of the object it was done to.
    resource text not null,
    address text,
    user_agent text,
    request_id text,
    -- The changed members, before and after; secrets left out.
    before jsonb,
    after jsonb,
    reason text,
    hash bytea not null check (length(hash) = 32),
    primary key (tenant_id, seq),
    constraint audit_log_actor_kind_check
        check (actor_kind in ('key', 'person', 'link', 'system', 'nobody'))
);
create index audit_log_actor on app.audit_log (tenant_id, actor_id, seq);
create index audit_log_action on app.audit_log (tenant_id, action, seq);
create index audit_log_resource on app.audit_log (tenant_id, resource, seq);

-- The end of each chain. Its row lock orders a tenant's entries. Every tenant has one from the start
-- (app.begin_audit_chain): a tenant without one had its chain taken away.
create table app.audit_heads (
    tenant_id uuid primary key references app.tenants,
    seq int8 not null,
    hash bytea not null
);

-- How far each chain was anchored. The anchors themselves are in the blob store; this table only shows which
-- chains have grown since.
create table app.audit_anchors (
    tenant_id uuid primary key references app.tenants,
    seq int8 not null,
    hash bytea not null,
    anchored_at timestamptz not null
);

---------------------------------------------------------------------------------------------------------------
-- 6  app: webhooks
---------------------------------------------------------------------------------------------------------------

-- Registered types of events, in versions that never change. Of a name that is seeded, a tenant's own versions
-- begin at 2.
create table app.event_types (
    tenant_id uuid not null references app.tenants,
    -- Compared byte by byte, so that pages continue where they ended whatever the database's locale.
    name text collate "C" not null check (length(name) between 1 and 128),
    version int4 not null check (version >= 1),
    description text not null check (length(description) <= 1000),
    -- A JSON Schema, draft 2020-12; null when any data is accepted.
    schema jsonb check (jsonb_typeof(schema) = 'object'),
    example jsonb,
    created_at timestamptz not null default now(),
    primary key (tenant_id, name, version)
);

-- Types that every tenant has from the start, each as version 1.
create table app.seeded_event_types (
    name text collate "C" primary key,
    description text not null,
    schema jsonb not null,
    example jsonb not null,
    -- Emitted by the platform itself; applications cannot post it.
    operational boolean not null,
    created_at timestamptz not null default now()
);

create table app.webhook_endpoints (
    tenant_id uuid not null references app.tenants,
    id uuid not null unique,
    url text not null check (length(url) <= 2048),
    -- Patterns such as `invoice.*`; an empty list accepts every type.
    event_types text[] not null default '{}',
    headers jsonb not null default '{}',
    status text not null default 'active' check (status in ('active', 'paused', 'disabled')),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    description text check (length(description) <= 500),
    -- An event is delivered if it names one of these channels; an empty list accepts all events.
    channels text[] not null default '{}',
    ordering text not null default 'none' check (ordering in ('none', 'fifo')),
    -- Seconds from each failed attempt to the next; one attempt more than there are entries.
    retry_delays int4[] not null
        default '{5,300,1800,7200,18000,36000,50400,72000,86400}',
    rate_per_second int4 check (rate_per_second > 0),
    max_in_flight int4 check (max_in_flight > 0),
    -- Mutual TLS: the chain as PEM, and its private key, sealed with 'app.webhook_endpoints/<id>/key'.
    client_certificate text,
    client_key bytea,
    -- OAuth 2 client credentials: all but the secret, which is sealed with
    -- 'app.webhook_endpoints/<id>/oauth2'.
    oauth2 jsonb,
    oauth2_secret bytea,
    disabled_reason text,
    disabled_at timestamptz,
    -- Health: time of the first failure since the last success, failed attempts since then, and the last
    -- percentage of the way to being disabled that the tenant was alerted of.
    failing_since timestamptz,
    failures int4 not null default 0,
    alerted int4 not null default 0,
    -- Deliveries a second that the receiver's 429 answers have reduced the endpoint to, and since when.
    slowed_to int4,
    slowed_at timestamptz,
    primary key (tenant_id, id),
    check ((client_certificate is null) = (client_key is null)),
    check (oauth2 is not null or oauth2_secret is null)
);

-- Sealed with the master key; associated data is 'app.endpoint_secrets/<endpoint id>'.
create table app.endpoint_secrets (
    tenant_id uuid not null,
    endpoint_id uuid not null,
    id uuid not null,
    sealed bytea not null,
    created_at timestamptz not null default now(),
    -- Null for the current secret; a rotated one signs as well until then.
    expires_at timestamptz,
    algorithm text not null default 'v1' check (algorithm in ('v1', 'v1a')),
    -- Receivers verify `v1a` signatures with it.
    public_key text,
    primary key (tenant_id, endpoint_id, id),
    foreign key (tenant_id, endpoint_id)
        references app.webhook_endpoints (tenant_id, id) on delete cascade
);

create table app.events (
    tenant_id uuid not null references app.tenants,
    -- The application's own id of the event, or a generated evt_…; sent as webhook-id.
    id text not null check (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    type text not null,
    -- The posted text, byte for byte: jsonb would reorder members and rewrite numbers. Null when the payload
    -- was removed before the event.
    data text,
    created_at timestamptz not null default now(),
    channels text[] not null default '{}',
    ordering_key text,
    -- The version of its type that it was validated against, if it named one.
    version int4,
    primary key (tenant_id, id)
);
create index events_age on app.events (tenant_id, created_at);
-- Events that still have their payload, by age.
create index events_payloads on app.events (tenant_id, created_at) where data is not null;

create table app.deliveries (
    tenant_id uuid not null,
    id uuid not null,
    event_id text not null,
    endpoint_id uuid not null,
    job_id bigint,
    state text not null default 'pending' check (
        state in ('pending', 'succeeded', 'failed', 'skipped', 'cancelled')
    ),
    attempts int4 not null default 0,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    -- Status code of the receiver's last response.
    last_status int4,
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
    -- Why the request was made: an event, a user (manual), a recovery, or a test of the endpoint.
    cause text not null default 'event',
    url text,
    -- Names of the endpoint's own headers that were sent.
    header_names text[],
    address inet,
    response_headers jsonb,
    -- Whether the response was longer than the part that is kept.
    response_cut boolean not null default false,
    primary key (tenant_id, delivery_id, number),
    constraint delivery_attempts_cause check (cause in ('event', 'manual', 'recovery', 'test')),
    foreign key (tenant_id, delivery_id)
        references app.deliveries (tenant_id, id) on delete cascade
);

-- How long an event's payload and the responses to it are kept, where that is less than the event itself.
create table app.webhook_settings (
    tenant_id uuid primary key references app.tenants,
    payload_seconds int4 not null check (payload_seconds >= 3600)
);

-- Outcomes of an endpoint's attempts by hour. `durations` counts answered attempts by duration; the bounds of
-- its classes are in the webhooks crate (stats.rs).
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

---------------------------------------------------------------------------------------------------------------
-- 7  app: schedules and leadership
---------------------------------------------------------------------------------------------------------------

-- A periodic job. The row's `next_slot` advances and the job is enqueued in one transaction.
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

-- The leading scheduler. The term grows with each change of holder and is checked in every emission.
create table app.leaders (
    role text primary key,
    holder uuid not null,
    term int8 not null,
    expires_at timestamptz not null
);

---------------------------------------------------------------------------------------------------------------
-- 8  queue: names and settings
---------------------------------------------------------------------------------------------------------------

-- Interned names: a parcel holds 4-byte numbers, never the words.
create table queue.tenants (
    number int4 generated always as identity primary key,
    id uuid not null unique,
    -- Limiter of the tenant, if it has one.
    limiter bigint,
    -- Share of the tenant among those that have work.
    weight int2 not null default 1 check (weight between 1 and 1000),
    paused boolean not null default false,
    paused_at timestamptz,
    -- Highest number of jobs that can wait, scheduled and ready together; no bound when null.
    max_waiting int8 check (max_waiting >= 0),
    -- Set while the tenant is being erased. Its own transactions no longer find it from then on, but those that
    -- began earlier can still add to it: once no transaction older than this one is left, none can.
    -- '0' until that moment is known.
    erasing xid8
);

create table queue.kinds (
    id int4 generated always as identity primary key,
    name text not null unique check (name ~ '^[a-z][a-z0-9_.]{0,63}$')
);

create table queue.queues (
    id int4 generated always as identity primary key,
    name text not null unique check (name ~ '^[a-z0-9][a-z0-9_.-]{0,63}$'),
    paused boolean not null default false,
    -- Limiter of the queue, if it has one.
    limiter bigint,
    paused_at timestamptz
);

-- A limiter: where a limit is measured. A lane passes the limiters of its queue, its tenant, the limits that
-- its jobs name, and its own; all of them must let a job through.
create table queue.limiters (
    id bigint generated always as identity primary key,
    -- Null for the limiter of a queue.
    tenant int4 references queue.tenants,
    -- Name of a tenant's limit; null for the limiter of a queue, of a lane, or of the tenant itself.
    key text check (length(key) between 1 and 256),
    max_running int4 check (max_running > 0),
    -- Slots held now by members of parcels that refer to this limiter.
    running int4 not null default 0 check (running >= 0),
    -- GCRA: `rate_count` starts every `rate_period`, `rate_burst` of them at once; `rate_tat` is the theoretical
    -- arrival time.
    rate_count int4 check (rate_count > 0),
    rate_period interval check (rate_period > '0'),
    rate_burst int4 check (rate_burst > 0),
    -- Interval of one start, rounded up to the microsecond so that the limit is never exceeded.
    rate_every interval generated always as (
        make_interval(secs => ceil(
            extract(epoch from rate_period) * 1000000 / rate_count
        )::float8 / 1000000)
    ) stored,
    rate_tat timestamptz not null default '-infinity',
    -- Approximate time at which a job last named it.
    used_at timestamptz not null default now(),
    unique (tenant, key),
    check ((rate_count is null) = (rate_period is null)
        and (rate_count is null) = (rate_burst is null))
) with (fillfactor = 50);
-- A tenant's limits, without the keys that jobs name and that have no limit.
create index limiters_set on queue.limiters (tenant, key)
    where key is not null and (max_running is not null or rate_count is not null);

alter table queue.tenants add foreign key (limiter) references queue.limiters;
alter table queue.queues add foreign key (limiter) references queue.limiters;
-- Removing a limiter checks that no tenant refers to it.
create index tenants_limiter on queue.tenants (limiter) where limiter is not null;

-- A lane is a line of jobs that share a fate: (queue, tenant, key). Created on first use, removed when idle.
create table queue.lanes (
    id bigint generated always as identity primary key,
    queue int4 not null references queue.queues,
    tenant int4 not null references queue.tenants,
    key text not null default '' check (length(key) <= 256),
    weight int2 not null default 1 check (weight between 1 and 1000),
    paused boolean not null default false,
    parked_until timestamptz,
    used_at timestamptz not null default now(),
    -- Runs one job after another, in the order (priority, run_at, id); a job that failed remains the head.
    strict boolean not null default false,
    -- Of a strict lane: the parcel whose job has begun and not finished.
    head bigint,
    -- The limits that its jobs name: `key`, a unit separator and the cost, one a line; and as limiters.
    limits text not null default '',
    named bigint[] not null default '{}',
    costs int4[] not null default '{}',
    -- The lane's own limiter, if it has one.
    limiter bigint references queue.limiters,
    -- Breaker: c closed, o open, h half open, with one trial under way. No breaker without `breaker_after`.
    -- It opens for `breaker_rest` when at least `breaker_after` runs have ended within `breaker_window` and at
    -- least `breaker_share` percent of them failed. The window begins with a failure, at `window_from`: from
    -- then on `tries` counts runs and `failures` those of them that failed. Nothing is counted or written while
    -- no run fails. At a share of 100 the first success ends the window: that many failures in a row.
    breaker "char" not null default 'c' check (breaker in ('c', 'o', 'h')),
    breaker_after int4 check (breaker_after > 0),
    breaker_rest interval check (breaker_rest > '0'),
    failures int4 not null default 0,
    paused_at timestamptz,
    -- Since when it is parked.
    parked_at timestamptz,
    breaker_share int2 not null default 100 check (breaker_share between 1 and 100),
    breaker_window interval not null default '5 minutes' check (breaker_window > '0'),
    tries int4 not null default 0,
    window_from timestamptz,
    unique (queue, tenant, key, strict, limits),
    check (cardinality(named) = cardinality(costs)),
    check (cardinality(named) <= 3),
    check ((breaker_after is null) = (breaker_rest is null))
) with (fillfactor = 50);
-- Removing a limiter checks that no lane refers to it.
create index lanes_limiter on queue.lanes (limiter) where limiter is not null;

-- What each tenant was served in a queue, in jobs divided by weight: the memory of fairness. Workers add to it
-- about once a second. The row of tenant 0 holds the value of the least served tenant with work: a tenant that
-- was idle begins there.
create table queue.shares (
    queue int4 not null,
    tenant int4 not null,
    served float8 not null default 0,
    used_at timestamptz not null default now(),
    primary key (queue, tenant)
) with (fillfactor = 50);

---------------------------------------------------------------------------------------------------------------
-- 9  queue: workers and leases
---------------------------------------------------------------------------------------------------------------

-- One row a worker process, for operators.
create table queue.workers (
    id uuid primary key,
    host text not null,
    pid int4 not null,
    version text not null,
    queues jsonb not null,
    started_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    stopped_at timestamptz
);

-- A worker's right to its claims. One renewal keeps every parcel it holds; an expired lease never becomes valid
-- again: its holder opens another, and its claims are rescued.
create table queue.leases (
    id bigint generated always as identity primary key,
    worker_id uuid not null references queue.workers on delete cascade,
    expires_at timestamptz not null,
    closed_at timestamptz
) with (fillfactor = 50);
create index leases_open on queue.leases (expires_at) where closed_at is null;

---------------------------------------------------------------------------------------------------------------
-- 10  queue: parcels and what belongs to a job
---------------------------------------------------------------------------------------------------------------

-- The unit of storage: `n` jobs that share lane, kind, priority and due time. The id of a member is
-- id * 1024 + position, or is listed in `ids` where members came from other parcels.
--
-- The primary key is (tenant, id, part). `part` is 0 for the parcel as it was enqueued (or as a claim merged
-- it), first position + 1 for a piece that was cut off, -(position + 1) for a member that left by itself. So
-- every job is found where its parcel was, and one index serves both that and the listing of a tenant's jobs.
create sequence queue.parcel_id as bigint maxvalue 9007199254740991;
create table queue.parcels (
    id bigint not null default nextval('queue.parcel_id'),
    lane bigint not null,
    run_at timestamptz not null,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    lease bigint,
    -- Fencing token: random, chosen by the worker for each claim. Not from a sequence: claims can commit
    -- asynchronously, and a sequence value lost in a crash would be handed out twice.
    token bigint,
    queue int4 not null,
    tenant int4 not null,
    kind int4 not null,
    -- 0 is the most urgent.
    priority int2 not null check (priority between 0 and 9),
    attempt int2 not null default 0,
    max_attempts int2 not null check (max_attempts > 0),
    deferrals int2 not null default 0,
    -- Position of the first member.
    lo int2 not null default 0,
    n int2 not null default 1 check (n between 1 and 500),
    -- s scheduled, a ready (available), r running, d succeeded (done), x dead, c cancelled.
    -- queue.state_word gives the words.
    state "char" not null check (state in ('s', 'a', 'r', 'd', 'x', 'c')),
    -- Whether a member has a unique key that is held until it finishes.
    keyed boolean not null default false,
    ids bigint[],
    -- Members (1 .. n, as in `body`) that finished well before the others; see acked_at.
    acked int2[],
    error_code text,
    error_message text,
    results jsonb[],
    body bytea[] not null,
    part int2 not null default 0,
    -- Strictly one after another: see queue.lanes.strict. Such a parcel has one member.
    strict boolean not null default false,
    -- Its worker died while it ran: claimed again one at a time, so that a poisonous member is alone.
    lost boolean not null default false,
    -- Of merged rows only: when each member was enqueued and due.
    created timestamptz[],
    due timestamptz[],
    acked_at timestamptz[],
    -- Members that are no longer here: they failed, were deferred, cancelled or lost, and have rows of their own.
    gone int2[],
    -- Running members for which cancellation was requested.
    cancelling int2[],
    -- Limiters in which the running members hold slots.
    limiters bigint[],
    -- Whether it is the trial of a half-open breaker.
    probe boolean not null default false,
    -- A job that has not started by then is cancelled (queue.cancel_expired_jobs). Such a job has a row to itself.
    expires_at timestamptz,
    -- Size of the bodies, where that is more than 1024: the memory that a claim of the row costs.
    bytes int4,
    primary key (tenant, id, part),
    check (lo + n <= 1024),
    check ((state = 'r') = (token is not null))
) with (
    fillfactor = 90,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);
alter sequence queue.parcel_id owned by queue.parcels.id;
do $$
begin
    alter table queue.parcels alter body set compression lz4;
exception when feature_not_supported then
    raise notice 'this server was built without lz4: bodies are compressed with pglz';
end
$$;
-- Claimable parcels in the order in which they are claimed. Future and running parcels are not in it.
create index parcels_ready on queue.parcels (queue, lane, priority, run_at, id)
    where state = 'a' and not lost;
create index parcels_lost on queue.parcels (queue, run_at) where state = 'a' and lost;
create index parcels_due on queue.parcels (run_at) where state = 's';
create index parcels_running on queue.parcels (lease) where state = 'r';
create index parcels_cancelling on queue.parcels (lease)
    where state = 'r' and cancelling is not null;
create index parcels_expiring on queue.parcels (expires_at)
    where state in ('s', 'a') and expires_at is not null and started_at is null;
-- Which lanes can still receive ready jobs, those that can be retried manually among them.
create index parcels_coming on queue.parcels (lane) where state in ('s', 'x', 'c');
-- The few jobs that people search for among many that succeeded.
create index parcels_aside on queue.parcels (tenant, state, id) where state in ('s', 'x', 'c');
create index parcels_finished on queue.parcels (state, finished_at) where finished_at is not null;

-- Each run of a job that did not succeed; a success is recorded in its parcel.
create table queue.attempts (
    job_id bigint not null,
    tenant int4 not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    next_run_at timestamptz,
    worker_id uuid,
    outcome text not null check (
        outcome in ('retry', 'snoozed', 'rate_limited', 'dead', 'cancelled', 'lost')
    ),
    error_code text,
    error_message text
) partition by range (finished_at);
create index attempts_job on queue.attempts (job_id, finished_at);
create index attempts_tenant on queue.attempts (tenant, finished_at);
-- Receives rows of days that have no partition, so that an insert never fails.
create table queue.attempts_other partition of queue.attempts default;
-- Partitions of today and the next seven days (UTC). Later ones are made by queue.rotate_partitions, which
-- maintenance calls.
do $$
declare
    day timestamp;
    partition text;
begin
    for day in
        select (now() at time zone 'utc')::date + ahead from generate_series(0, 7) ahead
    loop
        partition := 'attempts_' || to_char(day, 'YYYYMMDD');
        execute format(
            'create table queue.%I partition of queue.attempts for values from (%L) to (%L)',
            partition, day at time zone 'utc', (day + interval '1 day') at time zone 'utc'
        );
        execute format('alter table queue.%I enable row level security', partition);
        execute format('alter table queue.%I force row level security', partition);
    end loop;
end
$$;

-- A unique key names one job of its tenant and kind until `expires_at`; 'infinity' means until the job is
-- finished, when settling deletes the row.
create table queue.unique_keys (
    tenant int4 not null,
    kind int4 not null,
    key text not null check (length(key) between 1 and 256),
    job_id bigint not null,
    expires_at timestamptz not null,
    primary key (tenant, kind, key)
);
create index unique_keys_job on queue.unique_keys (job_id);
create index unique_keys_expiry on queue.unique_keys (expires_at) where expires_at < 'infinity';

-- Tags and other searchable values: written only for jobs that have them.
create table queue.labels (
    tenant int4 not null,
    name text not null,
    value text not null,
    job_id bigint not null,
    primary key (tenant, name, value, job_id)
);
create index labels_job on queue.labels (job_id);

-- Progress of a running job that reports it.
create table queue.progress (
    job_id bigint primary key,
    tenant int4 not null,
    progress jsonb not null,
    updated_at timestamptz not null default now(),
    -- Token of the run: of a job that runs several times, only the latest run can report.
    run bigint
) with (fillfactor = 50);
create index progress_tenant on queue.progress (tenant);

---------------------------------------------------------------------------------------------------------------
-- 11  queue: counters
---------------------------------------------------------------------------------------------------------------

-- Changes in the number of jobs in each state, written by the transaction that changed them: counting adds up
-- these rows instead of jobs. Append-only, so that no writer waits for another; queue.roll_up_counters adds them to
-- queue.tallies and queue.history about once a second and removes them.
-- waits and runs: how many jobs waited and ran for how long, by the 19 classes whose upper bounds in
-- milliseconds are 1, 2, 5, 10, 20, 50, 100, 200, 500, 1 000, 2 000, 5 000, 10 000, 30 000, 60 000,
-- 300 000, 900 000, 3 600 000 and none.
create table queue.deltas (
    -- The writing transaction: a rollup takes what its snapshot sees and the previous one did not, so that no
    -- transaction is too long to be counted, and nothing is counted twice.
    xid xid8 not null default pg_current_xact_id(),
    minute timestamptz not null default date_trunc('minute', now()),
    tenant int4 not null,
    queue int4 not null,
    kind int4 not null,
    -- Changes in the number of jobs in each state.
    scheduled int4 not null default 0,
    ready int4 not null default 0,
    running int4 not null default 0,
    dead int4 not null default 0,
    -- Number of jobs that did so.
    enqueued int4 not null default 0,
    started int4 not null default 0,
    succeeded int4 not null default 0,
    retried int4 not null default 0,
    died int4 not null default 0,
    cancelled int4 not null default 0,
    waits int4[] check (cardinality(waits) = 19),
    runs int4[] check (cardinality(runs) = 19)
) with (
    -- Rows live for a second. No truncation: it would stop the writers for a moment.
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    vacuum_truncate = false
);
create index deltas_new on queue.deltas (xid);

-- Number of jobs in each state, without the changes that queue.deltas still holds.
create table queue.tallies (
    tenant int4 not null,
    queue int4 not null,
    kind int4 not null,
    scheduled int8 not null default 0,
    ready int8 not null default 0,
    running int8 not null default 0,
    dead int8 not null default 0,
    primary key (tenant, queue, kind)
) with (fillfactor = 50);

-- Activity of each minute (span m) and of each hour (span h).
create table queue.history (
    tenant int4 not null,
    span "char" not null check (span in ('m', 'h')),
    at timestamptz not null,
    queue int4 not null,
    kind int4 not null,
    enqueued int8 not null default 0,
    started int8 not null default 0,
    succeeded int8 not null default 0,
    retried int8 not null default 0,
    died int8 not null default 0,
    cancelled int8 not null default 0,
    waits int8[],
    runs int8[],
    primary key (tenant, span, at, queue, kind)
) with (fillfactor = 50);
-- For reads across tenants: retention, and the totals of a minute.
create index history_moments on queue.history (span, at);

-- How far the rollup has come: the snapshot of the last one. One row.
create table queue.rollup_state (
    one boolean primary key default true check (one),
    last_snapshot pg_snapshot not null
) with (fillfactor = 10);

---------------------------------------------------------------------------------------------------------------
-- 12  queue: enqueueing from SQL
---------------------------------------------------------------------------------------------------------------
-- Applications enqueue in their own transactions through queue.enqueue and queue.enqueue_many. The rules are
-- those of POST /v1/jobs, written a second time in SQL: a test sends the same jobs to both and compares the
-- answers. The caller has no right but to call them: the functions run with the rights of their owner, which is
-- a member of harkara_engine and is held by the policies of that role.

-- The catalogue of kinds as the newest release that has started on this database published it.
create table queue.catalogue (
    kind text primary key,
    queue text not null,
    max_attempts int2 not null,
    timeout_ms int8 not null,
    -- Null for the default backoff.
    backoff jsonb,
    platform_only boolean not null,
    -- JSON Schema of the payload, as far as queue.check_value reads it: its shape, and rules that are checked
    -- when the shape is right.
    shape jsonb not null,
    rules jsonb not null
);

-- One row: which catalogue is published, and whether workers are woken by notifications.
create table queue.published (
    one boolean primary key default true check (one),
    version int4 not null default 0,
    digest text not null default '',
    notify boolean not null default true
);

-- Which tenants' jobs a login role of this database can enqueue.
create table queue.clients (
    role text not null,
    -- Null for all tenants.
    tenant_id uuid references app.tenants,
    created_at timestamptz not null default now()
);
create unique index clients_tenant on queue.clients (role, tenant_id) where tenant_id is not null;
create unique index clients_all on queue.clients (role) where tenant_id is null;

-- A job on its way into the table, with every fault found in it. Used by queue.read_job and queue.enqueue_jobs.
create type queue.draft as (
    place int4,
    kind text,
    queue text,
    priority int2,
    max_attempts int2,
    run_at timestamptz,
    delay_ms int8,
    key text,
    hold_ms int8,
    ordering_key text,
    limits text[],
    costs int4[],
    tags text[],
    expires_at timestamptz,
    body bytea,
    -- What distinguishes its lane from others, then the properties of that lane.
    line text,
    lane int8,
    most int4,
    queue_id int4,
    kind_id int4,
    faults jsonb
);

-- Where the jobs of one call are placed: `head` is the first of the jobs that share a row, `holder` the job that
-- holds the unique key.
create type queue.placing as (
    place int4, head int4, member int4, parcel int8, first int4, holder int8
);

-- The answer to one enqueued job.
create type queue.enqueued as (id text, existing boolean, state text, run_at timestamptz);

---------------------------------------------------------------------------------------------------------------
-- 13  Row-level security
---------------------------------------------------------------------------------------------------------------
-- Every table that holds rows of tenants has it enabled and forced, so that its owner is held too. A tenant
-- transaction sees its own rows; the engine, where it has a policy, sees all.

do $$
declare
    target text;
    own_number constant text :=
        'tenant = (select number from queue.tenants where id = app.current_tenant())';
begin
    -- A tenant knows its own number, and nothing of how many others there are.
    alter table queue.tenants enable row level security;
    alter table queue.tenants force row level security;
    create policy tenant_rows on queue.tenants to harkara_app
        using (id = app.current_tenant() and erasing is null) with check (false);
    create policy engine_rows on queue.tenants to harkara_engine using (true) with check (true);

    foreach target in array array[
        'lanes', 'parcels', 'attempts', 'attempts_other', 'unique_keys', 'labels', 'deltas', 'tallies',
        'history', 'progress'
    ] loop
        execute format('alter table queue.%I enable row level security', target);
        execute format('alter table queue.%I force row level security', target);
        execute format(
            'create policy tenant_rows on queue.%I to harkara_app using (%s) with check (%2$s)',
            target, own_number
        );
        execute format(
            'create policy engine_rows on queue.%I to harkara_engine using (true) with check (true)',
            target
        );
    end loop;

    -- Read by tenants, never written.
    foreach target in array array['limiters', 'shares'] loop
        execute format('alter table queue.%I enable row level security', target);
        execute format('alter table queue.%I force row level security', target);
        execute format(
            'create policy tenant_rows on queue.%I to harkara_app using (%s) with check (false)',
            target, own_number
        );
        execute format(
            'create policy engine_rows on queue.%I to harkara_engine using (true) with check (true)',
            target
        );
    end loop;

    alter table queue.clients enable row level security;
    alter table queue.clients force row level security;
    create policy engine_rows on queue.clients to harkara_engine using (true) with check (true);

    alter table app.tenants enable row level security;
    alter table app.tenants force row level security;
    create policy tenant_rows on app.tenants to harkara_app
        using (id = app.current_tenant()) with check (id = app.current_tenant());
    create policy engine_rows on app.tenants to harkara_engine using (true) with check (true);

    foreach target in array array[
        'api_keys', 'usage', 'idempotency', 'users', 'role_grants', 'user_permissions', 'sessions',
        'sign_in_links', 'schedules', 'event_types', 'webhook_endpoints', 'endpoint_secrets', 'events',
        'deliveries', 'delivery_attempts', 'webhook_settings', 'endpoint_hours'
    ] loop
        execute format('alter table app.%I enable row level security', target);
        execute format('alter table app.%I force row level security', target);
        execute format(
            'create policy tenant_rows on app.%I to harkara_app
             using (tenant_id = app.current_tenant()) with check (tenant_id = app.current_tenant())',
            target
        );
    end loop;
    -- The caller is identified before the tenant is known; grants expire, schedules are emitted, requests are
    -- counted and expired idempotency keys are removed across tenants.
    foreach target in array array[
        'api_keys', 'usage', 'idempotency', 'users', 'role_grants', 'user_permissions', 'sessions',
        'sign_in_links', 'schedules'
    ] loop
        execute format(
            'create policy engine_rows on app.%I to harkara_engine using (true) with check (true)',
            target
        );
    end loop;

    -- The audit log: read by both; written by functions with the rights of the owner, under these policies.
    foreach target in array array['audit_log', 'audit_heads'] loop
        execute format('alter table app.%I enable row level security', target);
        execute format('alter table app.%I force row level security', target);
        execute format(
            'create policy tenant_rows on app.%I for select to harkara_app
             using (tenant_id = app.current_tenant())',
            target
        );
        execute format(
            'create policy engine_rows on app.%I for select to harkara_engine using (true)', target
        );
        execute format(
            'create policy engine_appends on app.%I for insert to harkara_engine with check (true)', target
        );
        execute format(
            'create policy engine_erases on app.%I for delete to harkara_engine
             using (tenant_id::text = current_setting(''app.erasing'', true))',
            target
        );
    end loop;
    create policy engine_advances on app.audit_heads for update to harkara_engine using (true);

    alter table app.audit_anchors enable row level security;
    alter table app.audit_anchors force row level security;
    create policy tenant_rows on app.audit_anchors for select to harkara_app
        using (tenant_id = app.current_tenant());
    create policy engine_rows on app.audit_anchors to harkara_engine using (true) with check (true);
end
$$;

---------------------------------------------------------------------------------------------------------------
-- 14  Rights
---------------------------------------------------------------------------------------------------------------

-- Rights to execute functions are granted beside each function.

-- The state of the schema: read at the start of every process and by /readyz.
grant select on app.schema_state, app.schema_functions to harkara_app, harkara_engine;

-- The engine.
grant select, insert, update, delete on
    queue.tenants, queue.kinds, queue.queues, queue.limiters, queue.lanes, queue.shares, queue.workers,
    queue.leases, queue.parcels, queue.attempts, queue.unique_keys, queue.labels, queue.progress,
    queue.deltas, queue.tallies, queue.history, queue.catalogue, queue.clients
    to harkara_engine;
-- Read and written through its parent, except by retention.
grant select, delete on queue.attempts_other to harkara_engine;
grant select, update on queue.rollup_state, queue.published to harkara_engine;
grant usage on sequence queue.parcel_id to harkara_app, harkara_engine;
grant select, insert, update on app.tenants, app.api_keys, app.leaders to harkara_engine;
grant select, insert, update, delete on app.schedules to harkara_engine;
grant select, insert, update, delete on app.usage, app.request_counters, app.audit_anchors
    to harkara_engine;
grant select, update, delete on app.idempotency, app.sessions, app.sign_in_links to harkara_engine;
grant select, update on app.role_grants, app.user_permissions to harkara_engine;
grant select, insert, delete on app.oidc_flows to harkara_engine;
grant select on app.users to harkara_engine;

-- A tenant's transaction enqueues, cancels, retries, moves and deletes jobs: it can write the columns that this
-- needs and nothing else of a job. Claims, settlements and the log of attempts belong to the engine.
grant select on
    queue.tenants, queue.kinds, queue.queues, queue.limiters, queue.lanes, queue.attempts, queue.rollup_state,
    queue.tallies, queue.history
    to harkara_app;
grant select, insert on queue.parcels, queue.deltas to harkara_app;
grant select, insert, delete on queue.labels to harkara_app;
grant update (
    state, attempt, deferrals, run_at, finished_at, lease, token, gone, cancelling, lost, probe, limiters,
    expires_at
) on queue.parcels to harkara_app;
-- Clears a cancelled head out of its lane.
grant update (head) on queue.lanes to harkara_app;
grant select, insert, update, delete on queue.unique_keys, queue.progress to harkara_app;
-- The worker that ran a job is part of the job's history: its id, and nothing of its settings.
grant select (id, worker_id) on queue.leases to harkara_app;

-- The tenant's own resources.
grant select on app.tenants, app.schedules, app.usage, app.audit_anchors, app.seeded_event_types
    to harkara_app;
grant update (contract_endpoint_id) on app.tenants to harkara_app;
-- A tenant's keys are created and changed in its own transactions, with the entries of its audit log.
grant select, insert, update on app.api_keys to harkara_app;
grant select, insert, update, delete on
    app.idempotency, app.users, app.role_grants, app.user_permissions, app.sessions, app.sign_in_links,
    app.webhook_endpoints, app.endpoint_secrets, app.events, app.deliveries, app.delivery_attempts,
    app.webhook_settings, app.endpoint_hours
    to harkara_app;
-- A version of a type never changes.
grant select, insert on app.event_types to harkara_app;
-- No role has the right to write the audit log: its owner appends through app.append_audit_entry and removes through
-- app.erase_rows.
grant select on
    app.audit_log, app.audit_heads, app.permissions, app.roles, app.role_parents, app.role_permissions
    to harkara_app, harkara_engine;

---------------------------------------------------------------------------------------------------------------
-- 15  Seeds
---------------------------------------------------------------------------------------------------------------

insert into queue.rollup_state (last_snapshot) values (pg_current_snapshot());
insert into queue.published default values;

-- The platform's own tenant, with its audit chain (the trigger that begins the chains of others comes with
-- app.begin_audit_chain), and its schedules.
insert into app.tenants (id, slug, name, sla_tier)
values ('01900000-0000-7000-8000-000000000001', 'platform', 'Platform', 'ENTERPRISE');
insert into app.audit_heads (tenant_id, seq, hash)
select t.id, 0, sha256(convert_to(t.id::text, 'UTF8')) from app.tenants t;

insert into app.schedules (tenant_id, id, name, cron, timezone, kind) values
(
    '01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000002',
    'retention', '15 3 * * *', 'UTC', 'maintenance.retention'
),
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

-- Permissions and roles.
insert into app.permissions (name, area, description)
select area || ':' || verb, area, case verb when 'read' then 'See ' else 'Change ' end || words
from (values
    ('messages', 'messages and consents'),
    ('leads', 'leads'),
    ('sales', 'sales'),
    ('templates', 'templates of messages'),
    ('accounts', 'the users of the tenant'),
    ('jobs', 'jobs, queues, schedules and webhooks'),
    ('backups', 'backups'),
    ('reports', 'reports'),
    ('trunks', 'telephone trunks'),
    ('billing', 'bills and payments'),
    ('admin', 'the tenant itself: its keys, limits and audit log')
) areas (area, words)
cross join (values ('read'), ('manage')) verbs (verb);

insert into app.roles (name, description) values
    ('viewer', 'Sees everything except billing and administration'),
    ('sales_rep', 'Messages leads and sells'),
    ('team_lead', 'Also manages templates and reports'),
    ('manager', 'Also manages users; sees billing and administration'),
    ('operator', 'Runs jobs, backups, trunks and reports; sees administration'),
    ('admin', 'Does everything');

insert into app.role_parents (role, parent) values
    ('sales_rep', 'viewer'), ('team_lead', 'sales_rep'), ('manager', 'team_lead'),
    ('operator', 'viewer'), ('admin', 'manager'), ('admin', 'operator');

insert into app.role_permissions (role, permission)
select 'viewer', name from app.permissions
where name like '%:read' and area not in ('billing', 'admin')
union all
select * from (values
    ('sales_rep', 'messages:manage'), ('sales_rep', 'leads:manage'), ('sales_rep', 'sales:manage'),
    ('team_lead', 'templates:manage'), ('team_lead', 'reports:manage'),
    ('manager', 'accounts:manage'), ('manager', 'billing:read'), ('manager', 'admin:read'),
    ('operator', 'jobs:manage'), ('operator', 'backups:manage'), ('operator', 'trunks:manage'),
    ('operator', 'reports:manage'), ('operator', 'admin:read'),
    ('admin', 'billing:manage'), ('admin', 'admin:manage')
) own (role, permission);

-- Types of events that every tenant has. The schemas name and describe members; none is required and none refused:
-- applications post the members they have.
insert into app.seeded_event_types (name, description, schema, example, operational)
select
    seed.name,
    seed.description,
    jsonb_build_object('type', 'object', 'properties', (
        select jsonb_object_agg(member.key, jsonb_build_object('description', member.value))
        from jsonb_each_text(seed.members::jsonb) member
    )),
    seed.example::jsonb,
    seed.operational
from (values
(
    'user.created', 'A user signed up', false,
    '{"id": "Id of the user", "email": "Address of the user", "name": "Name of the user",
      "created_at": "When they signed up, RFC 3339"}',
    '{"id": "usr_1042", "email": "ada@example.com", "name": "Ada", "created_at": "2026-03-01T09:30:00Z"}'
),
(
    'user.updated', 'The data of a user changed', false,
    '{"id": "Id of the user", "changes": "The members that changed, as they are now",
      "updated_at": "Time of the event, RFC 3339"}',
    '{"id": "usr_1042", "changes": {"name": "Ada L."}, "updated_at": "2026-03-02T08:00:00Z"}'
),
(
    'user.deleted', 'A user was deleted', false,
    '{"id": "Id the user had", "deleted_at": "Time of the event, RFC 3339"}',
    '{"id": "usr_1042", "deleted_at": "2026-06-30T17:45:00Z"}'
),
(
    'goal.created', 'A user set a goal', false,
    '{"id": "Id of the goal", "user_id": "Id of the user", "title": "Title of the goal",
      "target": "Target amount", "unit": "Unit of target and progress", "due_on": "Due date"}',
    '{"id": "goal_77", "user_id": "usr_1042", "title": "Read more", "target": 12, "unit": "books",
      "due_on": "2026-12-31"}'
),
(
    'goal.updated', 'A goal or its progress changed', false,
    '{"id": "Id of the goal", "user_id": "Id of the user", "changes": "The members that changed, as they are now",
      "progress": "Amount reached so far"}',
    '{"id": "goal_77", "user_id": "usr_1042", "changes": {"target": 15}, "progress": 4}'
),
(
    'goal.completed', 'A goal was reached', false,
    '{"id": "Id of the goal", "user_id": "Id of the user", "title": "Title of the goal",
      "completed_at": "Time of the event, RFC 3339"}',
    '{"id": "goal_77", "user_id": "usr_1042", "title": "Read more", "completed_at": "2026-11-20T20:15:00Z"}'
),
(
    'goal.deleted', 'A goal was deleted', false,
    '{"id": "Id the goal had", "user_id": "Id of the user", "deleted_at": "Time of the event, RFC 3339"}',
    '{"id": "goal_77", "user_id": "usr_1042", "deleted_at": "2026-05-01T07:00:00Z"}'
),
(
    'habit.created', 'A user started a habit', false,
    '{"id": "Id of the habit", "user_id": "Id of the user", "title": "Title of the habit", "frequency": "How often it is to be done"}',
    '{"id": "habit_9", "user_id": "usr_1042", "title": "Run", "frequency": "daily"}'
),
(
    'habit.logged', 'A habit was logged', false,
    '{"id": "Id of the habit", "user_id": "Id of the user", "logged_on": "Date", "streak": "Length of the current streak",
      "note": "Note of the user"}',
    '{"id": "habit_9", "user_id": "usr_1042", "logged_on": "2026-03-07", "streak": 6, "note": "in the rain"}'
),
(
    'habit.streak_milestone', 'A habit reached a streak worth celebrating', false,
    '{"id": "Id of the habit", "user_id": "Id of the user", "streak": "Length of the current streak",
      "reached_on": "Date"}',
    '{"id": "habit_9", "user_id": "usr_1042", "streak": 30, "reached_on": "2026-03-31"}'
),
(
    'habit.deleted', 'A habit was deleted', false,
    '{"id": "Id the habit had", "user_id": "Id of the user", "longest_streak": "Length of the longest streak",
      "deleted_at": "Time of the event, RFC 3339"}',
    '{"id": "habit_9", "user_id": "usr_1042", "longest_streak": 41, "deleted_at": "2026-08-01T10:00:00Z"}'
),
(
    'subscription.created', 'A customer subscribed', false,
    '{"id": "Id of the subscription", "customer_id": "Id of the customer", "plan": "Plan", "status": "Status of the subscription",
      "current_period_end": "End of the paid period, RFC 3339"}',
    '{"id": "sub_310", "customer_id": "cus_88", "plan": "pro-monthly", "status": "active",
      "current_period_end": "2026-04-01T00:00:00Z"}'
),
(
    'subscription.updated', 'A subscription changed', false,
    '{"id": "Id of the subscription", "customer_id": "Id of the customer", "plan": "New plan", "previous_plan": "Previous plan",
      "status": "Status of the subscription"}',
    '{"id": "sub_310", "customer_id": "cus_88", "plan": "pro-yearly", "previous_plan": "pro-monthly",
      "status": "active"}'
),
(
    'subscription.cancelled', 'A subscription was cancelled', false,
    '{"id": "Id of the subscription", "customer_id": "Id of the customer", "reason": "Reason", "ends_at": "When it ends, RFC 3339"}',
    '{"id": "sub_310", "customer_id": "cus_88", "reason": "too_expensive", "ends_at": "2027-04-01T00:00:00Z"}'
),
(
    'payment.succeeded', 'A payment succeeded', false,
    '{"id": "Id of the payment", "customer_id": "Id of the customer", "amount": "Amount in the smallest unit of the currency",
      "currency": "ISO 4217", "paid_at": "Time of the event, RFC 3339"}',
    '{"id": "pay_5512", "customer_id": "cus_88", "amount": 1900, "currency": "EUR",
      "paid_at": "2026-03-01T00:00:12Z"}'
),
(
    'payment.failed', 'A payment failed', false,
    '{"id": "Id of the payment", "customer_id": "Id of the customer",
      "amount": "Amount in the smallest unit of the currency", "currency": "ISO 4217",
      "reason": "Reason given by the bank", "retry_at": "Time of the next try, RFC 3339"}',
    '{"id": "pay_5513", "customer_id": "cus_88", "amount": 1900, "currency": "EUR",
      "reason": "insufficient_funds", "retry_at": "2026-03-04T00:00:00Z"}'
),
(
    'ai.insight_generated', 'A model generated an insight', false,
    '{"id": "Id of the insight", "user_id": "Id of the user", "topic": "Topic", "text": "The insight",
      "model": "Model that generated it", "confidence": "Confidence, 0 to 1"}',
    '{"id": "ins_204", "user_id": "usr_1042", "topic": "sleep", "text": "You run more after eight hours of sleep.",
      "model": "insights-2", "confidence": 0.82}'
),
(
    'team.member_added', 'A user joined a team', false,
    '{"team_id": "Id of the team", "user_id": "Id of the user who joined", "role": "Role in the team", "added_by": "Id of the user who added them"}',
    '{"team_id": "team_3", "user_id": "usr_1042", "role": "editor", "added_by": "usr_1"}'
),
(
    'team.member_removed', 'A user left a team', false,
    '{"team_id": "Id of the team", "user_id": "Id of the user who left", "removed_by": "Id of the user who removed them"}',
    '{"team_id": "team_3", "user_id": "usr_1042", "removed_by": "usr_1"}'
),
(
    'endpoint.failing', 'Deliveries to an endpoint have been failing, and none has succeeded since', true,
    '{"endpoint_id": "Id of the endpoint", "url": "URL of the endpoint", "failing_since": "Time of the first failure, RFC 3339",
      "failures": "Number of failed attempts", "percent": "Share of the time until it is disabled, in percent: 50, 70, 90 or 100",
      "last_error": "Code and message of the last failure", "event": "Id and type of the event that failed last",
      "delivery_id": "The delivery that failed last"}',
    '{"endpoint_id": "ep_01h455vb4pex5vsknk084sn02q", "url": "https://example.com/webhooks",
      "failing_since": "2026-03-01T09:30:00Z", "failures": 14, "percent": 50,
      "last_error": {"code": "http_500", "message": "the receiver answered 500"},
      "event": {"id": "evt_01h455vb4pex5vsknk084sn02q", "type": "user.created"},
      "delivery_id": "dlv_01h455vb4pex5vsknk084sn02q"}'
),
(
    'endpoint.disabled', 'An endpoint was disabled', true,
    '{"endpoint_id": "Id of the endpoint", "url": "URL of the endpoint", "reason": "Reason",
      "failing_since": "Time of the first failure, RFC 3339", "failures": "Number of failed attempts"}',
    '{"endpoint_id": "ep_01h455vb4pex5vsknk084sn02q", "url": "https://example.com/webhooks",
      "reason": "failing", "failing_since": "2026-03-01T09:30:00Z", "failures": 31}'
),
(
    'endpoint.recovered', 'A failing endpoint received a delivery again', true,
    '{"endpoint_id": "Id of the endpoint", "url": "URL of the endpoint",
      "failing_since": "Time of the first failure, RFC 3339", "failures": "Number of failed attempts"}',
    '{"endpoint_id": "ep_01h455vb4pex5vsknk084sn02q", "url": "https://example.com/webhooks",
      "failing_since": "2026-03-01T09:30:00Z", "failures": 14}'
),
(
    'delivery.exhausted', 'A delivery failed and will not be retried', true,
    '{"delivery_id": "Id of the delivery", "endpoint_id": "Id of the endpoint", "url": "URL of the endpoint",
      "event": "Id and type of the event, and its data if it is small", "attempts": "Number of attempts",
      "last_error": "Code and message of the last failure", "status_code": "Status code of the last response, if any"}',
    '{"delivery_id": "dlv_01h455vb4pex5vsknk084sn02q", "endpoint_id": "ep_01h455vb4pex5vsknk084sn02q",
      "url": "https://example.com/webhooks",
      "event": {"id": "evt_01h455vb4pex5vsknk084sn02q", "type": "user.created", "data": {"id": "usr_1042"}},
      "attempts": 10, "last_error": {"code": "http_500", "message": "the receiver answered 500"},
      "status_code": 500}'
)
) seed (name, description, operational, members, example);
