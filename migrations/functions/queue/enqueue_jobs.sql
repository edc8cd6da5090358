-- Enqueues the jobs at pointer p_prefix of the request for a tenant: all or none. Returns one row a job, in
-- their order.
create or replace function queue.enqueue_jobs(p_tenant text, p_jobs jsonb, p_prefix text)
returns table (place int4, job int8, existing boolean, state "char", run_at timestamptz)
language plpgsql volatile set enable_seqscan = off set enable_nestloop = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    own app.tenants := queue.client_tenant(p_tenant);
    number int4;
    most_waiting int8;
    waiting int8;
    drafts queue.draft[];
    placings queue.placing[];
    wrong jsonb;
    words text;
    fresh int8;
    says boolean := (select p.notify from queue.published p);
begin
    drafts := array(
        select queue.read_job(
            j.job, (j.nth - 1)::int4,
            case when p_prefix = '' then '' else p_prefix || '/' || (j.nth - 1) end,
            own.slug = 'platform')
        from jsonb_array_elements(p_jobs) with ordinality j(job, nth)
        order by j.nth
    );
    -- One fault a member, the first that was found, and at most a hundred faults.
    select jsonb_agg(f.fault order by f.job, f.nth) into wrong
    from (
        select o.* from (
            select distinct on (e.fault ->> 'pointer') e.fault, d.place as job, e.nth
            from unnest(drafts) d
            cross join lateral jsonb_array_elements(d.faults) with ordinality e(fault, nth)
            where d.faults <> '[]'
            order by e.fault ->> 'pointer', d.place, e.nth
        ) o
        order by o.job, o.nth
        limit 100
    ) f;
    if wrong is not null then
        words := concat_ws(': ', wrong -> 0 ->> 'pointer', wrong -> 0 ->> 'detail');
        raise exception '%', case jsonb_array_length(wrong)
            when 1 then words
            when 100 then '100 mistakes or more; the first is ' || words
            else jsonb_array_length(wrong) || ' mistakes; the first is ' || words end
        using errcode = 'HK422', detail = wrong::text;
    end if;

    -- Interns names. Most calls find them all and write nothing.
    select t.number, t.max_waiting into number, most_waiting from queue.tenants t where t.id = own.id;
    if number is null then
        insert into queue.tenants (id) values (own.id) on conflict do nothing;
        select t.number, t.max_waiting into number, most_waiting from queue.tenants t where t.id = own.id;
    end if;
    insert into queue.queues (name)
    select distinct d.queue from unnest(drafts) d
    where not exists (select from queue.queues q where q.name = d.queue)
    order by 1
    on conflict do nothing;
    insert into queue.kinds (name)
    select distinct d.kind from unnest(drafts) d
    where not exists (select from queue.kinds k where k.name = d.kind)
    order by 1
    on conflict do nothing;
    drafts := array(
        with lines as materialized (
            select l.line, l.queue_id, n.lane, n.most
            from (
                select distinct on (d.line)
                    d.line, q.id as queue_id, d.ordering_key, d.limits, d.costs
                from unnest(drafts) d join queue.queues q on q.name = d.queue
                order by d.line
            ) l
            cross join lateral queue.intern_lane(l.queue_id, number, l.ordering_key, l.limits, l.costs) n
        )
        select (
            d.place, d.kind, d.queue, d.priority, d.max_attempts, d.run_at, d.delay_ms, d.key, d.hold_ms,
            d.ordering_key, d.limits, d.costs, d.tags, d.expires_at, d.body, d.line, l.lane, l.most,
            l.queue_id, k.id, null
        )::queue.draft
        from unnest(drafts) d
        join lines l on l.line = d.line
        join queue.kinds k on k.name = d.kind
        order by d.place
    );

    -- Assigns rows: a job with a unique key, in a strict lane, with an expiry, or a large one has a row to itself.
    placings := array(
        with d as materialized (
            select u.*, u.key is null and u.ordering_key is null and u.expires_at is null
                and octet_length(u.body) <= 16384 as shares
            from unnest(drafts) u
        ),
        packed as (
            select p.place, min(p.place) over (
                partition by p.line, p.kind, p.priority, p.max_attempts, p.run_at, p.delay_ms,
                    p.nth / p.most, p.upto / 65536
            ) as head
            from (
                select d.*, row_number() over w - 1 as nth,
                    sum(octet_length(d.body)) over w as upto
                from d where d.shares
                window w as (
                    partition by d.line, d.kind, d.priority, d.max_attempts, d.run_at, d.delay_ms
                    order by d.place
                )
            ) p
        ),
        headed as materialized (
            select place, head, null::int4 as first from packed
            union all
            select d.place, d.place, case when d.key is not null then
                min(d.place) over (partition by d.kind, d.key) end
            from d where not d.shares
        ),
        parcels as materialized (
            select s.head, nextval('queue.parcel_id') as parcel
            from (select distinct head from headed order by head) s
        )
        select (
            h.place, h.head, row_number() over (partition by h.head order by h.place) - 1, p.parcel,
            h.first, null
        )::queue.placing
        from headed h join parcels p using (head)
        order by h.place
    );

    -- Takes unique keys, as take_unique_keys.sql of the queue crate, which gives the reasons.
    if exists (select from unnest(drafts) d where d.key is not null) then
        with wanted as materialized (
            select p.place, d.kind_id as kind, d.key, p.parcel * 1024 as job, d.hold_ms
            from unnest(placings) p join unnest(drafts) d using (place)
            where p.first = p.place
        ),
        known as materialized (
            select w.kind, w.key, h.job_id
            from wanted w
            cross join lateral (
                select u.job_id from queue.unique_keys u
                where u.tenant = number and u.kind = w.kind and u.key = w.key
                    and u.expires_at > now()
                limit 1
            ) h
        ),
        taken as (
            insert into queue.unique_keys as held (tenant, kind, key, job_id, expires_at)
            select number, w.kind, w.key, w.job,
                coalesce(now() + w.hold_ms * interval '1 millisecond', 'infinity')
            from wanted w
            where (w.kind, w.key) not in (select kind, key from known)
            order by w.kind, w.key
            on conflict (tenant, kind, key) do update
            set job_id = excluded.job_id, expires_at = excluded.expires_at
            where held.expires_at <= now()
            returning kind, key, job_id
        )
        select array_agg((p.place, p.head, p.member, p.parcel, p.first, o.job_id)::queue.placing order by p.place)
        into placings
        from unnest(placings) p
        join unnest(drafts) d using (place)
        left join (
            select * from known union all select * from taken
        ) o on o.kind = d.kind_id and o.key = d.key;
        -- Keys that a concurrent transaction took since they were read.
        placings := array(
            select (p.place, p.head, p.member, p.parcel, p.first, coalesce(p.holder, h.job_id))::queue.placing
            from unnest(placings) p
            join unnest(drafts) d using (place)
            left join lateral (
                select u.job_id from queue.unique_keys u
                where p.first is not null and p.holder is null
                    and u.tenant = number and u.kind = d.kind_id and u.key = d.key
                    and u.expires_at > now()
                limit 1
            ) h on true
            order by p.place
        );
        if exists (select from unnest(placings) p where p.first is not null and p.holder is null) then
            raise exception 'unique key is contended; retry the transaction' using errcode = '40001';
        end if;
    end if;

    -- Checks the quota of waiting jobs.
    if most_waiting is not null then
        select count(*) into fresh from unnest(placings) p
        where p.first is null or p.first = p.place and p.holder = p.parcel * 1024;
        if fresh > 0 then
            waiting := queue.count_waiting(number);
            if waiting + fresh > most_waiting then
                words := format('%s of at most %s jobs are waiting (max_waiting); retry when some have run', waiting, most_waiting);
                raise exception '%', words using
                    errcode = 'HK429',
                    detail = queue.field_error('', 'depth_quota', words)::text,
                    hint = jsonb_build_object('limit', jsonb_build_object(
                        'name', 'max_waiting', 'max', most_waiting, 'waiting', waiting))::text;
            end if;
        end if;
    end if;

    return query
    with p as materialized (
        select u.*, u.first is null or u.first = u.place and u.holder = u.parcel * 1024 as is_new
        from unnest(placings) u
    ),
    d as materialized (
        select * from unnest(drafts)
    ),
    rows as materialized (
        select p.head, p.parcel, count(*)::int2 as n, array_agg(d.body order by p.place) as body,
            sum(octet_length(d.body)) as bytes
        from p join d using (place)
        where p.is_new
        group by p.head, p.parcel
    ),
    inserted as (
        insert into queue.parcels (
            id, tenant, lane, run_at, queue, kind, priority, max_attempts, n, state, keyed, strict,
            expires_at, bytes, body
        )
        select
            r.parcel, number, d.lane, due.at, d.queue_id, d.kind_id, d.priority, d.max_attempts, r.n,
            case when due.at > now() then 's' else 'a' end::"char", d.key is not null,
            d.ordering_key is not null, d.expires_at, case when r.bytes > 1024 then r.bytes end, r.body
        from rows r
        join d on d.place = r.head
        cross join lateral (
            select greatest(d.run_at, case when d.delay_ms > 0 or d.run_at is null
                then now() + d.delay_ms * interval '1 millisecond' end) as at
        ) due
        order by r.parcel
        returning id, queue, kind, state, run_at, n
    ),
    counted as (
        insert into queue.deltas (tenant, queue, kind, scheduled, ready, enqueued)
        select
            number, i.queue, i.kind, coalesce(sum(i.n) filter (where i.state = 's'), 0),
            coalesce(sum(i.n) filter (where i.state = 'a'), 0), sum(i.n)
        from inserted i
        group by i.queue, i.kind
    ),
    -- The labels by which the new jobs can be searched.
    labelled as (
        insert into queue.labels (tenant, name, value, job_id)
        select number, w.name, w.value, p.parcel * 1024 + p.member
        from p
        join d using (place)
        cross join lateral (
            select 'tag' as name, t.tag as value from unnest(d.tags) t(tag)
            union all
            select 'unique_key', d.key where d.key is not null
            union all
            select 'ordering_key', d.ordering_key where d.ordering_key is not null
        ) w
        where p.is_new
        on conflict do nothing
    ),
    -- As insert_parcels.sql of the queue crate.
    woken as (
        select case when i.state = 's' then 's:' else 'q:' end
            || left(string_agg(distinct i.queue::text, ','), 4000) as said
        from inserted i
        where says and i.run_at < now() + interval '2 seconds'
        group by i.state
    ),
    notified as materialized (
        select count(pg_notify('harkara', said)::text) from woken
    ),
    -- Where the holders of taken keys are.
    asked as materialized (
        select f.job, f.tenant, f.id, f.part, f.member
        from queue.find_jobs(array(
            select distinct p.holder from p where p.first is not null and not p.is_new
        )) f
    ),
    holders as materialized (
        select a.job, s.*
        from asked a
        cross join lateral (
            select
                case when a.member = any (coalesce(r.acked, '{}')) then 'd' else r.state end::"char" as state,
                case when r.ids is null then r.run_at
                    else coalesce(r.due[a.member], r.created[a.member], r.created_at) end as run_at
            from queue.parcels r
            where r.tenant = a.tenant and r.id = a.id and r.part = a.part
            limit 1
        ) s
    )
    select
        p.place, case when p.is_new then p.parcel * 1024 + p.member else p.holder end, not p.is_new,
        coalesce(i.state, h.state, j.state), coalesce(i.run_at, h.run_at, j.run_at)
    from p
    cross join notified
    left join inserted i on p.is_new and i.id = p.parcel
    -- A key of an earlier job of this call, which no snapshot shows yet.
    left join inserted j on not p.is_new and j.id * 1024 = p.holder
    left join holders h on not p.is_new and h.job = p.holder
    order by p.place;
end
$$;

revoke execute on function queue.enqueue_jobs(text, jsonb, text) from public;
grant execute on function queue.enqueue_jobs(text, jsonb, text) to harkara_engine;
