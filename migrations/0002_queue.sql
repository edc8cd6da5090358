-- The engine: parcels, lanes, leases, attempts and the names they intern.
-- Locks: new objects only. Previous release: none.

-- Interned names. A parcel carries 4-byte numbers, never the words.
create table queue.tenants (
    number int4 generated always as identity primary key,
    id uuid not null unique
);

create table queue.kinds (
    id int4 generated always as identity primary key,
    name text not null unique check (name ~ '^[a-z][a-z0-9_.]{0,63}$')
);

create table queue.queues (
    id int4 generated always as identity primary key,
    name text not null unique check (name ~ '^[a-z0-9][a-z0-9_.-]{0,63}$'),
    paused boolean not null default false,
    max_running int4 check (max_running > 0),
    -- GCRA: one start every `rate_every`, `rate_burst` at once, next free moment `rate_tat`.
    rate_every interval check (rate_every > '0'),
    rate_burst int4 check (rate_burst > 0),
    rate_tat timestamptz not null default '-infinity'
);

-- A line of jobs that share a fate: (queue, tenant, key). Made on first use.
create table queue.lanes (
    id bigint generated always as identity primary key,
    queue int4 not null references queue.queues,
    tenant int4 not null references queue.tenants,
    key text not null default '' check (length(key) <= 256),
    weight int2 not null default 1 check (weight between 1 and 1000),
    max_running int4 check (max_running > 0),
    running int4 not null default 0 check (running >= 0),
    rate_every interval check (rate_every > '0'),
    rate_burst int4 check (rate_burst > 0),
    rate_tat timestamptz not null default '-infinity',
    paused boolean not null default false,
    parked_until timestamptz,
    breaker "char" not null default 'c' check (breaker in ('c', 'o', 'h')),
    used_at timestamptz not null default now(),
    unique (queue, tenant, key)
) with (fillfactor = 50);

-- One row a worker process, for the people who look after them.
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

-- A worker's right to its claims. One renewal keeps every parcel it holds; an expired lease is dead
-- for good: its holder opens another, and what it had claimed is rescued.
create table queue.leases (
    id bigint generated always as identity primary key,
    worker_id uuid not null references queue.workers on delete cascade,
    expires_at timestamptz not null,
    closed_at timestamptz
) with (fillfactor = 50);
create index leases_open on queue.leases (expires_at) where closed_at is null;

-- The unit of storage: `n` jobs that share lane, kind, priority and due time. A member's job id is
-- id * 1024 + position, or stands in `ids` where members came from elsewhere.
create sequence queue.parcel_id as bigint maxvalue 9007199254740991;
create table queue.parcels (
    id bigint primary key default nextval('queue.parcel_id'),
    lane bigint not null,
    run_at timestamptz not null,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    lease bigint,
    -- Fencing token: random, made by the worker for each claim. Not from a sequence: claims may
    -- commit asynchronously, and a sequence value lost in a crash would be handed out twice.
    token bigint,
    queue int4 not null,
    tenant int4 not null,
    kind int4 not null,
    priority int2 not null check (priority between 0 and 9),
    attempt int2 not null default 0,
    max_attempts int2 not null check (max_attempts > 0),
    deferrals int2 not null default 0,
    lo int2 not null default 0,
    n int2 not null default 1 check (n between 1 and 500),
    -- s scheduled, a ready (available), r running, d succeeded (done), x dead, c cancelled
    state "char" not null check (state in ('s', 'a', 'r', 'd', 'x', 'c')),
    cancel boolean not null default false,
    keyed boolean not null default false,
    ids bigint[],
    acked int2[],
    error_code text,
    error_message text,
    results jsonb[],
    body bytea[] not null,
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
-- What may be claimed, in the order it is claimed. Future and running parcels are not in it.
create index parcels_ready on queue.parcels (queue, lane, priority, run_at, id) where state = 'a';
create index parcels_due on queue.parcels (run_at) where state = 's';
create index parcels_running on queue.parcels (lease) where state = 'r';
create index parcels_cancelling on queue.parcels (lease) where state = 'r' and cancel;
create index parcels_listing on queue.parcels (tenant, id);
create index parcels_finished on queue.parcels (state, finished_at) where finished_at is not null;

-- What happened to a job in each run that did not succeed; a success is told by its parcel.
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
-- Catches rows of days nobody made a partition for, so that an insert never fails.
create table queue.attempts_other partition of queue.attempts default;

-- Makes the daily partitions of today and the next `ahead` days, drops those that ended before
-- `keep` ago, and answers how many it dropped. Short lock timeout: it would rather come back later
-- than queue behind a long reader with the parent locked.
create function queue.turn_partitions(ahead int4, keep interval) returns int4
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
    day date;
    part record;
    dropped int4 := 0;
begin
    -- One at a time; readers and writers go on.
    lock table queue.attempts in share update exclusive mode;
    for day in select (now() at time zone 'utc')::date + g from generate_series(0, ahead) g loop
        if to_regclass(format('queue.attempts_%s', to_char(day, 'YYYYMMDD'))) is null then
            begin
                execute format(
                    'create table queue.attempts_%s partition of queue.attempts
                     for values from (%L) to (%L)',
                    to_char(day, 'YYYYMMDD'),
                    day::timestamp at time zone 'utc',
                    (day + 1)::timestamp at time zone 'utc'
                );
                execute format(
                    'alter table queue.attempts_%s enable row level security',
                    to_char(day, 'YYYYMMDD')
                );
                execute format(
                    'alter table queue.attempts_%s force row level security',
                    to_char(day, 'YYYYMMDD')
                );
            exception when check_violation then
                null; -- rows of that day are in the default partition already: they stay there
            end;
        end if;
    end loop;
    for part in
        select c.relname
        from pg_class c
        join pg_inherits i on i.inhrelid = c.oid
        where i.inhparent = 'queue.attempts'::regclass
          and c.relname ~ '^attempts_\d{8}$'
          and to_date(right(c.relname, 8), 'YYYYMMDD') + 1
              < ((now() - keep) at time zone 'utc')::date
    loop
        execute format('drop table queue.%I', part.relname);
        dropped := dropped + 1;
    end loop;
    delete from queue.attempts_other where finished_at < now() - keep;
    return dropped;
end
$$;

-- A unique key names one job of its tenant and kind until `expires_at`; 'infinity' means until the
-- job is finished, when settling deletes the row.
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

-- What a person may search by: written only for jobs that use it.
create table queue.labels (
    tenant int4 not null,
    name text not null,
    value text not null,
    job_id bigint not null,
    primary key (tenant, name, value, job_id)
);
create index labels_job on queue.labels (job_id);

-- Isolation. A tenant transaction sees its own rows; the engine, whose login role is a member of
-- harkara_engine, sees all.
do $$
declare
    target text;
begin
    foreach target in array array[
        'lanes', 'parcels', 'attempts', 'attempts_other', 'unique_keys', 'labels'
    ] loop
        execute format('alter table queue.%I enable row level security', target);
        execute format('alter table queue.%I force row level security', target);
        execute format(
            'create policy tenant_rows on queue.%I to harkara_app
             using (tenant = (select number from queue.tenants where id = app.current_tenant()))
             with check (tenant = (select number from queue.tenants where id = app.current_tenant()))',
            target
        );
        execute format(
            'create policy engine_rows on queue.%I to harkara_engine using (true) with check (true)',
            target
        );
    end loop;
    -- A tenant knows its own number; how many others there are, and who, is none of its business.
    alter table queue.tenants enable row level security;
    alter table queue.tenants force row level security;
    create policy tenant_rows on queue.tenants to harkara_app
        using (id = app.current_tenant()) with check (false);
    create policy engine_rows on queue.tenants to harkara_engine using (true) with check (true);
end
$$;

grant select, insert, update, delete on
    queue.tenants, queue.kinds, queue.queues, queue.lanes, queue.workers, queue.leases,
    queue.parcels, queue.attempts, queue.unique_keys, queue.labels
    to harkara_engine;
-- attempts_other is read and written through its parent, except by retention.
grant select, delete on queue.attempts_other to harkara_engine;
grant usage on sequence queue.parcel_id to harkara_app, harkara_engine;
grant execute on function queue.turn_partitions(int4, interval) to harkara_engine;
revoke execute on function queue.turn_partitions(int4, interval) from public;
-- A tenant's transaction enqueues, cancels and retries: it may write what these three do and nothing
-- else of a job. Claims, settlements and the log of runs are the engine's.
grant select on queue.tenants, queue.kinds, queue.queues, queue.lanes, queue.attempts to harkara_app;
grant select, insert on queue.parcels, queue.labels to harkara_app;
grant update (state, cancel, attempt, deferrals, run_at, finished_at, lease, token)
    on queue.parcels to harkara_app;
grant select, insert, update, delete on queue.unique_keys to harkara_app;
-- The worker that ran a job is part of the job's history: id and host, nothing of its settings.
grant select (id, worker_id) on queue.leases to harkara_app;

select queue.turn_partitions(7, '31 days');
