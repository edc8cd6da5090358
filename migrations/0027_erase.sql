-- Erasure of a tenant: everything that the schemas hold of it goes, in short steps. And its export.
-- Locks: ACCESS EXCLUSIVE on queue.tenants for the moment in which its column and policy change; SHARE on
-- queue.attempts, queue.progress and queue.tenants while an index is built on each.
-- Previous release: goes on as it was; it makes no use of the column, and a tenant that is being erased is
-- paused for it as for this one.
--
-- Each step is a transaction of its own and locks rows of one sort only, passing over those that somebody
-- else holds: so it stands in no order of locks, and waits for nobody but the fold that adds up counters.

-- Set while the tenant is being erased. A tenant's own transactions find it gone from then on, and what
-- was begun before may still add to it: once no transaction is left that is older than this, none can.
-- '0' until that moment is known.
alter table queue.tenants add column erasing xid8;
alter policy tenant_rows on queue.tenants using (id = app.current_tenant() and erasing is null);

create index attempts_tenant on queue.attempts (tenant, finished_at);
create index progress_tenant on queue.progress (tenant);
-- A gate that goes asks whether a tenant has it still.
create index tenants_gate on queue.tenants (gate) where gate is not null;

-- Stops a tenant for good: nothing of it is claimed from here on, and no application's login may enqueue
-- for it. To be called twice, in two transactions: the second knows that whoever comes later sees the
-- first. Answers the tenant's number, nothing for one that is not here.
create function queue.erase_begin(p_tenant uuid) returns int4
language plpgsql volatile as $$
declare
    edge xid8 := pg_snapshot_xmax(pg_current_snapshot());
    own int4;
begin
    delete from queue.clients c where c.tenant_id = p_tenant;
    update queue.tenants t
    set paused = true, paused_at = coalesce(t.paused_at, now()), gate = null,
        erasing = case
            when t.erasing is null then '0'::xid8
            -- A database that was restored from another server's begins again with small numbers.
            when t.erasing = '0'::xid8 or t.erasing > edge then edge
            else t.erasing
        end
    where t.id = p_tenant
    returning t.number into own;
    return own;
end
$$;

-- Has the workers told of all runs of a tenant that they are cancelled, and answers how many there are.
-- Served by parcels_running: there are no more running rows than workers have places.
create function queue.erase_running(p_tenant int4, p_notify boolean) returns int8
language plpgsql volatile
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
    told bigint[];
    running int8;
begin
    with held as materialized (
        select p.ctid as t
        from queue.parcels p
        where p.state = 'r' and p.tenant = p_tenant and exists (
            select from generate_series(1, p.n) m
            where m <> all (coalesce(p.gone, '{}')) and m <> all (coalesce(p.acked, '{}'))
              and m <> all (coalesce(p.cancelling, '{}'))
        )
        for update skip locked
    ),
    cancelled as (
        update queue.parcels p
        set cancelling = nullif(array(
            select m::int2 from generate_series(1, p.n) m
            where m <> all (coalesce(p.gone, '{}')) and m <> all (coalesce(p.acked, '{}'))
        ), '{}')
        where p.ctid = any (array(select t from held))
        returning p.id, p.lo, p.ids, p.cancelling
    )
    select array_agg(queue.job_of(c.id, c.lo, c.ids, m)) into told
    from cancelled c cross join unnest(c.cancelling) m;
    if p_notify and told is not null then
        perform pg_notify('harkara', 'c:' || t) from unnest(told) t;
    end if;
    select coalesce(sum(
        greatest(0, p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0))
    ), 0) into running
    from queue.parcels p
    where p.state = 'r' and p.tenant = p_tenant;
    return running;
end
$$;

-- Removes at most p_most rows of a tenant's jobs that do not run, from the row p_after on; answers how many
-- rows and jobs these were and where to go on. Served by the primary key.
create function queue.erase_jobs(p_tenant int4, p_after bigint, p_most int4)
returns table (seen int8, jobs int8, last bigint)
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    with old as materialized (
        select
            p.ctid as t, p.id, p.queue, p.kind, p.state,
            greatest(0, p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0)) as open,
            greatest(0, p.n - coalesce(cardinality(p.gone), 0)) as jobs
        from queue.parcels p
        where p.tenant = p_tenant and p.id >= p_after and p.state <> 'r'
        order by p.id
        limit p_most
        for update skip locked
    ),
    removed as (
        delete from queue.parcels p where p.ctid = any (array(select t from old))
    ),
    counted as (
        insert into queue.deltas (tenant, queue, kind, scheduled, ready, dead)
        select
            p_tenant, o.queue, o.kind, -coalesce(sum(o.open) filter (where o.state = 's'), 0),
            -coalesce(sum(o.open) filter (where o.state = 'a'), 0),
            -coalesce(sum(o.open) filter (where o.state = 'x'), 0)
        from old o
        where o.state in ('s', 'a', 'x') and o.open > 0
        group by o.queue, o.kind
    )
    select count(*), coalesce(sum(o.jobs), 0)::int8, coalesce(max(o.id), p_after) from old o;
end
$$;

-- Removes at most p_most rows (of attempts, also those of the same moment) that a tenant has in one of the
-- engine's other tables, and answers how many. Served by the primary keys, attempts_tenant,
-- progress_tenant, and of lanes and gates by their unique indexes.
create function queue.erase_rows(p_tenant int4, p_table text, p_most int4) returns int8
language plpgsql volatile
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
    edge timestamptz;
    removed int8;
begin
    case p_table
    when 'labels' then
        delete from queue.labels l where l.ctid = any (array(
            select o.ctid from queue.labels o where o.tenant = p_tenant limit p_most
            for update skip locked
        ));
    when 'progress' then
        delete from queue.progress g where g.ctid = any (array(
            select o.ctid from queue.progress o where o.tenant = p_tenant limit p_most
            for update skip locked
        ));
    when 'unique_keys' then
        delete from queue.unique_keys k where k.ctid = any (array(
            select o.ctid from queue.unique_keys o where o.tenant = p_tenant limit p_most
            for update skip locked
        ));
    when 'attempts' then
        select max(o.finished_at) into edge
        from (
            select a.finished_at from queue.attempts a
            where a.tenant = p_tenant order by a.finished_at limit p_most
        ) o;
        delete from queue.attempts a where a.tenant = p_tenant and a.finished_at <= edge;
    when 'lanes' then
        delete from queue.lanes l where l.id = any (array(
            select o.id
            from queue.queues q cross join lateral (
                select k.id from queue.lanes k
                where k.queue = q.id and k.tenant = p_tenant limit p_most
                for update skip locked
            ) o
            limit p_most
        ));
    when 'gates' then
        delete from queue.gates g where g.id = any (array(
            select o.id from queue.gates o where o.tenant = p_tenant limit p_most
            for update skip locked
        ));
    when 'shares' then
        delete from queue.shares s where s.tenant = p_tenant and s.queue = any (array(
            select q.id from queue.queues q
        ));
    when 'history' then
        delete from queue.history h where h.ctid = any (array(
            select o.ctid from queue.history o where o.tenant = p_tenant limit p_most
            for update skip locked
        ));
    end case;
    get diagnostics removed = row_count;
    return removed;
end
$$;

-- The last step: the counters, and the tenant's number. Does nothing, and says so, while anything is left
-- or something may still come: a transaction is open that began before the tenant was stopped.
-- Counters go while nobody folds, so that what is not folded yet goes with them.
create function queue.erase_end(p_tenant int4) returns boolean
language plpgsql volatile
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
    seen pg_snapshot;
    since xid8;
begin
    select t.erasing into since from queue.tenants t where t.number = p_tenant for update;
    if not found then
        return true;
    end if;
    if since is null or since = '0'::xid8 or pg_snapshot_xmin(pg_current_snapshot()) < since then
        return false;
    end if;
    select f.upto into seen from queue.folded f for update;
    if exists (select from queue.parcels p where p.tenant = p_tenant)
        or exists (select from queue.unique_keys k where k.tenant = p_tenant)
        or exists (select from queue.labels l where l.tenant = p_tenant)
        or exists (select from queue.progress g where g.tenant = p_tenant)
        or exists (select from queue.attempts a where a.tenant = p_tenant)
        or exists (select from queue.history h where h.tenant = p_tenant)
        or exists (select from queue.gates g where g.tenant = p_tenant)
        or exists (
            select from queue.queues q cross join lateral (
                select from queue.lanes l where l.queue = q.id and l.tenant = p_tenant limit 1
            ) l
        )
    then
        return false;
    end if;
    delete from queue.deltas d
    where d.tenant = p_tenant and d.xid >= pg_snapshot_xmax(seen);
    delete from queue.deltas d
    where d.tenant = p_tenant and d.xid = any (array(select pg_snapshot_xip(seen)));
    delete from queue.tallies t where t.tenant = p_tenant;
    delete from queue.tenants t where t.number = p_tenant;
    return true;
end
$$;

revoke execute on function
    queue.erase_begin(uuid), queue.erase_running(int4, boolean),
    queue.erase_jobs(int4, bigint, int4), queue.erase_rows(int4, text, int4), queue.erase_end(int4)
    from public;
grant execute on function
    queue.erase_begin(uuid), queue.erase_running(int4, boolean),
    queue.erase_jobs(int4, bigint, int4), queue.erase_rows(int4, text, int4), queue.erase_end(int4)
    to harkara_engine;

-- Removes at most p_most of a tenant's rows from a table, and answers how many. Runs with the rights of
-- whoever migrated, since nobody else may remove keys and audit entries; only of a tenant whose contract is
-- over. Served by the primary key of each, which begins with the tenant.
create function app.erase_rows(p_tenant uuid, p_table text, p_most int4) returns int8
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off as $$
declare
    removed int8;
begin
    if not exists (
        select from app.tenants t
        where t.id = p_tenant and t.status = 'canceled' and t.erasure_asked_at is not null
    ) then
        raise insufficient_privilege using message = 'only a canceled tenant is erased, when asked for';
    end if;
    if p_table = 'audit_heads' then
        raise insufficient_privilege using message = 'the end of the chain goes with the tenant';
    end if;
    perform set_config('app.erasing', p_tenant::text, true),
        set_config('app.tenant_id', p_tenant::text, true);
    execute format(
        'delete from app.%1$I t where t.ctid = any (array(
            select o.ctid from app.%1$I o where o.tenant_id = $1 limit $2
        ))', p_table
    ) using p_tenant, p_most;
    get diagnostics removed = row_count;
    return removed;
end
$$;

-- The last step: the end of the audit chain, and the tenant itself. Answers what it was called and where the
-- chain ended; nothing if entries were added meanwhile, or there is no such canceled tenant. Whatever else is
-- left refuses to be without its tenant.
create function app.erase_tenant(p_tenant uuid)
returns table (slug text, name text, seq int8, hash bytea)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
begin
    select t.slug, t.name into slug, name from app.tenants t
    where t.id = p_tenant and t.status = 'canceled' and t.erasure_asked_at is not null for update;
    if not found then
        return;
    end if;
    select h.seq, h.hash into seq, hash from app.audit_heads h where h.tenant_id = p_tenant for update;
    if exists (select from app.audit_log a where a.tenant_id = p_tenant) then
        return;
    end if;
    perform set_config('app.erasing', p_tenant::text, true);
    delete from app.audit_heads h where h.tenant_id = p_tenant;
    delete from app.tenants t where t.id = p_tenant;
    return next;
end
$$;

-- Opens the cursor harkara_export over the rows that the running transaction's tenant has in a table, as
-- JSON without the columns p_left_out. Runs with the rights of that transaction.
create function app.open_export(p_table text, p_left_out text[]) returns void
language plpgsql volatile as $$
declare
    rows refcursor := 'harkara_export';
begin
    open rows no scroll for execute format(
        'select (to_jsonb(t) - $1)::text from app.%I t where t.%I = app.current_tenant()',
        p_table, case p_table when 'tenants' then 'id' else 'tenant_id' end
    ) using p_left_out;
end
$$;

revoke execute on function
    app.erase_rows(uuid, text, int4), app.erase_tenant(uuid), app.open_export(text, text[])
    from public;
grant execute on function app.erase_rows(uuid, text, int4), app.erase_tenant(uuid) to harkara_engine;
grant execute on function app.open_export(text, text[]) to harkara_app;

-- Up to where each tenant's audit chain was anchored. The anchors themselves lie in the blob store; this is
-- only how whoever writes them knows which chains have moved.
create table app.audit_anchors (
    tenant_id uuid primary key references app.tenants,
    seq int8 not null,
    hash bytea not null,
    anchored_at timestamptz not null
);
alter table app.audit_anchors enable row level security;
alter table app.audit_anchors force row level security;
create policy tenant_rows on app.audit_anchors for select to harkara_app
    using (tenant_id = app.current_tenant());
create policy engine_rows on app.audit_anchors to harkara_engine using (true) with check (true);
grant select on app.audit_anchors to harkara_app;
grant select, insert, update, delete on app.audit_anchors to harkara_engine;
