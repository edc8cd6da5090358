-- The audit log: one hash chain a tenant, which can be added to and read, and nothing else.
-- Locks: new objects only. Previous release: writes nothing here.
--
-- Each entry's hash covers the entry and the hash before it, so that an entry that is changed, removed
-- or put in between is found by reading on (app.check_audit). What is cut off at the end is found by the
-- head, and a head that was changed too by the anchors kept outside of the database.

create table app.audit_log (
    -- One of app.audit_heads.
    tenant_id uuid not null,
    -- From 1, without gaps.
    seq int8 not null check (seq > 0),
    at timestamptz not null,
    actor_kind text not null check (actor_kind in ('key', 'person', 'system', 'nobody')),
    -- The key's or the person's id, the name of a part of the platform, or what somebody gave as a name.
    actor_id text not null,
    actor_name text,
    -- `noun.verb`.
    action text not null,
    -- Id of what it was done to.
    resource text not null,
    address text,
    user_agent text,
    request_id text,
    -- What it was and what it became, as far as it changed; secrets left out.
    before jsonb,
    after jsonb,
    reason text,
    hash bytea not null check (length(hash) = 32),
    primary key (tenant_id, seq)
);
create index audit_log_actor on app.audit_log (tenant_id, actor_id, seq);
create index audit_log_action on app.audit_log (tenant_id, action, seq);
create index audit_log_resource on app.audit_log (tenant_id, resource, seq);

-- Where each chain ends. Its lock is what orders a tenant's entries.
create table app.audit_heads (
    tenant_id uuid primary key references app.tenants,
    seq int8 not null,
    hash bytea not null
);

-- The hash of an entry that follows p_before. What is hashed is the text of a JSON array: no entry can
-- be read as another one.
create function app.audit_hash(p_before bytea, p_entry app.audit_log) returns bytea
language sql stable set search_path = pg_catalog, pg_temp
return sha256(p_before || convert_to(jsonb_build_array(
    p_entry.tenant_id, p_entry.seq, (extract(epoch from p_entry.at) * 1000000)::int8,
    p_entry.actor_kind, p_entry.actor_id, p_entry.actor_name, p_entry.action, p_entry.resource,
    p_entry.address, p_entry.user_agent, p_entry.request_id, p_entry.before, p_entry.after,
    p_entry.reason
)::text, 'UTF8'));

-- Adds an entry and answers its number. Runs with the rights of whoever migrated: nobody else may write.
-- In a tenant's transaction it adds to that tenant's chain only.
create function app.audit(
    p_tenant uuid, p_actor_kind text, p_actor_id text, p_actor_name text, p_action text,
    p_resource text, p_address text, p_user_agent text, p_request_id text, p_before jsonb,
    p_after jsonb, p_reason text
) returns int8
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    head app.audit_heads;
    entry app.audit_log;
begin
    if coalesce(app.current_tenant() <> p_tenant, current_setting('role') = 'harkara_app') then
        raise insufficient_privilege using message = 'an entry for another tenant';
    end if;
    select * into head from app.audit_heads h where h.tenant_id = p_tenant for no key update;
    if not found then
        -- It is not begun anew: that would hide that it was taken away.
        raise data_corrupted using message = 'the tenant has no audit log, or no longer';
    end if;
    entry.tenant_id := p_tenant;
    entry.seq := head.seq + 1;
    -- Not the transaction's time: under the lock, entries are in the order of their times.
    entry.at := clock_timestamp();
    entry.actor_kind := p_actor_kind;
    entry.actor_id := p_actor_id;
    entry.actor_name := p_actor_name;
    entry.action := p_action;
    entry.resource := p_resource;
    entry.address := p_address;
    entry.user_agent := p_user_agent;
    entry.request_id := p_request_id;
    entry.before := p_before;
    entry.after := p_after;
    entry.reason := p_reason;
    entry.hash := app.audit_hash(head.hash, entry);
    insert into app.audit_log select entry.*;
    update app.audit_heads h set seq = entry.seq, hash = entry.hash where h.tenant_id = p_tenant;
    return entry.seq;
end
$$;

-- Checks up to p_most entries after number p_after, whose hash is p_hash, and answers how far it came
-- and what is wrong. Served by the primary key.
create function app.check_audit(p_tenant uuid, p_after int8, p_hash bytea, p_most int4)
returns table (checked int8, seq int8, hash bytea, faults jsonb)
language sql stable set search_path = pg_catalog, pg_temp as $$
    with entries as (
        select a.entry, a.seq, a.hash,
            lag(a.seq, 1, p_after) over (order by a.seq) as seq_before,
            lag(a.hash, 1, p_hash) over (order by a.seq) as hash_before
        from (
            select l as entry, l.seq, l.hash from app.audit_log l
            where l.tenant_id = p_tenant and l.seq > p_after
            order by l.seq
            limit p_most
        ) a
    ),
    judged as (
        select e.seq, e.hash, case
            when e.seq <> e.seq_before + 1 then 'missing'
            when e.hash <> app.audit_hash(e.hash_before, e.entry) then 'changed'
        end as fault
        from entries e
    )
    select count(*), coalesce(max(j.seq), p_after),
        coalesce((array_agg(j.hash order by j.seq desc))[1], p_hash),
        coalesce(
            jsonb_agg(jsonb_build_object('seq', j.seq, 'fault', j.fault) order by j.seq)
                filter (where j.fault is not null),
            '[]'
        )
    from judged j
$$;

-- Every tenant has a chain from the start: one without is a chain that was taken away.
create function app.begin_chain() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into app.audit_heads (tenant_id, seq, hash)
    values (new.id, 0, sha256(convert_to(new.id::text, 'UTF8')));
    return new;
end
$$;
revoke execute on function app.begin_chain() from public;
create trigger tenants_have_a_chain after insert on app.tenants
    for each row execute function app.begin_chain();
insert into app.audit_heads (tenant_id, seq, hash)
select t.id, 0, sha256(convert_to(t.id::text, 'UTF8')) from app.tenants t;

-- Entries are never changed. They are removed only with their tenant, by a transaction that says so, once
-- somebody has asked for its erasure (0023).
create function app.refuse_audit_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'DELETE' and old.tenant_id::text = current_setting('app.erasing', true) and exists (
        select from app.tenants t where t.id = old.tenant_id and t.erasure_asked_at is not null
    ) then
        return old;
    end if;
    raise insufficient_privilege using message = 'the audit log is only added to';
end
$$;
create trigger audit_log_is_added_to before update or delete on app.audit_log
    for each row execute function app.refuse_audit_change();
create trigger audit_log_is_not_emptied before truncate on app.audit_log
    execute function app.refuse_audit_change();
create trigger audit_heads_stay before delete on app.audit_heads
    for each row execute function app.refuse_audit_change();

do $$
declare
    target text;
begin
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
            'create policy added on app.%I for insert to harkara_engine with check (true)', target
        );
        execute format(
            'create policy erased on app.%I for delete to harkara_engine
             using (tenant_id::text = current_setting(''app.erasing'', true))',
            target
        );
    end loop;
    create policy moved on app.audit_heads for update to harkara_engine using (true);
end
$$;

-- The owner adds by app.audit and removes by 0027; the right to is given to nobody.
grant select on app.audit_log, app.audit_heads to harkara_app, harkara_engine;
revoke all on function app.audit(
    uuid, text, text, text, text, text, text, text, text, jsonb, jsonb, text
) from public;
grant execute on function app.audit(
    uuid, text, text, text, text, text, text, text, text, jsonb, jsonb, text
) to harkara_app, harkara_engine;
