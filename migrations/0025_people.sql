-- People: who they are, how they sign in, what they may do.
-- Locks: new objects only; SHARE ROW EXCLUSIVE on app.tenants for the moment in which tables that point
-- to it are made. Previous release: knows no people, and goes on with keys alone.
--
-- Permissions and roles are the same for all tenants, and data rather than code, so that a role can be
-- read, joined and shown. What a permission opens in the API is said by the API.

create table app.permissions (
    name text primary key,
    area text not null,
    description text not null
);

create table app.roles (
    name text primary key,
    description text not null
);

-- A role has all that its parents have.
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

insert into app.permissions (name, area, description)
select area || ':' || verb, area, case verb when 'read' then 'See ' else 'Change ' end || words
from (values
    ('messages', 'messages, and who agreed to get them'),
    ('leads', 'leads'),
    ('sales', 'sales'),
    ('templates', 'templates of messages'),
    ('accounts', 'the people of the tenant'),
    ('jobs', 'jobs, queues, schedules and webhooks'),
    ('backups', 'backups'),
    ('reports', 'reports'),
    ('trunks', 'telephone trunks'),
    ('billing', 'what is paid'),
    ('admin', 'the tenant itself: its keys, limits and audit log')
) areas (area, words)
cross join (values ('read'), ('manage')) verbs (verb);

insert into app.roles (name, description) values
    ('viewer', 'Sees all but bills and administration'),
    ('sales_rep', 'Writes to leads and sells'),
    ('team_lead', 'Also keeps templates and reports'),
    ('manager', 'Also looks after people; sees bills and administration'),
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

-- A person belongs to one tenant; the same address may belong to a person of each of several.
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
    -- Null while the first code has not been told: the authenticator counts from then on.
    totp_confirmed_at timestamptz,
    -- Of the last code that was taken: none is taken twice.
    totp_last_step int8,
    -- Who the person is to the provider. Set by the first sign-in through it.
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
-- Who signs in is found before the tenant is known.
create index users_email on app.users (email);
create index users_subject on app.users (oidc_issuer, oidc_subject) where oidc_subject is not null;

create table app.role_grants (
    tenant_id uuid not null,
    id uuid not null,
    user_id uuid not null,
    role text not null references app.roles,
    not_before timestamptz not null default now(),
    expires_at timestamptz,
    -- Id of the person or key.
    granted_by text not null,
    reason text check (length(reason) between 1 and 500),
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    -- Its expiry stands in the audit log.
    expiry_told boolean not null default false,
    primary key (tenant_id, id),
    foreign key (tenant_id, user_id) references app.users on delete cascade,
    check (expires_at > not_before)
);
create index role_grants_user on app.role_grants (tenant_id, user_id, id);
create index role_grants_expiry on app.role_grants (tenant_id, expires_at)
    where expires_at is not null and revoked_at is null and not expiry_told;

create table app.user_permissions (
    tenant_id uuid not null,
    id uuid not null,
    user_id uuid not null,
    permission text not null references app.permissions,
    effect text not null check (effect in ('allow', 'deny')),
    not_before timestamptz not null default now(),
    expires_at timestamptz,
    granted_by text not null,
    reason text check (length(reason) between 1 and 500),
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
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
    -- How the person signed in.
    method text not null check (method in ('password', 'link', 'oidc')),
    created_at timestamptz not null default now(),
    -- To the minute.
    last_seen_at timestamptz not null default now(),
    expires_at timestamptz not null,
    address text,
    user_agent text,
    -- When the person last proved who they are.
    confirmed_at timestamptz not null default now(),
    ended_at timestamptz,
    primary key (tenant_id, id),
    foreign key (tenant_id, user_id) references app.users on delete cascade
);
create index sessions_user on app.sessions (tenant_id, user_id, id);

create table app.sign_in_links (
    tenant_id uuid not null,
    id uuid not null,
    user_id uuid not null,
    token_hash bytea not null unique check (length(token_hash) = 32),
    -- Id of the person or key.
    created_by text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    used_at timestamptz,
    primary key (tenant_id, id),
    foreign key (tenant_id, user_id) references app.users on delete cascade
);
create index sign_in_links_user on app.sign_in_links (tenant_id, user_id, id);

-- Sign-ins that are under way at the provider. They belong to nobody yet.
create table app.oidc_flows (
    -- SHA-256 of `state`.
    state_hash bytea primary key check (length(state_hash) = 32),
    -- SHA-256 of what the browser that began it keeps.
    browser_hash bytea not null check (length(browser_hash) = 32),
    -- Nonce and PKCE verifier, sealed; associated data is 'app.oidc_flows/<state_hash in hex>'.
    sealed bytea not null,
    expires_at timestamptz not null
);
create index oidc_flows_expiry on app.oidc_flows (expires_at);

-- What a person may do at this moment: the roles granted to them, and the permissions of those roles and
-- of all that these inherit, with what is allowed to the person and without what is denied: deny wins.
create function app.standing(p_tenant uuid, p_user uuid)
returns table (roles text[], permissions text[])
language sql stable set search_path = pg_catalog, pg_temp as $$
    with recursive granted as (
        select distinct g.role from app.role_grants g
        where g.tenant_id = p_tenant and g.user_id = p_user and g.revoked_at is null
            and g.not_before <= now() and (g.expires_at is null or g.expires_at > now())
    ),
    held (role) as (
        select role from granted
        union
        select p.parent from held h join app.role_parents p on p.role = h.role
    ),
    said as (
        select o.permission, o.effect from app.user_permissions o
        where o.tenant_id = p_tenant and o.user_id = p_user and o.revoked_at is null
            and o.not_before <= now() and (o.expires_at is null or o.expires_at > now())
    ),
    resolved (name) as (
        (
            select p.permission from held h join app.role_permissions p on p.role = h.role
            union
            select permission from said where effect = 'allow'
        )
        except
        select permission from said where effect = 'deny'
    )
    select array(select role from granted order by role), array(select name from resolved order by name)
$$;

do $$
declare
    target text;
begin
    foreach target in array array[
        'users', 'role_grants', 'user_permissions', 'sessions', 'sign_in_links'
    ] loop
        execute format('alter table app.%I enable row level security', target);
        execute format('alter table app.%I force row level security', target);
        execute format(
            'create policy tenant_rows on app.%I to harkara_app
             using (tenant_id = app.current_tenant()) with check (tenant_id = app.current_tenant())',
            target
        );
        -- Who calls is found before the tenant is known, and grants expire in all tenants.
        execute format(
            'create policy engine_rows on app.%I to harkara_engine using (true) with check (true)',
            target
        );
    end loop;
end
$$;

grant select on app.permissions, app.roles, app.role_parents, app.role_permissions
    to harkara_app, harkara_engine;
grant select, insert, update, delete on
    app.users, app.role_grants, app.user_permissions, app.sessions, app.sign_in_links
    to harkara_app;
grant select on app.users, app.sign_in_links to harkara_engine;
grant select, update on app.sessions, app.role_grants, app.user_permissions to harkara_engine;
grant select, insert, delete on app.oidc_flows to harkara_engine;
grant execute on function app.standing(uuid, uuid) to harkara_app, harkara_engine;
