-- The schema as the migrations make it, for readers. Nothing runs this file, and a test compares it with the
-- database. Regenerate it with:
--   UPDATE_SCHEMA=1 cargo test -p harkara-test-database --test it schema_file
-- The meaning of tables and columns is in 0001_baseline.sql and later migrations, the text of functions in functions/.

create type queue.draft as (
    place integer,
    kind text,
    queue text,
    priority smallint,
    max_attempts smallint,
    run_at timestamp with time zone,
    delay_ms bigint,
    key text,
    hold_ms bigint,
    ordering_key text,
    limits text[],
    costs integer[],
    tags text[],
    expires_at timestamp with time zone,
    body bytea,
    line text,
    lane bigint,
    most integer,
    queue_id integer,
    kind_id integer,
    faults jsonb
);

create type queue.enqueued as (
    id text,
    existing boolean,
    state text,
    run_at timestamp with time zone
);

create type queue.placing as (
    place integer,
    head integer,
    member integer,
    parcel bigint,
    first integer,
    holder bigint
);

create sequence queue.parcel_id;
grant usage on queue.parcel_id to harkara_app;
grant usage on queue.parcel_id to harkara_engine;

create table app.api_keys (
    tenant_id uuid not null,
    id uuid not null,
    public_id text not null,
    hash bytea not null,
    last4 text not null,
    name text not null,
    tier text not null,
    scopes text[] not null,
    created_at timestamp with time zone not null default now(),
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    created_by text,
    addresses text[] not null default '{}'::text[],
    last_used_at timestamp with time zone,
    rotated_from uuid,
    family uuid,
    limits jsonb,
    expiry_told boolean not null default false,
    constraint api_keys_pkey PRIMARY KEY (tenant_id, id),
    constraint api_keys_id_key UNIQUE (id),
    constraint api_keys_public_id_key UNIQUE (public_id),
    constraint api_keys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id),
    constraint api_keys_hash_check CHECK ((length(hash) = 32)),
    constraint api_keys_tier_check CHECK ((tier = ANY (ARRAY['free'::text, 'developer'::text, 'business'::text, 'enterprise'::text])))
);
CREATE INDEX api_keys_expiry ON app.api_keys (tenant_id, expires_at) WHERE ((expires_at IS NOT NULL) AND (revoked_at IS NULL) AND (NOT expiry_told));
alter table app.api_keys enable row level security;
alter table app.api_keys force row level security;
create policy engine_rows on app.api_keys to harkara_engine using (true) with check (true);
create policy tenant_rows on app.api_keys to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant insert, select, update on app.api_keys to harkara_app;
grant insert, select, update on app.api_keys to harkara_engine;

create table app.audit_anchors (
    tenant_id uuid not null,
    seq bigint not null,
    hash bytea not null,
    anchored_at timestamp with time zone not null,
    constraint audit_anchors_pkey PRIMARY KEY (tenant_id),
    constraint audit_anchors_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id)
);
alter table app.audit_anchors enable row level security;
alter table app.audit_anchors force row level security;
create policy engine_rows on app.audit_anchors to harkara_engine using (true) with check (true);
create policy tenant_rows on app.audit_anchors for select to harkara_app using ((tenant_id = app.current_tenant()));
grant select on app.audit_anchors to harkara_app;
grant delete, insert, select, update on app.audit_anchors to harkara_engine;

create table app.audit_heads (
    tenant_id uuid not null,
    seq bigint not null,
    hash bytea not null,
    constraint audit_heads_pkey PRIMARY KEY (tenant_id),
    constraint audit_heads_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id)
);
alter table app.audit_heads enable row level security;
alter table app.audit_heads force row level security;
create policy engine_advances on app.audit_heads for update to harkara_engine using (true);
create policy engine_appends on app.audit_heads for insert to harkara_engine with check (true);
create policy engine_erases on app.audit_heads for delete to harkara_engine using (((tenant_id)::text = current_setting('app.erasing'::text, true)));
create policy engine_rows on app.audit_heads for select to harkara_engine using (true);
create policy tenant_rows on app.audit_heads for select to harkara_app using ((tenant_id = app.current_tenant()));
CREATE TRIGGER audit_heads_stay BEFORE DELETE ON app.audit_heads FOR EACH ROW EXECUTE FUNCTION app.refuse_audit_change();
grant select on app.audit_heads to harkara_app;
grant select on app.audit_heads to harkara_engine;

create table app.audit_log (
    tenant_id uuid not null,
    seq bigint not null,
    at timestamp with time zone not null,
    actor_kind text not null,
    actor_id text not null,
    actor_name text,
    action text not null,
    resource text not null,
    address text,
    user_agent text,
    request_id text,
    before jsonb,
    after jsonb,
    reason text,
    hash bytea not null,
    constraint audit_log_pkey PRIMARY KEY (tenant_id, seq),
    constraint audit_log_actor_kind_check CHECK ((actor_kind = ANY (ARRAY['key'::text, 'person'::text, 'link'::text, 'system'::text, 'nobody'::text]))),
    constraint audit_log_hash_check CHECK ((length(hash) = 32)),
    constraint audit_log_seq_check CHECK ((seq > 0))
);
CREATE INDEX audit_log_action ON app.audit_log (tenant_id, action, seq);
CREATE INDEX audit_log_actor ON app.audit_log (tenant_id, actor_id, seq);
CREATE INDEX audit_log_resource ON app.audit_log (tenant_id, resource, seq);
alter table app.audit_log enable row level security;
alter table app.audit_log force row level security;
create policy engine_appends on app.audit_log for insert to harkara_engine with check (true);
create policy engine_erases on app.audit_log for delete to harkara_engine using (((tenant_id)::text = current_setting('app.erasing'::text, true)));
create policy engine_rows on app.audit_log for select to harkara_engine using (true);
create policy tenant_rows on app.audit_log for select to harkara_app using ((tenant_id = app.current_tenant()));
CREATE TRIGGER audit_log_is_added_to BEFORE DELETE OR UPDATE ON app.audit_log FOR EACH ROW EXECUTE FUNCTION app.refuse_audit_change();
CREATE TRIGGER audit_log_is_not_emptied BEFORE TRUNCATE ON app.audit_log FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_audit_change();
grant select on app.audit_log to harkara_app;
grant select on app.audit_log to harkara_engine;

create table app.deliveries (
    tenant_id uuid not null,
    id uuid not null,
    event_id text not null,
    endpoint_id uuid not null,
    job_id bigint,
    state text not null default 'pending'::text,
    attempts integer not null default 0,
    created_at timestamp with time zone not null default now(),
    finished_at timestamp with time zone,
    last_status integer,
    constraint deliveries_pkey PRIMARY KEY (tenant_id, id),
    constraint deliveries_tenant_id_event_id_fkey FOREIGN KEY (tenant_id, event_id) REFERENCES app.events(tenant_id, id) ON DELETE CASCADE,
    constraint deliveries_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'succeeded'::text, 'failed'::text, 'skipped'::text, 'cancelled'::text])))
);
CREATE INDEX deliveries_endpoint ON app.deliveries (tenant_id, endpoint_id, id);
CREATE INDEX deliveries_event ON app.deliveries (tenant_id, event_id, id);
alter table app.deliveries enable row level security;
alter table app.deliveries force row level security;
create policy tenant_rows on app.deliveries to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.deliveries to harkara_app;

create table app.delivery_attempts (
    tenant_id uuid not null,
    delivery_id uuid not null,
    number integer not null,
    started_at timestamp with time zone not null,
    duration_ms bigint not null,
    status_code integer,
    response_body text,
    error_code text,
    error_message text,
    cause text not null default 'event'::text,
    url text,
    header_names text[],
    address inet,
    response_headers jsonb,
    response_cut boolean not null default false,
    constraint delivery_attempts_pkey PRIMARY KEY (tenant_id, delivery_id, number),
    constraint delivery_attempts_tenant_id_delivery_id_fkey FOREIGN KEY (tenant_id, delivery_id) REFERENCES app.deliveries(tenant_id, id) ON DELETE CASCADE,
    constraint delivery_attempts_cause CHECK ((cause = ANY (ARRAY['event'::text, 'manual'::text, 'recovery'::text, 'test'::text])))
);
alter table app.delivery_attempts enable row level security;
alter table app.delivery_attempts force row level security;
create policy tenant_rows on app.delivery_attempts to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.delivery_attempts to harkara_app;

create table app.endpoint_hours (
    tenant_id uuid not null,
    endpoint_id uuid not null,
    hour timestamp with time zone not null,
    succeeded bigint not null default 0,
    failed bigint not null default 0,
    last_success_at timestamp with time zone,
    last_failure_at timestamp with time zone,
    durations bigint[] not null,
    constraint endpoint_hours_pkey PRIMARY KEY (tenant_id, endpoint_id, hour)
) with (fillfactor=50);
alter table app.endpoint_hours enable row level security;
alter table app.endpoint_hours force row level security;
create policy tenant_rows on app.endpoint_hours to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.endpoint_hours to harkara_app;

create table app.endpoint_secrets (
    tenant_id uuid not null,
    endpoint_id uuid not null,
    id uuid not null,
    sealed bytea not null,
    created_at timestamp with time zone not null default now(),
    expires_at timestamp with time zone,
    algorithm text not null default 'v1'::text,
    public_key text,
    constraint endpoint_secrets_pkey PRIMARY KEY (tenant_id, endpoint_id, id),
    constraint endpoint_secrets_tenant_id_endpoint_id_fkey FOREIGN KEY (tenant_id, endpoint_id) REFERENCES app.webhook_endpoints(tenant_id, id) ON DELETE CASCADE,
    constraint endpoint_secrets_algorithm_check CHECK ((algorithm = ANY (ARRAY['v1'::text, 'v1a'::text])))
);
alter table app.endpoint_secrets enable row level security;
alter table app.endpoint_secrets force row level security;
create policy tenant_rows on app.endpoint_secrets to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.endpoint_secrets to harkara_app;

create table app.event_types (
    tenant_id uuid not null,
    name text collate "C" not null,
    version integer not null,
    description text not null,
    schema jsonb,
    example jsonb,
    created_at timestamp with time zone not null default now(),
    constraint event_types_pkey PRIMARY KEY (tenant_id, name, version),
    constraint event_types_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id),
    constraint event_types_description_check CHECK ((length(description) <= 1000)),
    constraint event_types_name_check CHECK (((length(name) >= 1) AND (length(name) <= 128))),
    constraint event_types_schema_check CHECK ((jsonb_typeof(schema) = 'object'::text)),
    constraint event_types_version_check CHECK ((version >= 1))
);
alter table app.event_types enable row level security;
alter table app.event_types force row level security;
create policy tenant_rows on app.event_types to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant insert, select on app.event_types to harkara_app;

create table app.events (
    tenant_id uuid not null,
    id text not null,
    type text not null,
    data text,
    created_at timestamp with time zone not null default now(),
    channels text[] not null default '{}'::text[],
    ordering_key text,
    version integer,
    constraint events_pkey PRIMARY KEY (tenant_id, id),
    constraint events_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id),
    constraint events_id_check CHECK ((id ~ '^[A-Za-z0-9_-]{1,64}$'::text))
);
CREATE INDEX events_age ON app.events (tenant_id, created_at);
CREATE INDEX events_payloads ON app.events (tenant_id, created_at) WHERE (data IS NOT NULL);
alter table app.events enable row level security;
alter table app.events force row level security;
create policy tenant_rows on app.events to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.events to harkara_app;

create table app.idempotency (
    tenant_id uuid not null,
    subject text not null,
    method text not null,
    route text not null,
    key text not null,
    token uuid not null,
    fingerprint bytea not null,
    state text not null,
    rights text[] not null default '{}'::text[],
    status smallint,
    headers jsonb,
    body bytea,
    locked_until timestamp with time zone not null,
    expires_at timestamp with time zone not null,
    created_at timestamp with time zone not null default now(),
    constraint idempotency_pkey PRIMARY KEY (tenant_id, subject, method, route, key),
    constraint idempotency_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id),
    constraint idempotency_check CHECK (((state = 'done'::text) = ((status IS NOT NULL) AND (headers IS NOT NULL) AND (body IS NOT NULL)))),
    constraint idempotency_fingerprint_check CHECK ((length(fingerprint) = 32)),
    constraint idempotency_key_check CHECK (((length(key) >= 1) AND (length(key) <= 255))),
    constraint idempotency_state_check CHECK ((state = ANY (ARRAY['running'::text, 'committed'::text, 'done'::text])))
);
CREATE INDEX idempotency_expiry ON app.idempotency (tenant_id, expires_at);
alter table app.idempotency enable row level security;
alter table app.idempotency force row level security;
create policy engine_rows on app.idempotency to harkara_engine using (true) with check (true);
create policy tenant_rows on app.idempotency to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.idempotency to harkara_app;
grant delete, select, update on app.idempotency to harkara_engine;

create table app.leaders (
    role text not null,
    holder uuid not null,
    term bigint not null,
    expires_at timestamp with time zone not null,
    constraint leaders_pkey PRIMARY KEY (role)
);
grant insert, select, update on app.leaders to harkara_engine;

create table app.oidc_flows (
    state_hash bytea not null,
    browser_hash bytea not null,
    sealed bytea not null,
    expires_at timestamp with time zone not null,
    constraint oidc_flows_pkey PRIMARY KEY (state_hash),
    constraint oidc_flows_browser_hash_check CHECK ((length(browser_hash) = 32)),
    constraint oidc_flows_state_hash_check CHECK ((length(state_hash) = 32))
);
CREATE INDEX oidc_flows_expiry ON app.oidc_flows (expires_at);
grant delete, insert, select on app.oidc_flows to harkara_engine;

create table app.permissions (
    name text not null,
    area text not null,
    description text not null,
    constraint permissions_pkey PRIMARY KEY (name)
);
grant select on app.permissions to harkara_app;
grant select on app.permissions to harkara_engine;

create unlogged table app.request_counters (
    subject text collate "C" not null,
    policy text collate "C" not null,
    version bigint not null,
    strategy text not null,
    width bigint not null,
    begun bigint not null,
    touched bigint not null,
    whole_at bigint not null,
    place bigint not null,
    used bigint not null,
    slices integer[],
    constraint request_counters_pkey PRIMARY KEY (subject, policy, version),
    constraint request_counters_policy_check CHECK (((length(policy) >= 1) AND (length(policy) <= 40))),
    constraint request_counters_subject_check CHECK (((length(subject) >= 1) AND (length(subject) <= 400)))
) with (autovacuum_vacuum_threshold=1000, autovacuum_vacuum_scale_factor=0.1, autovacuum_vacuum_cost_delay=0);
grant delete, insert, select, update on app.request_counters to harkara_engine;

create table app.role_grants (
    tenant_id uuid not null,
    id uuid not null,
    user_id uuid not null,
    role text not null,
    not_before timestamp with time zone not null default now(),
    expires_at timestamp with time zone,
    granted_by text not null,
    reason text,
    created_at timestamp with time zone not null default now(),
    revoked_at timestamp with time zone,
    expiry_told boolean not null default false,
    constraint role_grants_pkey PRIMARY KEY (tenant_id, id),
    constraint role_grants_role_fkey FOREIGN KEY (role) REFERENCES app.roles(name),
    constraint role_grants_tenant_id_user_id_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES app.users(tenant_id, id) ON DELETE CASCADE,
    constraint role_grants_check CHECK ((expires_at > not_before)),
    constraint role_grants_reason_check CHECK (((length(reason) >= 1) AND (length(reason) <= 500)))
);
CREATE INDEX role_grants_expiry ON app.role_grants (tenant_id, expires_at) WHERE ((expires_at IS NOT NULL) AND (revoked_at IS NULL) AND (NOT expiry_told));
CREATE INDEX role_grants_user ON app.role_grants (tenant_id, user_id, id);
alter table app.role_grants enable row level security;
alter table app.role_grants force row level security;
create policy engine_rows on app.role_grants to harkara_engine using (true) with check (true);
create policy tenant_rows on app.role_grants to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.role_grants to harkara_app;
grant select, update on app.role_grants to harkara_engine;

create table app.role_parents (
    role text not null,
    parent text not null,
    constraint role_parents_pkey PRIMARY KEY (role, parent),
    constraint role_parents_parent_fkey FOREIGN KEY (parent) REFERENCES app.roles(name),
    constraint role_parents_role_fkey FOREIGN KEY (role) REFERENCES app.roles(name),
    constraint role_parents_check CHECK ((role <> parent))
);
grant select on app.role_parents to harkara_app;
grant select on app.role_parents to harkara_engine;

create table app.role_permissions (
    role text not null,
    permission text not null,
    constraint role_permissions_pkey PRIMARY KEY (role, permission),
    constraint role_permissions_permission_fkey FOREIGN KEY (permission) REFERENCES app.permissions(name),
    constraint role_permissions_role_fkey FOREIGN KEY (role) REFERENCES app.roles(name)
);
grant select on app.role_permissions to harkara_app;
grant select on app.role_permissions to harkara_engine;

create table app.roles (
    name text not null,
    description text not null,
    constraint roles_pkey PRIMARY KEY (name)
);
grant select on app.roles to harkara_app;
grant select on app.roles to harkara_engine;

create table app.schedules (
    tenant_id uuid not null,
    id uuid not null,
    name text not null,
    cron text not null,
    timezone text not null default 'UTC'::text,
    kind text not null,
    payload jsonb not null default '{}'::jsonb,
    paused boolean not null default false,
    next_slot timestamp with time zone,
    last_slot timestamp with time zone,
    created_at timestamp with time zone not null default now(),
    constraint schedules_pkey PRIMARY KEY (tenant_id, id),
    constraint schedules_id_key UNIQUE (id),
    constraint schedules_tenant_id_name_key UNIQUE (tenant_id, name),
    constraint schedules_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id),
    constraint schedules_name_check CHECK (((length(name) >= 1) AND (length(name) <= 100)))
);
CREATE INDEX schedules_next ON app.schedules (next_slot) WHERE (NOT paused);
alter table app.schedules enable row level security;
alter table app.schedules force row level security;
create policy engine_rows on app.schedules to harkara_engine using (true) with check (true);
create policy tenant_rows on app.schedules to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant select on app.schedules to harkara_app;
grant delete, insert, select, update on app.schedules to harkara_engine;

create table app.schema_functions (
    name text not null,
    checksum text not null,
    applied_at timestamp with time zone not null default now(),
    constraint schema_functions_pkey PRIMARY KEY (name)
);
grant select on app.schema_functions to harkara_app;
grant select on app.schema_functions to harkara_engine;

create table app.schema_state (
    one boolean not null default true,
    oldest_release text not null,
    functions_release text,
    functions_digest text,
    functions_history text[] not null default '{}'::text[],
    constraint schema_state_pkey PRIMARY KEY (one),
    constraint schema_state_one_check CHECK (one)
);
grant select on app.schema_state to harkara_app;
grant select on app.schema_state to harkara_engine;

create table app.seeded_event_types (
    name text collate "C" not null,
    description text not null,
    schema jsonb not null,
    example jsonb not null,
    operational boolean not null,
    created_at timestamp with time zone not null default now(),
    constraint seeded_event_types_pkey PRIMARY KEY (name)
);
grant select on app.seeded_event_types to harkara_app;

create table app.sessions (
    tenant_id uuid not null,
    id uuid not null,
    user_id uuid not null,
    token_hash bytea not null,
    method text not null,
    created_at timestamp with time zone not null default now(),
    last_seen_at timestamp with time zone not null default now(),
    expires_at timestamp with time zone not null,
    address text,
    user_agent text,
    confirmed_at timestamp with time zone not null default now(),
    ended_at timestamp with time zone,
    constraint sessions_pkey PRIMARY KEY (tenant_id, id),
    constraint sessions_token_hash_key UNIQUE (token_hash),
    constraint sessions_tenant_id_user_id_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES app.users(tenant_id, id) ON DELETE CASCADE,
    constraint sessions_method_check CHECK ((method = ANY (ARRAY['password'::text, 'link'::text, 'oidc'::text]))),
    constraint sessions_token_hash_check CHECK ((length(token_hash) = 32))
);
CREATE INDEX sessions_over ON app.sessions (tenant_id, LEAST(ended_at, expires_at));
CREATE INDEX sessions_user ON app.sessions (tenant_id, user_id, id);
alter table app.sessions enable row level security;
alter table app.sessions force row level security;
create policy engine_rows on app.sessions to harkara_engine using (true) with check (true);
create policy tenant_rows on app.sessions to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.sessions to harkara_app;
grant delete, select, update on app.sessions to harkara_engine;

create table app.sign_in_links (
    tenant_id uuid not null,
    id uuid not null,
    user_id uuid not null,
    token_hash bytea not null,
    created_by text not null,
    created_at timestamp with time zone not null default now(),
    expires_at timestamp with time zone not null,
    used_at timestamp with time zone,
    constraint sign_in_links_pkey PRIMARY KEY (tenant_id, id),
    constraint sign_in_links_token_hash_key UNIQUE (token_hash),
    constraint sign_in_links_tenant_id_user_id_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES app.users(tenant_id, id) ON DELETE CASCADE,
    constraint sign_in_links_token_hash_check CHECK ((length(token_hash) = 32))
);
CREATE INDEX sign_in_links_over ON app.sign_in_links (tenant_id, LEAST(used_at, expires_at));
CREATE INDEX sign_in_links_user ON app.sign_in_links (tenant_id, user_id, id);
alter table app.sign_in_links enable row level security;
alter table app.sign_in_links force row level security;
create policy engine_rows on app.sign_in_links to harkara_engine using (true) with check (true);
create policy tenant_rows on app.sign_in_links to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.sign_in_links to harkara_app;
grant delete, select, update on app.sign_in_links to harkara_engine;

create table app.tenants (
    id uuid not null,
    slug text not null,
    name text not null,
    sla_tier text not null,
    status text not null default 'active'::text,
    created_at timestamp with time zone not null default now(),
    paused boolean not null default false,
    erasure_asked_at timestamp with time zone,
    contract_endpoint_id uuid,
    updated_at timestamp with time zone not null default now(),
    constraint tenants_pkey PRIMARY KEY (id),
    constraint tenants_slug_key UNIQUE (slug),
    constraint tenants_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    constraint tenants_sla_tier_check CHECK ((sla_tier = ANY (ARRAY['FREE'::text, 'PRO'::text, 'ENTERPRISE'::text]))),
    constraint tenants_slug_check CHECK ((slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'::text)),
    constraint tenants_status_check CHECK ((status = ANY (ARRAY['active'::text, 'trialing'::text, 'past_due'::text, 'suspended'::text, 'pending_payment'::text, 'canceled'::text])))
);
alter table app.tenants enable row level security;
alter table app.tenants force row level security;
create policy engine_rows on app.tenants to harkara_engine using (true) with check (true);
create policy tenant_rows on app.tenants to harkara_app using ((id = app.current_tenant())) with check ((id = app.current_tenant()));
CREATE TRIGGER tenants_have_a_chain AFTER INSERT ON app.tenants FOR EACH ROW EXECUTE FUNCTION app.begin_audit_chain();
grant select on app.tenants to harkara_app;
grant insert, select, update on app.tenants to harkara_engine;
grant update (contract_endpoint_id) on app.tenants to harkara_app;

create table app.usage (
    tenant_id uuid not null,
    key_id uuid not null,
    month date not null,
    requests bigint not null,
    updated_at timestamp with time zone not null default now(),
    closed_at timestamp with time zone,
    constraint usage_pkey PRIMARY KEY (tenant_id, key_id, month),
    constraint usage_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id),
    constraint usage_month_check CHECK ((EXTRACT(day FROM month) = (1)::numeric)),
    constraint usage_requests_check CHECK ((requests >= 0))
);
CREATE INDEX usage_month ON app.usage (tenant_id, month);
alter table app.usage enable row level security;
alter table app.usage force row level security;
create policy engine_rows on app.usage to harkara_engine using (true) with check (true);
create policy tenant_rows on app.usage to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant select on app.usage to harkara_app;
grant delete, insert, select, update on app.usage to harkara_engine;

create table app.user_permissions (
    tenant_id uuid not null,
    id uuid not null,
    user_id uuid not null,
    permission text not null,
    effect text not null,
    not_before timestamp with time zone not null default now(),
    expires_at timestamp with time zone,
    granted_by text not null,
    reason text,
    created_at timestamp with time zone not null default now(),
    revoked_at timestamp with time zone,
    expiry_told boolean not null default false,
    constraint user_permissions_pkey PRIMARY KEY (tenant_id, id),
    constraint user_permissions_permission_fkey FOREIGN KEY (permission) REFERENCES app.permissions(name),
    constraint user_permissions_tenant_id_user_id_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES app.users(tenant_id, id) ON DELETE CASCADE,
    constraint user_permissions_check CHECK ((expires_at > not_before)),
    constraint user_permissions_effect_check CHECK ((effect = ANY (ARRAY['allow'::text, 'deny'::text]))),
    constraint user_permissions_reason_check CHECK (((length(reason) >= 1) AND (length(reason) <= 500)))
);
CREATE INDEX user_permissions_expiry ON app.user_permissions (tenant_id, expires_at) WHERE ((expires_at IS NOT NULL) AND (revoked_at IS NULL) AND (NOT expiry_told));
CREATE INDEX user_permissions_user ON app.user_permissions (tenant_id, user_id, id);
alter table app.user_permissions enable row level security;
alter table app.user_permissions force row level security;
create policy engine_rows on app.user_permissions to harkara_engine using (true) with check (true);
create policy tenant_rows on app.user_permissions to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.user_permissions to harkara_app;
grant select, update on app.user_permissions to harkara_engine;

create table app.users (
    tenant_id uuid not null,
    id uuid not null,
    email text not null,
    name text not null,
    password_hash text,
    totp_sealed bytea,
    totp_confirmed_at timestamp with time zone,
    totp_last_step bigint,
    oidc_issuer text,
    oidc_subject text,
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),
    last_sign_in_at timestamp with time zone,
    disabled_at timestamp with time zone,
    constraint users_pkey PRIMARY KEY (tenant_id, id),
    constraint users_id_key UNIQUE (id),
    constraint users_tenant_id_email_key UNIQUE (tenant_id, email),
    constraint users_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id),
    constraint users_check CHECK (((oidc_issuer IS NULL) = (oidc_subject IS NULL))),
    constraint users_email_check CHECK (((email = lower(email)) AND ((length(email) >= 3) AND (length(email) <= 254)) AND (email ~~ '%_@_%'::text))),
    constraint users_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200)))
);
CREATE INDEX users_email ON app.users (email);
CREATE INDEX users_subject ON app.users (oidc_issuer, oidc_subject) WHERE (oidc_subject IS NOT NULL);
alter table app.users enable row level security;
alter table app.users force row level security;
create policy engine_rows on app.users to harkara_engine using (true) with check (true);
create policy tenant_rows on app.users to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.users to harkara_app;
grant select on app.users to harkara_engine;

create table app.webhook_endpoints (
    tenant_id uuid not null,
    id uuid not null,
    url text not null,
    event_types text[] not null default '{}'::text[],
    headers jsonb not null default '{}'::jsonb,
    status text not null default 'active'::text,
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),
    description text,
    channels text[] not null default '{}'::text[],
    ordering text not null default 'none'::text,
    retry_delays integer[] not null default '{5,300,1800,7200,18000,36000,50400,72000,86400}'::integer[],
    rate_per_second integer,
    max_in_flight integer,
    client_certificate text,
    client_key bytea,
    oauth2 jsonb,
    oauth2_secret bytea,
    disabled_reason text,
    disabled_at timestamp with time zone,
    failing_since timestamp with time zone,
    failures integer not null default 0,
    alerted integer not null default 0,
    slowed_to integer,
    slowed_at timestamp with time zone,
    constraint webhook_endpoints_pkey PRIMARY KEY (tenant_id, id),
    constraint webhook_endpoints_id_key UNIQUE (id),
    constraint webhook_endpoints_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id),
    constraint webhook_endpoints_check CHECK (((client_certificate IS NULL) = (client_key IS NULL))),
    constraint webhook_endpoints_check1 CHECK (((oauth2 IS NOT NULL) OR (oauth2_secret IS NULL))),
    constraint webhook_endpoints_description_check CHECK ((length(description) <= 500)),
    constraint webhook_endpoints_max_in_flight_check CHECK ((max_in_flight > 0)),
    constraint webhook_endpoints_ordering_check CHECK ((ordering = ANY (ARRAY['none'::text, 'fifo'::text]))),
    constraint webhook_endpoints_rate_per_second_check CHECK ((rate_per_second > 0)),
    constraint webhook_endpoints_status_check CHECK ((status = ANY (ARRAY['active'::text, 'paused'::text, 'disabled'::text]))),
    constraint webhook_endpoints_url_check CHECK ((length(url) <= 2048))
);
alter table app.webhook_endpoints enable row level security;
alter table app.webhook_endpoints force row level security;
create policy tenant_rows on app.webhook_endpoints to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.webhook_endpoints to harkara_app;

create table app.webhook_settings (
    tenant_id uuid not null,
    payload_seconds integer not null,
    constraint webhook_settings_pkey PRIMARY KEY (tenant_id),
    constraint webhook_settings_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id),
    constraint webhook_settings_payload_seconds_check CHECK ((payload_seconds >= 3600))
);
alter table app.webhook_settings enable row level security;
alter table app.webhook_settings force row level security;
create policy tenant_rows on app.webhook_settings to harkara_app using ((tenant_id = app.current_tenant())) with check ((tenant_id = app.current_tenant()));
grant delete, insert, select, update on app.webhook_settings to harkara_app;

create table queue.attempts (
    job_id bigint not null,
    tenant integer not null,
    started_at timestamp with time zone not null,
    finished_at timestamp with time zone not null,
    next_run_at timestamp with time zone,
    worker_id uuid,
    outcome text not null,
    error_code text,
    error_message text,
    constraint attempts_outcome_check CHECK ((outcome = ANY (ARRAY['retry'::text, 'snoozed'::text, 'rate_limited'::text, 'dead'::text, 'cancelled'::text, 'lost'::text])))
) partition by RANGE (finished_at);
CREATE INDEX attempts_job ON ONLY queue.attempts (job_id, finished_at);
CREATE INDEX attempts_tenant ON ONLY queue.attempts (tenant, finished_at);
alter table queue.attempts enable row level security;
alter table queue.attempts force row level security;
create policy engine_rows on queue.attempts to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.attempts to harkara_app using ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant())))) with check ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant()))));
grant select on queue.attempts to harkara_app;
grant delete, insert, select, update on queue.attempts to harkara_engine;

create table queue.attempts_other partition of queue.attempts DEFAULT;
alter table queue.attempts_other enable row level security;
alter table queue.attempts_other force row level security;
create policy engine_rows on queue.attempts_other to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.attempts_other to harkara_app using ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant())))) with check ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant()))));
grant delete, select on queue.attempts_other to harkara_engine;

create table queue.catalogue (
    kind text not null,
    queue text not null,
    max_attempts smallint not null,
    timeout_ms bigint not null,
    backoff jsonb,
    platform_only boolean not null,
    shape jsonb not null,
    rules jsonb not null,
    constraint catalogue_pkey PRIMARY KEY (kind)
);
grant delete, insert, select, update on queue.catalogue to harkara_engine;

create table queue.clients (
    role text not null,
    tenant_id uuid,
    created_at timestamp with time zone not null default now(),
    constraint clients_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id)
);
CREATE UNIQUE INDEX clients_all ON queue.clients (role) WHERE (tenant_id IS NULL);
CREATE UNIQUE INDEX clients_tenant ON queue.clients (role, tenant_id) WHERE (tenant_id IS NOT NULL);
alter table queue.clients enable row level security;
alter table queue.clients force row level security;
create policy engine_rows on queue.clients to harkara_engine using (true) with check (true);
grant delete, insert, select, update on queue.clients to harkara_engine;

create table queue.deltas (
    xid xid8 not null default pg_current_xact_id(),
    minute timestamp with time zone not null default date_trunc('minute'::text, now()),
    tenant integer not null,
    queue integer not null,
    kind integer not null,
    scheduled integer not null default 0,
    ready integer not null default 0,
    running integer not null default 0,
    dead integer not null default 0,
    enqueued integer not null default 0,
    started integer not null default 0,
    succeeded integer not null default 0,
    retried integer not null default 0,
    died integer not null default 0,
    cancelled integer not null default 0,
    waits integer[],
    runs integer[],
    constraint deltas_runs_check CHECK ((cardinality(runs) = 19)),
    constraint deltas_waits_check CHECK ((cardinality(waits) = 19))
) with (autovacuum_vacuum_threshold=5000, autovacuum_vacuum_cost_delay=0, vacuum_truncate=false);
CREATE INDEX deltas_new ON queue.deltas (xid);
alter table queue.deltas enable row level security;
alter table queue.deltas force row level security;
create policy engine_rows on queue.deltas to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.deltas to harkara_app using ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant())))) with check ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant()))));
grant insert, select on queue.deltas to harkara_app;
grant delete, insert, select, update on queue.deltas to harkara_engine;

create table queue.history (
    tenant integer not null,
    span "char" not null,
    at timestamp with time zone not null,
    queue integer not null,
    kind integer not null,
    enqueued bigint not null default 0,
    started bigint not null default 0,
    succeeded bigint not null default 0,
    retried bigint not null default 0,
    died bigint not null default 0,
    cancelled bigint not null default 0,
    waits bigint[],
    runs bigint[],
    constraint history_pkey PRIMARY KEY (tenant, span, at, queue, kind),
    constraint history_span_check CHECK ((span = ANY (ARRAY['m'::"char", 'h'::"char"])))
) with (fillfactor=50);
CREATE INDEX history_moments ON queue.history (span, at);
alter table queue.history enable row level security;
alter table queue.history force row level security;
create policy engine_rows on queue.history to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.history to harkara_app using ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant())))) with check ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant()))));
grant select on queue.history to harkara_app;
grant delete, insert, select, update on queue.history to harkara_engine;

create table queue.kinds (
    id integer not null generated always as identity,
    name text not null,
    constraint kinds_pkey PRIMARY KEY (id),
    constraint kinds_name_key UNIQUE (name),
    constraint kinds_name_check CHECK ((name ~ '^[a-z][a-z0-9_.]{0,63}$'::text))
);
grant select on queue.kinds to harkara_app;
grant delete, insert, select, update on queue.kinds to harkara_engine;

create table queue.labels (
    tenant integer not null,
    name text not null,
    value text not null,
    job_id bigint not null,
    constraint labels_pkey PRIMARY KEY (tenant, name, value, job_id)
);
CREATE INDEX labels_job ON queue.labels (job_id);
alter table queue.labels enable row level security;
alter table queue.labels force row level security;
create policy engine_rows on queue.labels to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.labels to harkara_app using ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant())))) with check ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant()))));
grant delete, insert, select on queue.labels to harkara_app;
grant delete, insert, select, update on queue.labels to harkara_engine;

create table queue.lanes (
    id bigint not null generated always as identity,
    queue integer not null,
    tenant integer not null,
    key text not null default ''::text,
    weight smallint not null default 1,
    paused boolean not null default false,
    parked_until timestamp with time zone,
    used_at timestamp with time zone not null default now(),
    strict boolean not null default false,
    head bigint,
    limits text not null default ''::text,
    named bigint[] not null default '{}'::bigint[],
    costs integer[] not null default '{}'::integer[],
    limiter bigint,
    breaker "char" not null default 'c'::"char",
    breaker_after integer,
    breaker_rest interval,
    failures integer not null default 0,
    paused_at timestamp with time zone,
    parked_at timestamp with time zone,
    breaker_share smallint not null default 100,
    breaker_window interval not null default '00:05:00'::interval,
    tries integer not null default 0,
    window_from timestamp with time zone,
    constraint lanes_pkey PRIMARY KEY (id),
    constraint lanes_queue_tenant_key_strict_limits_key UNIQUE (queue, tenant, key, strict, limits),
    constraint lanes_limiter_fkey FOREIGN KEY (limiter) REFERENCES queue.limiters(id),
    constraint lanes_queue_fkey FOREIGN KEY (queue) REFERENCES queue.queues(id),
    constraint lanes_tenant_fkey FOREIGN KEY (tenant) REFERENCES queue.tenants(number),
    constraint lanes_breaker_after_check CHECK ((breaker_after > 0)),
    constraint lanes_breaker_check CHECK ((breaker = ANY (ARRAY['c'::"char", 'o'::"char", 'h'::"char"]))),
    constraint lanes_breaker_rest_check CHECK ((breaker_rest > '00:00:00'::interval)),
    constraint lanes_breaker_share_check CHECK (((breaker_share >= 1) AND (breaker_share <= 100))),
    constraint lanes_breaker_window_check CHECK ((breaker_window > '00:00:00'::interval)),
    constraint lanes_check CHECK ((cardinality(named) = cardinality(costs))),
    constraint lanes_check1 CHECK (((breaker_after IS NULL) = (breaker_rest IS NULL))),
    constraint lanes_key_check CHECK ((length(key) <= 256)),
    constraint lanes_named_check CHECK ((cardinality(named) <= 3)),
    constraint lanes_weight_check CHECK (((weight >= 1) AND (weight <= 1000)))
) with (fillfactor=50);
CREATE INDEX lanes_limiter ON queue.lanes (limiter) WHERE (limiter IS NOT NULL);
alter table queue.lanes enable row level security;
alter table queue.lanes force row level security;
create policy engine_rows on queue.lanes to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.lanes to harkara_app using ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant())))) with check ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant()))));
grant select on queue.lanes to harkara_app;
grant delete, insert, select, update on queue.lanes to harkara_engine;
grant update (head) on queue.lanes to harkara_app;

create table queue.leases (
    id bigint not null generated always as identity,
    worker_id uuid not null,
    expires_at timestamp with time zone not null,
    closed_at timestamp with time zone,
    constraint leases_pkey PRIMARY KEY (id),
    constraint leases_worker_id_fkey FOREIGN KEY (worker_id) REFERENCES queue.workers(id) ON DELETE CASCADE
) with (fillfactor=50);
CREATE INDEX leases_open ON queue.leases (expires_at) WHERE (closed_at IS NULL);
grant delete, insert, select, update on queue.leases to harkara_engine;
grant select (id, worker_id) on queue.leases to harkara_app;

create table queue.limiters (
    id bigint not null generated always as identity,
    tenant integer,
    key text,
    max_running integer,
    running integer not null default 0,
    rate_count integer,
    rate_period interval,
    rate_burst integer,
    rate_every interval generated always as (make_interval(secs => ((ceil(((EXTRACT(epoch FROM rate_period) * (1000000)::numeric) / (rate_count)::numeric)))::double precision / (1000000)::double precision))) stored,
    rate_tat timestamp with time zone not null default '-infinity'::timestamp with time zone,
    used_at timestamp with time zone not null default now(),
    constraint limiters_pkey PRIMARY KEY (id),
    constraint limiters_tenant_key_key UNIQUE (tenant, key),
    constraint limiters_tenant_fkey FOREIGN KEY (tenant) REFERENCES queue.tenants(number),
    constraint limiters_check CHECK ((((rate_count IS NULL) = (rate_period IS NULL)) AND ((rate_count IS NULL) = (rate_burst IS NULL)))),
    constraint limiters_key_check CHECK (((length(key) >= 1) AND (length(key) <= 256))),
    constraint limiters_max_running_check CHECK ((max_running > 0)),
    constraint limiters_rate_burst_check CHECK ((rate_burst > 0)),
    constraint limiters_rate_count_check CHECK ((rate_count > 0)),
    constraint limiters_rate_period_check CHECK ((rate_period > '00:00:00'::interval)),
    constraint limiters_running_check CHECK ((running >= 0))
) with (fillfactor=50);
CREATE INDEX limiters_set ON queue.limiters (tenant, key) WHERE ((key IS NOT NULL) AND ((max_running IS NOT NULL) OR (rate_count IS NOT NULL)));
alter table queue.limiters enable row level security;
alter table queue.limiters force row level security;
create policy engine_rows on queue.limiters to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.limiters to harkara_app using ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant())))) with check (false);
grant select on queue.limiters to harkara_app;
grant delete, insert, select, update on queue.limiters to harkara_engine;

create table queue.parcels (
    id bigint not null default nextval('queue.parcel_id'::regclass),
    lane bigint not null,
    run_at timestamp with time zone not null,
    created_at timestamp with time zone not null default now(),
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    lease bigint,
    token bigint,
    queue integer not null,
    tenant integer not null,
    kind integer not null,
    priority smallint not null,
    attempt smallint not null default 0,
    max_attempts smallint not null,
    deferrals smallint not null default 0,
    lo smallint not null default 0,
    n smallint not null default 1,
    state "char" not null,
    keyed boolean not null default false,
    ids bigint[],
    acked smallint[],
    error_code text,
    error_message text,
    results jsonb[],
    body bytea[] not null,
    part smallint not null default 0,
    strict boolean not null default false,
    lost boolean not null default false,
    created timestamp with time zone[],
    due timestamp with time zone[],
    acked_at timestamp with time zone[],
    gone smallint[],
    cancelling smallint[],
    limiters bigint[],
    probe boolean not null default false,
    expires_at timestamp with time zone,
    bytes integer,
    constraint parcels_pkey PRIMARY KEY (tenant, id, part),
    constraint parcels_check CHECK (((lo + n) <= 1024)),
    constraint parcels_check1 CHECK (((state = 'r'::"char") = (token IS NOT NULL))),
    constraint parcels_max_attempts_check CHECK ((max_attempts > 0)),
    constraint parcels_n_check CHECK (((n >= 1) AND (n <= 500))),
    constraint parcels_priority_check CHECK (((priority >= 0) AND (priority <= 9))),
    constraint parcels_state_check CHECK ((state = ANY (ARRAY['s'::"char", 'a'::"char", 'r'::"char", 'd'::"char", 'x'::"char", 'c'::"char"])))
) with (fillfactor=90, autovacuum_vacuum_threshold=5000, autovacuum_vacuum_scale_factor=0.02, autovacuum_vacuum_cost_delay=0);
CREATE INDEX parcels_aside ON queue.parcels (tenant, state, id) WHERE (state = ANY (ARRAY['s'::"char", 'x'::"char", 'c'::"char"]));
CREATE INDEX parcels_cancelling ON queue.parcels (lease) WHERE ((state = 'r'::"char") AND (cancelling IS NOT NULL));
CREATE INDEX parcels_coming ON queue.parcels (lane) WHERE (state = ANY (ARRAY['s'::"char", 'x'::"char", 'c'::"char"]));
CREATE INDEX parcels_due ON queue.parcels (run_at) WHERE (state = 's'::"char");
CREATE INDEX parcels_expiring ON queue.parcels (expires_at) WHERE ((state = ANY (ARRAY['s'::"char", 'a'::"char"])) AND (expires_at IS NOT NULL) AND (started_at IS NULL));
CREATE INDEX parcels_finished ON queue.parcels (state, finished_at) WHERE (finished_at IS NOT NULL);
CREATE INDEX parcels_lost ON queue.parcels (queue, run_at) WHERE ((state = 'a'::"char") AND lost);
CREATE INDEX parcels_ready ON queue.parcels (queue, lane, priority, run_at, id) WHERE ((state = 'a'::"char") AND (NOT lost));
CREATE INDEX parcels_running ON queue.parcels (lease) WHERE (state = 'r'::"char");
alter table queue.parcels enable row level security;
alter table queue.parcels force row level security;
create policy engine_rows on queue.parcels to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.parcels to harkara_app using ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant())))) with check ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant()))));
grant insert, select on queue.parcels to harkara_app;
grant delete, insert, select, update on queue.parcels to harkara_engine;
grant update (run_at, finished_at, lease, token, attempt, deferrals, state, lost, gone, cancelling, limiters, probe, expires_at) on queue.parcels to harkara_app;

create table queue.progress (
    job_id bigint not null,
    tenant integer not null,
    progress jsonb not null,
    updated_at timestamp with time zone not null default now(),
    run bigint,
    constraint progress_pkey PRIMARY KEY (job_id)
) with (fillfactor=50);
CREATE INDEX progress_tenant ON queue.progress (tenant);
alter table queue.progress enable row level security;
alter table queue.progress force row level security;
create policy engine_rows on queue.progress to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.progress to harkara_app using ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant())))) with check ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant()))));
grant delete, insert, select, update on queue.progress to harkara_app;
grant delete, insert, select, update on queue.progress to harkara_engine;

create table queue.published (
    one boolean not null default true,
    version integer not null default 0,
    digest text not null default ''::text,
    notify boolean not null default true,
    constraint published_pkey PRIMARY KEY (one),
    constraint published_one_check CHECK (one)
);
grant select, update on queue.published to harkara_engine;

create table queue.queues (
    id integer not null generated always as identity,
    name text not null,
    paused boolean not null default false,
    limiter bigint,
    paused_at timestamp with time zone,
    constraint queues_pkey PRIMARY KEY (id),
    constraint queues_name_key UNIQUE (name),
    constraint queues_limiter_fkey FOREIGN KEY (limiter) REFERENCES queue.limiters(id),
    constraint queues_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9_.-]{0,63}$'::text))
);
grant select on queue.queues to harkara_app;
grant delete, insert, select, update on queue.queues to harkara_engine;

create table queue.rollup_state (
    one boolean not null default true,
    last_snapshot pg_snapshot not null,
    constraint rollup_state_pkey PRIMARY KEY (one),
    constraint rollup_state_one_check CHECK (one)
) with (fillfactor=10);
grant select on queue.rollup_state to harkara_app;
grant select, update on queue.rollup_state to harkara_engine;

create table queue.shares (
    queue integer not null,
    tenant integer not null,
    served double precision not null default 0,
    used_at timestamp with time zone not null default now(),
    constraint shares_pkey PRIMARY KEY (queue, tenant)
) with (fillfactor=50);
alter table queue.shares enable row level security;
alter table queue.shares force row level security;
create policy engine_rows on queue.shares to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.shares to harkara_app using ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant())))) with check (false);
grant delete, insert, select, update on queue.shares to harkara_engine;

create table queue.tallies (
    tenant integer not null,
    queue integer not null,
    kind integer not null,
    scheduled bigint not null default 0,
    ready bigint not null default 0,
    running bigint not null default 0,
    dead bigint not null default 0,
    constraint tallies_pkey PRIMARY KEY (tenant, queue, kind)
) with (fillfactor=50);
alter table queue.tallies enable row level security;
alter table queue.tallies force row level security;
create policy engine_rows on queue.tallies to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.tallies to harkara_app using ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant())))) with check ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant()))));
grant select on queue.tallies to harkara_app;
grant delete, insert, select, update on queue.tallies to harkara_engine;

create table queue.tenants (
    number integer not null generated always as identity,
    id uuid not null,
    limiter bigint,
    weight smallint not null default 1,
    paused boolean not null default false,
    paused_at timestamp with time zone,
    max_waiting bigint,
    erasing xid8,
    constraint tenants_pkey PRIMARY KEY (number),
    constraint tenants_id_key UNIQUE (id),
    constraint tenants_limiter_fkey FOREIGN KEY (limiter) REFERENCES queue.limiters(id),
    constraint tenants_max_waiting_check CHECK ((max_waiting >= 0)),
    constraint tenants_weight_check CHECK (((weight >= 1) AND (weight <= 1000)))
);
CREATE INDEX tenants_limiter ON queue.tenants (limiter) WHERE (limiter IS NOT NULL);
alter table queue.tenants enable row level security;
alter table queue.tenants force row level security;
create policy engine_rows on queue.tenants to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.tenants to harkara_app using (((id = app.current_tenant()) AND (erasing IS NULL))) with check (false);
grant select on queue.tenants to harkara_app;
grant delete, insert, select, update on queue.tenants to harkara_engine;

create table queue.unique_keys (
    tenant integer not null,
    kind integer not null,
    key text not null,
    job_id bigint not null,
    expires_at timestamp with time zone not null,
    constraint unique_keys_pkey PRIMARY KEY (tenant, kind, key),
    constraint unique_keys_key_check CHECK (((length(key) >= 1) AND (length(key) <= 256)))
);
CREATE INDEX unique_keys_expiry ON queue.unique_keys (expires_at) WHERE (expires_at < 'infinity'::timestamp with time zone);
CREATE INDEX unique_keys_job ON queue.unique_keys (job_id);
alter table queue.unique_keys enable row level security;
alter table queue.unique_keys force row level security;
create policy engine_rows on queue.unique_keys to harkara_engine using (true) with check (true);
create policy tenant_rows on queue.unique_keys to harkara_app using ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant())))) with check ((tenant = ( SELECT tenants.number FROM queue.tenants WHERE (tenants.id = app.current_tenant()))));
grant delete, insert, select, update on queue.unique_keys to harkara_app;
grant delete, insert, select, update on queue.unique_keys to harkara_engine;

create table queue.workers (
    id uuid not null,
    host text not null,
    pid integer not null,
    version text not null,
    queues jsonb not null,
    started_at timestamp with time zone not null default now(),
    last_seen_at timestamp with time zone not null default now(),
    stopped_at timestamp with time zone,
    constraint workers_pkey PRIMARY KEY (id)
);
grant delete, insert, select, update on queue.workers to harkara_engine;

-- app.append_audit_entry(uuid,text,text,text,text,text,text,text,text,jsonb,jsonb,text) returns bigint security definer
--     executable by: harkara_app, harkara_engine

-- app.begin_audit_chain() returns trigger security definer
--     executable by: the owner

-- app.charge_requests(text,text[],text[],bigint[],bigint[],bigint[],integer,integer,bigint,integer,bigint,timestamp with time zone) returns TABLE(granted integer, remaining bigint, reset bigint, retry bigint, hold bigint, moment bigint)
--     executable by: harkara_engine

-- app.current_tenant() returns uuid
--     executable by: harkara_app, harkara_engine, public

-- app.effective_permissions(uuid,uuid) returns TABLE(roles text[], permissions text[])
--     executable by: harkara_app, harkara_engine, public

-- app.erase_rows(uuid,text,integer) returns bigint security definer
--     executable by: harkara_engine

-- app.erase_tenant(uuid) returns TABLE(slug text, name text, seq bigint, hash bytea) security definer
--     executable by: harkara_engine

-- app.hash_audit_entry(bytea,app.audit_log) returns bytea
--     executable by: public

-- app.open_export_cursor(text,text[]) returns void
--     executable by: harkara_app

-- app.refuse_audit_change() returns trigger
--     executable by: public

-- app.verify_audit_chain(uuid,bigint,bytea,integer) returns TABLE(checked bigint, seq bigint, hash bytea, faults jsonb)
--     executable by: public

-- queue.add_class_counts(bigint[],bigint[]) returns bigint[]
--     executable by: harkara_engine

-- queue.body_bytes(bytea[]) returns integer
--     executable by: harkara_app, harkara_engine

-- queue.cancel_expired_jobs(integer) returns integer
--     executable by: harkara_engine

-- queue.cancel_jobs(bigint[],boolean) returns TABLE(job bigint, state text, changed boolean, holder bigint)
--     executable by: harkara_app, harkara_engine

-- queue.check_value(jsonb,jsonb,text) returns jsonb
--     executable by: harkara_engine

-- queue.claim(integer,bigint,bigint,bigint[],integer[],integer[],smallint[],timestamp with time zone[],integer,integer,integer,boolean) returns TABLE(lane bigint, closed boolean, wait_ms bigint, spent boolean, drawn integer, id bigint, part smallint, tenant integer, kind integer, priority smallint, attempt smallint, max_attempts smallint, deferrals smallint, lo smallint, n smallint, ids bigint[], gone smallint[], run_at timestamp with time zone, started_at timestamp with time zone, lost boolean, parks boolean, body bytea[])
--     executable by: harkara_engine

-- queue.claim_unlimited(integer,bigint,bigint,bigint[],integer[],integer[],smallint[],timestamp with time zone[],bigint[],bigint[],integer,integer,boolean,timestamp with time zone) returns TABLE(lane bigint, closed boolean, wait_ms bigint, spent boolean, drawn integer, id bigint, part smallint, tenant integer, kind integer, priority smallint, attempt smallint, max_attempts smallint, deferrals smallint, lo smallint, n smallint, ids bigint[], gone smallint[], run_at timestamp with time zone, started_at timestamp with time zone, lost boolean, parks boolean, body bytea[])
--     executable by: harkara_engine

-- queue.clear_empty_parcels(bigint[],smallint[]) returns void security definer
--     executable by: harkara_app, harkara_engine

-- queue.client_tenant(text) returns app.tenants
--     executable by: the owner

-- queue.count_jobs() returns TABLE(tenant integer, queue integer, kind integer, scheduled bigint, ready bigint, running bigint, dead bigint)
--     executable by: harkara_engine

-- queue.count_running(bigint) returns integer
--     executable by: harkara_engine

-- queue.count_waiting(integer) returns bigint security definer
--     executable by: harkara_app, harkara_engine

-- queue.delete_jobs(bigint[]) returns TABLE(job bigint, state text, changed boolean, holder bigint)
--     executable by: harkara_app, harkara_engine

-- queue.delete_parcels(tid[]) returns bigint security definer
--     executable by: harkara_app, harkara_engine

-- queue.enqueue(text,jsonb,text,text,integer,timestamp with time zone,interval,text,interval,text,integer,interval,jsonb,text[],jsonb,timestamp with time zone) returns queue.enqueued security definer
--     executable by: harkara_client

-- queue.enqueue_jobs(text,jsonb,text) returns TABLE(place integer, job bigint, existing boolean, state "char", run_at timestamp with time zone)
--     executable by: harkara_engine

-- queue.enqueue_many(jsonb,text) returns SETOF queue.enqueued security definer
--     executable by: harkara_client

-- queue.erase_begin(uuid) returns integer
--     executable by: harkara_engine

-- queue.erase_end(integer) returns boolean
--     executable by: harkara_engine

-- queue.erase_jobs(integer,bigint,integer) returns TABLE(seen bigint, jobs bigint, last bigint)
--     executable by: harkara_engine

-- queue.erase_rows(integer,text,integer) returns bigint
--     executable by: harkara_engine

-- queue.erase_running(integer,boolean) returns bigint
--     executable by: harkara_engine

-- queue.explain(bigint) returns jsonb security definer
--     executable by: harkara_app, harkara_engine

-- queue.field_error(text,text,text) returns jsonb
--     executable by: harkara_engine

-- queue.find_client_tenant(text) returns app.tenants
--     executable by: harkara_engine

-- queue.find_counter_drift() returns TABLE(tenant integer, queue integer, kind integer, state text, recorded bigint, counted bigint)
--     executable by: harkara_engine

-- queue.find_jobs(bigint[]) returns TABLE(job bigint, tenant integer, id bigint, part smallint, member smallint)
--     executable by: harkara_app, harkara_engine

-- queue.find_unstorable_value(jsonb,text,integer) returns jsonb
--     executable by: harkara_engine

-- queue.format_duration(interval) returns text
--     executable by: harkara_engine

-- queue.format_job_id(bigint) returns text
--     executable by: harkara_engine

-- queue.grant_client(text,uuid) returns boolean
--     executable by: harkara_engine

-- queue.group_jobs_by_row(bigint[],tid[],smallint[]) returns TABLE(place tid, jobs bigint[], members smallint[], whole boolean, last boolean, tenant integer, id bigint, part smallint, lane bigint, queue integer, kind integer, state "char", strict boolean, keyed boolean, acked smallint[])
--     executable by: harkara_app, harkara_engine

-- queue.half_open_lanes(bigint[]) returns bigint[]
--     executable by: harkara_engine

-- queue.intern_lane(integer,integer,text,text[],integer[]) returns record
--     executable by: harkara_engine

-- queue.job_id(bigint,smallint,bigint[],integer) returns bigint
--     executable by: harkara_app, harkara_engine

-- queue.lease_rows(tid[],bigint[],bigint,bigint,boolean,timestamp with time zone) returns SETOF queue.parcels
--     executable by: harkara_engine

-- queue.limiter_of_lane(integer,integer,text,boolean,boolean) returns TABLE(limiter bigint, made boolean)
--     executable by: harkara_engine

-- queue.limiter_of_queue(text,boolean) returns TABLE(number integer, limiter bigint, made boolean)
--     executable by: harkara_engine

-- queue.limiter_of_tenant(integer,boolean) returns TABLE(limiter bigint, made boolean)
--     executable by: harkara_engine

-- queue.list_jobs(uuid,bigint,bigint,text,text,text,timestamp with time zone,timestamp with time zone,text,bigint) returns TABLE(job bigint, below bigint)
--     executable by: harkara_app, harkara_engine

-- queue.lock_jobs(bigint[]) returns TABLE(job bigint, place tid, member smallint, state "char", runs boolean, keyed boolean)
--     executable by: harkara_app, harkara_engine

-- queue.longest_waiting_priority(integer,bigint,timestamp with time zone) returns smallint
--     executable by: harkara_engine

-- queue.move_jobs(bigint[],text[],timestamp with time zone,boolean) returns TABLE(job bigint, state text, changed boolean, holder bigint)
--     executable by: harkara_app, harkara_engine

-- queue.next_in_strict_lane(integer,bigint,integer,bigint,boolean,timestamp with time zone) returns record
--     executable by: harkara_engine

-- queue.oldest_ready(integer[],integer,integer) returns TABLE(queue integer, run_at timestamp with time zone)
--     executable by: harkara_engine

-- queue.parse_duration(text) returns numeric
--     executable by: harkara_engine

-- queue.parse_tenant_id(text) returns uuid
--     executable by: harkara_engine

-- queue.parse_timestamp(text) returns timestamp with time zone
--     executable by: harkara_engine

-- queue.pending_deltas(integer) returns SETOF queue.deltas
--     executable by: harkara_app, harkara_engine

-- queue.pointer_token(text) returns text
--     executable by: harkara_engine

-- queue.prepare_lanes(uuid) returns void
--     executable by: harkara_engine

-- queue.publish_catalogue(integer,boolean,jsonb) returns boolean
--     executable by: harkara_engine

-- queue.read_job(jsonb,integer,text,boolean) returns queue.draft
--     executable by: harkara_engine

-- queue.record_lane_outcome(bigint,integer,integer,text,bigint) returns void
--     executable by: harkara_engine

-- queue.record_state_changes(integer[],integer[],integer[],text[],text[],integer[]) returns void
--     executable by: harkara_app, harkara_engine

-- queue.recount() returns bigint
--     executable by: harkara_engine

-- queue.release_holds(bigint[],integer[],bigint[],bigint[],bigint[]) returns void
--     executable by: harkara_engine

-- queue.rescue_lost_parcels(integer) returns TABLE(seen bigint, rescued bigint, dead bigint)
--     executable by: harkara_engine

-- queue.retry_jobs(bigint[],boolean) returns TABLE(job bigint, state text, changed boolean, holder bigint)
--     executable by: harkara_app, harkara_engine

-- queue.revoke_client(text,uuid) returns bigint
--     executable by: harkara_engine

-- queue.roll_up_counters(integer) returns integer
--     executable by: harkara_engine

-- queue.rotate_partitions(integer,interval) returns integer security definer
--     executable by: harkara_engine

-- queue.set_limit(bigint,jsonb) returns TABLE(fault text, passed_over integer)
--     executable by: harkara_engine

-- queue.settle(integer[],bigint[],smallint[],bigint[],text[],boolean[],jsonb[],integer[],bigint[],integer[],smallint[],jsonb[],integer[],smallint[],bigint[],text[],bigint[],boolean[],boolean[],smallint[],text[],text[],text[],integer[],integer[],integer[],integer[],integer[]) returns integer[]
--     executable by: harkara_engine

-- queue.split_parcel(tid,integer) returns tid
--     executable by: harkara_engine

-- queue.state_word("char") returns text
--     executable by: harkara_engine

-- queue.wait_for_claims() returns void
--     executable by: harkara_engine
