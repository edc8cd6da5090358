-- Claims jobs of one queue. The worker chose the lanes and how many jobs each should give (fairness); whether
-- and how many each can give is decided here (limits), exactly, for the whole fleet.
--
-- p_lanes in the order in which they are served, p_shares jobs for each, p_depths rows to read in each, starting
-- at the row of p_priorities and p_run_ats, or at the first where these are null: a worker that drains a lane
-- need not pass again by all it has taken, which stays in the index until it is vacuumed. A lane with limits is
-- read from the first row. Where the priority is -1, the lane is read from the priority whose first job has
-- waited longest: with that every now and then, no priority waits for ever. A strict lane keeps its order all
-- the same.
-- p_slots jobs can start at once; p_prefetch more can wait in the worker, if nothing limits their lane. The
-- bodies taken are p_bytes at most, which must have room for the largest row. p_lost: one job whose worker died
-- can be among them. Expired jobs are passed over.
--
-- Returns the leased rows, and a row without an id for each lane: `closed`, with the time until it opens by
-- itself if that is known; or `spent`, when nothing more is ready in it; or neither, when it gave its share and
-- can have more. `drawn` is the number of rows it gave, before any were merged.
create or replace function queue.claim(
    p_queue int4, p_lease bigint, p_token bigint, p_lanes bigint[], p_shares int4[],
    p_depths int4[], p_priorities int2[], p_run_ats timestamptz[], p_slots int4, p_prefetch int4,
    p_bytes int4, p_lost boolean
) returns table (
    lane bigint, closed boolean, wait_ms bigint, spent boolean, drawn int4,
    id bigint, part int2, tenant int4, kind int4, priority int2, attempt int2, max_attempts int2,
    deferrals int2, lo int2, n int2, ids bigint[], gone int2[], run_at timestamptz, started_at timestamptz,
    lost boolean, parks boolean, body bytea[]
)
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    moment timestamptz;
    starts int4 := p_slots;
    room int4 := p_slots + p_prefetch;
    memory int4 := p_bytes;
    lost_free boolean;
    queue_limiter bigint;
    plain bigint[] := '{}';
    parking bigint[] := '{}';
    l record;
    r record;
    -- Limiters in the order of their ids: limit and number of running jobs; microseconds of one start, of a burst,
    -- and of starts granted ahead of time.
    g_id bigint[];
    g_max int4[];
    g_running int4[];
    g_every bigint[];
    g_burst bigint[];
    g_ahead bigint[];
    nth int4;
    limiter int4;
    cost bigint;
    passed int4[];
    costs bigint[];
    held bigint[];
    allowed bigint;
    wait bigint;
    rows tid[];
    taken int4;
    seen int4;
    begun bigint;
    locked bigint[];
begin
    -- A claim need not wait for the disk: one that a crash loses is made again.
    perform set_config('synchronous_commit', 'off', true);
    if not exists (
        select from queue.leases e
        where e.id = p_lease and e.expires_at > now() and e.closed_at is null
    ) then
        return;
    end if;
    select q.limiter into queue_limiter from queue.queues q where q.id = p_queue and not q.paused;
    if not found then
        return;
    end if;
    lost_free := p_lost and exists (
        select from queue.parcels p where p.queue = p_queue and p.state = 'a' and p.lost
    );

    -- Locks lanes whose own row decides which job goes, then limiters, each in one order.
    select array_agg(own.id) into locked from (
        select a.id from queue.lanes a
        where a.id = any (p_lanes)
            and (a.strict or a.breaker <> 'c' or a.parked_until <= now())
        order by a.id
        for no key update skip locked
    ) own;
    select array_agg(distinct g) into g_id
    from queue.lanes a
    join queue.tenants t on t.number = a.tenant
    cross join unnest(array[queue_limiter, t.limiter, a.limiter] || a.named) g
    where a.id = any (p_lanes) and g is not null;
    if g_id is not null then
        perform from queue.limiters g where g.id = any (g_id) order by g.id for no key update;
    end if;
    moment := clock_timestamp();
    if g_id is not null then
        -- Limiters without a limit at present are left out.
        select
            array_agg(g.id), array_agg(g.max_running), array_agg(g.running),
            array_agg((extract(epoch from g.rate_every) * 1000000)::int8),
            array_agg((extract(epoch from g.rate_every) * 1000000)::int8 * g.rate_burst),
            array_agg(case when g.rate_tat > moment
                then (extract(epoch from g.rate_tat - moment) * 1000000)::int8 else 0 end)
        into g_id, g_max, g_running, g_every, g_burst, g_ahead
        from queue.limiters g
        where g.id = any (g_id) and (g.max_running is not null or g.rate_every is not null);
    end if;

    for l in
        select
            u.lane, u.share, u.depth, u.priority, a.tenant, a.strict as ordered, a.head, a.breaker, a.parked_until,
            a.paused or t.paused as paused,
            a.key <> '' or a.limits <> '' as parks,
            array[queue_limiter, t.limiter, a.limiter] || a.named as limiters,
            array[1, 1, 1] || a.costs as costs
        from unnest(p_lanes, p_shares, p_depths, p_priorities) with ordinality
            as u(lane, share, depth, priority, nth)
        join queue.lanes a on a.id = u.lane
        join queue.tenants t on t.number = a.tenant
        order by u.nth
    loop
        passed := '{}';
        costs := '{}';
        if g_id is not null then
            for nth in 1 .. cardinality(l.limiters) loop
                limiter := array_position(g_id, l.limiters[nth]);
                if limiter is not null then
                    passed := passed || limiter;
                    costs := costs || l.costs[nth]::bigint;
                end if;
            end loop;
        end if;
        if l.parked_until is null and not l.paused and not l.ordered and l.breaker = 'c'
            and cardinality(passed) = 0
        then
            plain := plain || l.lane;
            if l.parks then
                parking := parking || l.lane;
            end if;
            continue;
        end if;

        lane := l.lane;
        closed := true;
        spent := false;
        wait_ms := null;
        drawn := 0;
        if (l.ordered or l.breaker <> 'c' or l.parked_until <= moment)
            and l.lane <> all (coalesce(locked, '{}'))
        then
            -- It became so just now, or another claim holds it: its row is not changed in this turn.
            wait_ms := 10;
            return next;
            continue;
        end if;
        -- How many can start now: what every limiter permits. A limiter whose slots are all in use gives no time.
        allowed := least(l.share, starts, room);
        held := '{}';
        wait := 0;
        if l.ordered or l.breaker = 'o' then
            allowed := least(allowed, 1);
        end if;
        if l.paused or l.breaker = 'h' then
            allowed := 0;
        end if;
        if l.parked_until > moment then
            allowed := 0;
            wait := (extract(epoch from l.parked_until - moment) * 1000000)::int8;
        end if;
        for nth in 1 .. cardinality(passed) loop
            limiter := passed[nth];
            if g_max[limiter] is not null then
                allowed := least(allowed, g_max[limiter] - g_running[limiter]);
                held := held || g_id[limiter];
            end if;
            if g_every[limiter] is not null then
                -- A start that costs more than a burst is permitted when the limiter has been idle.
                cost := g_every[limiter] * costs[nth];
                allowed := least(allowed, (greatest(g_burst[limiter], cost) - g_ahead[limiter]) / cost);
                wait := greatest(
                    wait, g_ahead[limiter] + cost - greatest(g_burst[limiter], cost)
                );
            end if;
        end loop;
        if wait > 0 then
            wait_ms := (wait + 999) / 1000;
        end if;
        if allowed < 1 then
            return next;
            continue;
        end if;

        rows := '{}';
        taken := 0;
        seen := 0;
        begun := null;
        if l.ordered then
            r := queue.next_in_strict_lane(p_queue, l.lane, l.tenant, l.head, lost_free, moment);
            if r.is_held then
                wait_ms := r.wait_ms;
                return next;
                continue;
            end if;
            if r.place is not null and r.weight > memory then
                closed := false;
                return next;
                continue;
            end if;
            if r.place is not null then
                memory := memory - r.weight;
                rows := array[r.place];
                taken := 1;
                begun := r.begun;
                lost_free := lost_free and not r.lost;
            end if;
        else
            for r in
                select * from (
                    select p.ctid as t, 1 as jobs, true as lost, coalesce(p.bytes, 1024) as bytes
                    from queue.parcels p
                    where lost_free and p.queue = p_queue and p.lane = l.lane and p.state = 'a'
                        and p.lost
                    order by p.priority, p.run_at, p.id
                    limit 1
                    for update skip locked
                ) first
                union all
                select * from (
                    select
                        p.ctid, p.n - coalesce(cardinality(p.gone), 0), false,
                        coalesce(p.bytes, 1024)
                    from queue.parcels p
                    where p.queue = p_queue and p.lane = l.lane and p.state = 'a' and not p.lost
                        and p.priority >= case when l.priority < 0
                            then queue.longest_waiting_priority(p_queue, l.lane, moment) else 0 end
                        and (p.expires_at is null or p.expires_at > moment
                            or p.started_at is not null)
                    order by p.priority, p.run_at, p.id
                    limit least(allowed, l.depth)
                    for update skip locked
                ) others
            loop
                seen := seen + 1;
                if taken > 0 and r.jobs > allowed - taken or r.bytes > memory then
                    -- Left for the next turn rather than split.
                    seen := l.depth;
                    exit;
                end if;
                if r.jobs > allowed then
                    r.t := queue.split_parcel(r.t, allowed::int4);
                    r.jobs := allowed;
                    seen := l.depth;
                end if;
                rows := rows || r.t;
                taken := taken + r.jobs;
                memory := memory - r.bytes;
                lost_free := lost_free and not r.lost;
            end loop;
        end if;

        if taken > 0 then
            starts := starts - taken;
            room := room - taken;
            for nth in 1 .. cardinality(passed) loop
                limiter := passed[nth];
                g_running[limiter] := g_running[limiter] + taken;
                g_ahead[limiter] := g_ahead[limiter] + taken * costs[nth] * g_every[limiter];
            end loop;
            if l.ordered and begun is not null or l.breaker = 'o' or l.parked_until is not null then
                update queue.lanes a
                set head = case when l.ordered then coalesce(begun, a.head) else a.head end,
                    breaker = case when l.breaker = 'o' then 'h' else a.breaker end,
                    parked_until = null
                where a.id = l.lane;
            end if;
        end if;
        -- A strict lane has nothing more until this job has ended.
        closed := l.ordered and taken > 0;
        wait_ms := null;
        drawn := cardinality(rows);
        spent := not closed and seen < least(allowed, l.depth);
        return next;
        if taken > 0 then
            return query
            select
                p.lane, false, null::bigint, false, 0, p.id, p.part, p.tenant, p.kind, p.priority, p.attempt,
                p.max_attempts, p.deferrals, p.lo, p.n, p.ids, p.gone, p.run_at, p.started_at,
                p.lost, l.parks, p.body
            from queue.lease_rows(rows, nullif(held, '{}'), p_lease, p_token, l.breaker = 'o', moment) p
            order by p.priority, p.run_at, p.id, p.lo;
        end if;
    end loop;

    if g_id is not null then
        update queue.limiters g
        set running = case when g.max_running is null then g.running else u.running end,
            rate_tat = case when u.ahead > 0
                then moment + u.ahead * interval '1 microsecond' else g.rate_tat end
        from unnest(g_id, g_running, g_ahead) as u(id, running, ahead)
        where g.id = u.id
            and (g.max_running is not null and g.running <> u.running
                or u.ahead > 0 and g.rate_tat <> moment + u.ahead * interval '1 microsecond');
    end if;
    if cardinality(plain) = 0 or room < 1 then
        return;
    end if;
    return query
    select * from queue.claim_unlimited(
        p_queue, p_lease, p_token, p_lanes, p_shares, p_depths, p_priorities, p_run_ats, plain,
        parking, room, memory, lost_free, moment
    );
end
$$;

revoke execute on function queue.claim(
    int4, bigint, bigint, bigint[], int4[], int4[], int2[], timestamptz[], int4, int4, int4,
    boolean
) from public;
grant execute on function queue.claim(
    int4, bigint, bigint, bigint[], int4[], int4[], int2[], timestamptz[], int4, int4, int4,
    boolean
) to harkara_engine;
