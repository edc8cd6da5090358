-- The lane of a tenant in a queue for jobs with this ordering key and these limits, and how many of them can
-- share a row: like intern_lane.sql and intern_limiters.sql of the queue crate. Other transactions wait for rows
-- written here until this one has ended: so everything is looked up first, and the use of a lane or limiter is
-- recorded after half a day, not after an hour.
create or replace function queue.intern_lane(
    p_queue int4, p_tenant int4, p_ordering_key text, p_limits text[], p_costs int4[],
    out lane int8, out most int4
)
language plpgsql volatile set enable_seqscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    word text := coalesce(p_ordering_key, '');
    ordered boolean := p_ordering_key is not null;
    names text[];
    prices int4[];
    identity text := '';
    limiters int8[] := '{}';
    own int8;
    stale boolean;
begin
    -- In the order of their keys, as the queue crate sorts them.
    select coalesce(array_agg(u.key order by u.key collate "C"), '{}'),
        coalesce(array_agg(u.cost order by u.key collate "C"), '{}')
    into names, prices
    from unnest(p_limits, p_costs) as u(key, cost);
    if cardinality(names) > 0 then
        insert into queue.limiters (tenant, key)
        select p_tenant, w.key from unnest(names) w(key)
        where not exists (select from queue.limiters g where g.tenant = p_tenant and g.key = w.key)
        order by w.key
        on conflict do nothing;
        -- Locked against removal, and otherwise not written: the caller's transaction can be long.
        perform from queue.limiters s
        where s.tenant = p_tenant and s.key = any (names) and s.used_at < now() - interval '12 hours'
        order by s.id
        for key share;
        select array_agg(g.id order by w.nth) into limiters
        from unnest(names) with ordinality w(key, nth)
        join queue.limiters g on g.tenant = p_tenant and g.key = w.key;
        if cardinality(limiters) is distinct from cardinality(names) then
            raise exception 'a limit is being removed at this moment: try again' using errcode = '40001';
        end if;
        if not ordered then
            select string_agg(u.key || e'\u001f' || u.cost, e'\n' order by u.nth) into identity
            from unnest(names, prices) with ordinality u(key, cost, nth);
        end if;
    end if;
    for tries in 1 .. 10 loop
        select l.id, l.limiter, l.used_at < now() - interval '12 hours' into lane, own, stale
        from queue.lanes l
        where l.queue = p_queue and l.tenant = p_tenant and l.key = word and l.strict = ordered
            and l.limits = identity;
        if lane is null then
            insert into queue.lanes (
                queue, tenant, key, strict, limits, named, costs, weight, paused, paused_at, limiter,
                breaker_after, breaker_share, breaker_window, breaker_rest
            )
            select
                p_queue, p_tenant, word, ordered, identity, limiters, prices, coalesce(s.weight, 1),
                coalesce(s.paused, false), s.paused_at, s.limiter, s.breaker_after,
                coalesce(s.breaker_share, 100), coalesce(s.breaker_window, '5 minutes'), s.breaker_rest
            from (select) one
            left join lateral (
                select * from queue.lanes s
                where s.queue = p_queue and s.tenant = p_tenant and s.key = word and s.strict = ordered
                order by s.id
                limit 1
            ) s on true
            on conflict (queue, tenant, key, strict, limits) do nothing
            returning id, limiter into lane, own;
        elsif stale then
            -- As with limiters. In an existing strict lane the limits named before continue to apply.
            select l.id, l.limiter into lane, own from queue.lanes l where l.id = intern_lane.lane for key share;
        end if;
        exit when lane is not null;
    end loop;
    if lane is null then
        raise exception 'a lane is being removed at this moment: try again' using errcode = '40001';
    end if;
    most := 1;
    if not ordered then
        select least(500, min(least(g.max_running, g.rate_burst / greatest(c.cost, 1)))) into most
        from (
            select q.limiter, 1 as cost from queue.queues q where q.id = p_queue
            union all
            select t.limiter, 1 from queue.tenants t where t.number = p_tenant
            union all
            select own, 1
            union all
            select u.id, u.cost from unnest(limiters, prices) as u(id, cost)
        ) c
        join queue.limiters g on g.id = c.limiter;
        most := greatest(1, coalesce(most, 500));
    end if;
end
$$;

revoke execute on function queue.intern_lane(int4, int4, text, text[], int4[]) from public;
grant execute on function queue.intern_lane(int4, int4, text, text[], int4[]) to harkara_engine;
