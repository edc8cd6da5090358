-- What became of requests that bear an idempotency key, for as long as the key holds.
-- Locks: new objects only. Previous release: does not know the header and goes on; a key holds once all of
-- the API runs this release.
--
-- A row is reserved before its request is carried out, with a token of its own. The transaction that
-- carries the request out marks it `committed`, so that a process that dies at any moment leaves a row that
-- tells the truth; `done` holds the answer. Whoever takes over a row whose lock has run out gives it a new
-- token, so that the one before can commit nothing more.

create table app.idempotency (
    tenant_id uuid not null references app.tenants,
    -- Id of the key or the person that asks.
    subject text not null,
    method text not null,
    -- The route's template.
    route text not null,
    key text not null check (length(key) between 1 and 255),
    token uuid not null,
    -- SHA-256 of the request.
    fingerprint bytea not null check (length(fingerprint) = 32),
    state text not null check (state in ('running', 'committed', 'done')),
    -- What the caller might do when it asked: who is given the answer again may do as much.
    rights text[] not null default '{}',
    status int2,
    -- Those of the answer that are given again.
    headers jsonb,
    -- Sealed with the master key, since answers may hold secrets; associated data is
    -- 'app.idempotency/<tenant>/<token>'.
    body bytea,
    locked_until timestamptz not null,
    expires_at timestamptz not null,
    created_at timestamptz not null default now(),
    primary key (tenant_id, subject, method, route, key),
    check ((state = 'done') = (status is not null and headers is not null and body is not null))
);
create index idempotency_expiry on app.idempotency (tenant_id, expires_at);

alter table app.idempotency enable row level security;
alter table app.idempotency force row level security;
create policy tenant_rows on app.idempotency to harkara_app
    using (tenant_id = app.current_tenant()) with check (tenant_id = app.current_tenant());
-- What concerns all tenants, such as making one, is committed in transactions across tenants; rows that
-- have expired are removed so.
create policy engine_rows on app.idempotency to harkara_engine using (true) with check (true);

grant select, insert, update, delete on app.idempotency to harkara_app;
grant select, update, delete on app.idempotency to harkara_engine;
