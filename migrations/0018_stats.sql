-- Counting: what is folded, read, and put right. See 0010 for what is written where.
-- Locks: SHARE on queue.history while its index is built; SHARE UPDATE EXCLUSIVE on queue.deltas.
-- Previous release: must be stopped, as for 0010.

-- Rows live for a second. No truncation: it would stop those who append for a moment.
alter table queue.deltas set (
    autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = false
);
-- For what goes across tenants: retention, and what a minute was like for all of them.
create index history_moments on queue.history (span, at);

-- Changes that are not folded yet, of a tenant or (null) of all. Read beside queue.tallies, in one
-- statement, they make what is true now: a fold adds, removes and moves queue.folded.upto in one
-- transaction, so that a snapshot sees each change in one of the two places.
-- What the last fold saw is not looked at, even where its rows cannot be vacuumed away yet.
-- A function, to pin the plan: the table is as good as empty when statistics are gathered.
create function queue.unfolded(p_tenant int4) returns setof queue.deltas
language plpgsql stable rows 100
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    seen pg_snapshot := (select f.upto from queue.folded f);
    edge xid8 := pg_snapshot_xmax(seen);
    -- Writers that were at work then.
    late xid8[] := array(select pg_snapshot_xip(seen));
begin
    return query
    select d.* from queue.deltas d
    where d.xid >= edge and (p_tenant is null or d.tenant = p_tenant)
    union all
    select d.* from queue.deltas d
    where d.xid = any (late) and (p_tenant is null or d.tenant = p_tenant);
end
$$;

-- How many jobs there are in each state that has a count, by counting them: of a row, its members that
-- have neither left nor finished. Finished rows are not read.
create function queue.counted()
returns table (
    tenant int4, queue int4, kind int4, scheduled int8, ready int8, running int8, dead int8
)
language sql stable as $$
    select
        p.tenant, p.queue, p.kind,
        coalesce(sum(p.jobs) filter (where p.state = 's'), 0)::int8,
        coalesce(sum(p.jobs) filter (where p.state = 'a'), 0)::int8,
        coalesce(sum(p.jobs) filter (where p.state = 'r'), 0)::int8,
        coalesce(sum(p.jobs) filter (where p.state = 'x'), 0)::int8
    from (
        select r.tenant, r.queue, r.kind, r.state,
            greatest(0, r.n - coalesce(cardinality(r.gone), 0) - coalesce(cardinality(r.acked), 0))
                as jobs
        from queue.parcels r
        where r.state in ('s', 'a', 'r', 'x')
    ) p
    group by p.tenant, p.queue, p.kind
$$;

-- What the counters say and what is there, where the two differ, at one moment.
create function queue.drift()
returns table (tenant int4, queue int4, kind int4, state text, told int8, counted int8)
language sql stable as $$
    with told as (
        select t.tenant, t.queue, t.kind, sum(t.scheduled) as scheduled, sum(t.ready) as ready,
            sum(t.running) as running, sum(t.dead) as dead
        from (
            select a.tenant, a.queue, a.kind, a.scheduled, a.ready, a.running, a.dead
            from queue.tallies a
            union all
            select d.tenant, d.queue, d.kind, d.scheduled, d.ready, d.running, d.dead
            from queue.unfolded(null) d
        ) t
        group by t.tenant, t.queue, t.kind
    )
    select tenant, queue, kind, s.state, s.told::int8, s.counted::int8
    from told t full join queue.counted() c using (tenant, queue, kind)
    cross join lateral (
        values
            ('scheduled', coalesce(t.scheduled, 0), coalesce(c.scheduled, 0)),
            ('ready', coalesce(t.ready, 0), coalesce(c.ready, 0)),
            ('running', coalesce(t.running, 0), coalesce(c.running, 0)),
            ('dead', coalesce(t.dead, 0), coalesce(c.dead, 0))
    ) s(state, told, counted)
    where s.told <> s.counted
$$;

-- Sets the counters right by counting, at one moment, while others go on; answers how many counters
-- were wrong. Changes that are not folded stay where they are: the counters are what was counted, less
-- these. `upto` goes back to the beginning, so that the next fold takes whatever is there.
-- Called by a fold, too, whose settings are not made for it.
create function queue.recount() returns int8 language plpgsql
set enable_seqscan = on set enable_bitmapscan = on set jit = off as $$
declare
    wrong int8;
begin
    perform from queue.folded f for update;
    with unfolded as materialized (
        select d.tenant, d.queue, d.kind, sum(d.scheduled) as scheduled, sum(d.ready) as ready,
            sum(d.running) as running, sum(d.dead) as dead
        from queue.deltas d
        group by d.tenant, d.queue, d.kind
    ),
    want as materialized (
        select
            tenant, queue, kind,
            coalesce(c.scheduled, 0) - coalesce(u.scheduled, 0) as scheduled,
            coalesce(c.ready, 0) - coalesce(u.ready, 0) as ready,
            coalesce(c.running, 0) - coalesce(u.running, 0) as running,
            coalesce(c.dead, 0) - coalesce(u.dead, 0) as dead
        from queue.counted() c
        full join unfolded u using (tenant, queue, kind)
        full join queue.tallies t using (tenant, queue, kind)
    ),
    written as (
        insert into queue.tallies as t (tenant, queue, kind, scheduled, ready, running, dead)
        select tenant, queue, kind, scheduled, ready, running, dead from want
        on conflict (tenant, queue, kind) do update
        set scheduled = excluded.scheduled, ready = excluded.ready, running = excluded.running,
            dead = excluded.dead
        where (t.scheduled, t.ready, t.running, t.dead)
            <> (excluded.scheduled, excluded.ready, excluded.running, excluded.dead)
        returning 1
    ),
    begun as (
        update queue.folded set upto = '1:1:'
    )
    select count(*) into wrong from written;
    return wrong;
end
$$;

-- Two rows of classes added up.
create function queue.add_up(p_one int8[], p_other int8[]) returns int8[]
language sql immutable as $$
    select case
        when p_one is null then p_other
        when p_other is null then p_one
        else array(
            select coalesce(u.one, 0) + coalesce(u.other, 0)
            from rows from (unnest(p_one), unnest(p_other)) with ordinality as u(one, other, nth)
            order by u.nth
        )
    end
$$;

-- Adds what is not folded yet to the counters and to the past, at most p_most rows, and removes it;
-- answers how many rows that were, null while somebody else folds. One statement reads, adds and
-- removes, and says up to where: at what its own snapshot saw. A transaction that was open then is
-- named in it and taken when it has committed, however late. Where more than p_most rows are there,
-- `upto` stays, and the next fold goes on.
-- Not waited for by its commit: what a crash undoes is folded again.
create function queue.fold(p_most int4) returns int4 language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    seen pg_snapshot;
    edge xid8;
    late xid8[];
    taken int4;
begin
    select f.upto into seen from queue.folded f for update skip locked;
    if not found then
        return null;
    end if;
    perform set_config('synchronous_commit', 'off', true);
    -- A database that was restored from another server's begins again with its transactions' numbers.
    if pg_snapshot_xmax(seen) > pg_snapshot_xmax(pg_current_snapshot()) then
        perform queue.recount();
        select f.upto into seen from queue.folded f;
    end if;
    edge := pg_snapshot_xmax(seen);
    late := array(select pg_snapshot_xip(seen));
    with new as materialized (
        select * from (
            select d.ctid as t, d.* from queue.deltas d where d.xid = any (late)
            union all
            select d.ctid as t, d.* from queue.deltas d where d.xid >= edge
        ) d
        limit p_most
    ),
    removed as (
        delete from queue.deltas d where d.ctid = any (array(select n.t from new n))
    ),
    tallied as (
        insert into queue.tallies as t (tenant, queue, kind, scheduled, ready, running, dead)
        select n.tenant, n.queue, n.kind, sum(n.scheduled), sum(n.ready), sum(n.running), sum(n.dead)
        from new n
        group by n.tenant, n.queue, n.kind
        having sum(n.scheduled) <> 0 or sum(n.ready) <> 0 or sum(n.running) <> 0 or sum(n.dead) <> 0
        on conflict (tenant, queue, kind) do update
        set scheduled = t.scheduled + excluded.scheduled, ready = t.ready + excluded.ready,
            running = t.running + excluded.running, dead = t.dead + excluded.dead
    ),
    told as (
        insert into queue.history as h (
            tenant, span, at, queue, kind, enqueued, started, succeeded, retried, died, cancelled,
            waits, runs
        )
        select
            n.tenant, s.span, s.at, o.queue, o.kind, sum(n.enqueued), sum(n.started),
            sum(n.succeeded), sum(n.retried), sum(n.died), sum(n.cancelled),
            case when count(n.waits) > 0 then array[coalesce(sum(n.waits[1]), 0), coalesce(sum(n.waits[2]), 0),
                coalesce(sum(n.waits[3]), 0), coalesce(sum(n.waits[4]), 0), coalesce(sum(n.waits[5]),
                0), coalesce(sum(n.waits[6]), 0), coalesce(sum(n.waits[7]), 0),
                coalesce(sum(n.waits[8]), 0), coalesce(sum(n.waits[9]), 0), coalesce(sum(n.waits[10]),
                0), coalesce(sum(n.waits[11]), 0), coalesce(sum(n.waits[12]), 0),
                coalesce(sum(n.waits[13]), 0), coalesce(sum(n.waits[14]), 0), coalesce(sum(n.waits[15]),
                0), coalesce(sum(n.waits[16]), 0), coalesce(sum(n.waits[17]), 0),
                coalesce(sum(n.waits[18]), 0), coalesce(sum(n.waits[19]), 0)] end,
            case when count(n.runs) > 0 then array[coalesce(sum(n.runs[1]), 0), coalesce(sum(n.runs[2]), 0), coalesce(sum(n.runs[3]),
                0), coalesce(sum(n.runs[4]), 0), coalesce(sum(n.runs[5]), 0), coalesce(sum(n.runs[6]),
                0), coalesce(sum(n.runs[7]), 0), coalesce(sum(n.runs[8]), 0), coalesce(sum(n.runs[9]),
                0), coalesce(sum(n.runs[10]), 0), coalesce(sum(n.runs[11]), 0),
                coalesce(sum(n.runs[12]), 0), coalesce(sum(n.runs[13]), 0), coalesce(sum(n.runs[14]),
                0), coalesce(sum(n.runs[15]), 0), coalesce(sum(n.runs[16]), 0),
                coalesce(sum(n.runs[17]), 0), coalesce(sum(n.runs[18]), 0), coalesce(sum(n.runs[19]),
                0)] end
        from new n
        cross join lateral (
            values ('m'::"char", n.minute), ('h'::"char", date_trunc('hour', n.minute, 'UTC'))
        ) s(span, at)
        -- What happened in all queues together stands in the place of queue 0 and kind 0: whoever asks
        -- for that reads one row a step.
        cross join lateral (values (n.queue, n.kind), (0, 0)) o(queue, kind)
        group by n.tenant, s.span, s.at, o.queue, o.kind
        having sum(n.enqueued) <> 0 or sum(n.started) <> 0 or sum(n.succeeded) <> 0
            or sum(n.retried) <> 0 or sum(n.died) <> 0 or sum(n.cancelled) <> 0
        on conflict (tenant, span, at, queue, kind) do update
        set enqueued = h.enqueued + excluded.enqueued, started = h.started + excluded.started,
            succeeded = h.succeeded + excluded.succeeded, retried = h.retried + excluded.retried,
            died = h.died + excluded.died, cancelled = h.cancelled + excluded.cancelled,
            waits = queue.add_up(h.waits, excluded.waits), runs = queue.add_up(h.runs, excluded.runs)
    ),
    moved as (
        update queue.folded set upto = pg_current_snapshot()
        where (select count(*) from new) < p_most
    )
    select count(*) into taken from new;
    return taken;
end
$$;

-- Since when the oldest job that could start now has been due, for each of the queues that has one; of a
-- tenant, or (null) of all. Jobs of queues, tenants and lanes that are paused, and of lanes that are
-- parked, could not. In each lane the first job of each priority is looked at, by parcels_ready; of a
-- queue at most p_lanes lanes: the tenant's first by key, or the first of all that have ready jobs. Of
-- jobs that lost their worker, by parcels_lost, the hundred that have been due for longest.
create function queue.oldest_ready(p_queues int4[], p_tenant int4, p_lanes int4)
returns table (queue int4, run_at timestamptz)
language plpgsql stable rows 10
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    with recursive asked as materialized (
        select q.id as queue from queue.queues q where q.id = any (p_queues) and not q.paused
    ),
    own as materialized (
        select a.queue, l.id as lane
        from asked a cross join lateral (
            select l.id from queue.lanes l
            where l.queue = a.queue and l.tenant = p_tenant
            order by l.key
            limit p_lanes
        ) l
        where p_tenant is not null
    ),
    any_lane(queue, lane, nth) as (
        select a.queue, n.lane, 1
        from asked a cross join lateral (
            select p.lane from queue.parcels p
            where p.queue = a.queue and p.state = 'a' and not p.lost
            order by p.lane
            limit 1
        ) n
        where p_tenant is null
        union all
        select l.queue, n.lane, l.nth + 1
        from any_lane l cross join lateral (
            select p.lane from queue.parcels p
            where p.queue = l.queue and p.state = 'a' and not p.lost and p.lane > l.lane
            order by p.lane
            limit 1
        ) n
        where l.nth < p_lanes
    ),
    open_lane as materialized (
        select c.queue, c.lane
        from (select o.queue, o.lane from own o union all select y.queue, y.lane from any_lane y) c
        -- Limited, so that each is found by itself, and lanes are not read from end to end.
        cross join lateral (
            select k.tenant, k.paused, k.parked_until from queue.lanes k where k.id = c.lane limit 1
        ) l
        cross join lateral (
            select o.paused from queue.tenants o where o.number = l.tenant limit 1
        ) t
        where not l.paused and not t.paused and (l.parked_until is null or l.parked_until <= now())
    ),
    level(queue, lane, priority, run_at) as (
        select o.queue, o.lane, n.priority, n.run_at
        from open_lane o cross join lateral (
            select p.priority, p.run_at from queue.parcels p
            where p.queue = o.queue and p.lane = o.lane and p.state = 'a' and not p.lost
            order by p.priority, p.run_at
            limit 1
        ) n
        union all
        select v.queue, v.lane, n.priority, n.run_at
        from level v cross join lateral (
            select p.priority, p.run_at from queue.parcels p
            where p.queue = v.queue and p.lane = v.lane and p.state = 'a' and not p.lost
              and p.priority > v.priority
            order by p.priority, p.run_at
            limit 1
        ) n
    ),
    lost as materialized (
        select a.queue, o.run_at
        from asked a
        cross join lateral (
            select p.lane, p.run_at from queue.parcels p
            where p.queue = a.queue and p.state = 'a' and p.lost
            order by p.run_at
            limit 100
        ) o
        cross join lateral (
            select k.tenant, k.paused, k.parked_until from queue.lanes k where k.id = o.lane limit 1
        ) l
        cross join lateral (
            select c.paused from queue.tenants c where c.number = l.tenant limit 1
        ) t
        where not l.paused and not t.paused and (l.parked_until is null or l.parked_until <= now())
          and (p_tenant is null or l.tenant = p_tenant)
    )
    select f.queue, min(f.run_at)
    from (select v.queue, v.run_at from level v union all select k.queue, k.run_at from lost k) f
    group by f.queue;
end
$$;

-- The ids of at most p_limit of a tenant's jobs that match, newest first, older than job p_before, and
-- beside them, if the looking ended before the jobs did, the id below which to go on: at most p_rows rows
-- are looked at. At least one line is answered, without a job if there is none. Scheduled, dead and
-- cancelled jobs are found by parcels_aside, running ones by parcels_running, others by the primary
-- key, read downwards from the cursor; other filters drop rows on the way.
--
-- The jobs of a row lie between its own id and the end of its block of 1024 parcel ids: right there,
-- but for merged rows. So rows are taken until they hold a page; what is newer than the last of them
-- is complete, but for merged rows further down in its block, and these are looked at besides. Only
-- the rows of a page are unpacked, and no body is.
-- A function, to pin the plan: no row may be read that is not looked at.
create function queue.list_jobs(
    p_tenant uuid, p_before int8, p_limit int8, p_state text, p_kind text, p_queue text,
    p_after timestamptz, p_until timestamptz, p_error text, p_rows int8
)
returns table (job int8, below int8)
language plpgsql stable rows 50
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    with cursor as materialized (
        select
            (select t.number from queue.tenants t where t.id = p_tenant) as tenant,
            c.job, (c.job - 1) / 1024 as parcel, (c.job - 1) / 1024 / 1024 * 1024 as block,
            (select k.id from queue.kinds k where k.name = p_kind) as kind,
            (select q.id from queue.queues q where q.name = p_queue) as queue
        from (select coalesce(p_before, 9223372036854775807) as job) c
    ),
    -- So many that they are no short way are looked for like others.
    running as materialized (
        select
            p.id, p.part, p.lo, p.n, p.gone, p.acked, p.ids, p.created, p.created_at, p.state, p.kind,
            p.queue, p.error_code
        from queue.parcels p
        where p_state = 'r' and p.state = 'r' and p.tenant = (select tenant from cursor)
        order by p.lease
        limit p_rows
    ),
    looked as materialized (
        (
            select
                p.id, p.part, p.lo, p.n, p.gone, p.acked, p.ids, p.created, p.created_at, p.state, p.kind,
                p.queue, p.error_code
            from queue.parcels p
            where (
                  p_state is null or p_state in ('a', 'd')
                  or p_state = 'r' and (select count(*) from running) >= p_rows
              )
              and p.tenant = (select tenant from cursor)
              and p.id <= (select parcel from cursor)
            order by p.id desc
            fetch first (p_rows) rows with ties
        )
        union all
        (
            select
                p.id, p.part, p.lo, p.n, p.gone, p.acked, p.ids, p.created, p.created_at, p.state, p.kind,
                p.queue, p.error_code
            from queue.parcels p
            where p_state in ('s', 'x', 'c')
              and p.state in ('s', 'x', 'c')
              and p.state = p_state::"char"
              and p.tenant = (select tenant from cursor)
              and p.id <= (select parcel from cursor)
            order by p.id desc
            fetch first (p_rows) rows with ties
        )
        union all
        select r.* from running r
        where (select count(*) from running) < p_rows and r.id <= (select parcel from cursor)
    ),
    -- Where the looking ended. Nothing below was enqueued later than what was looked at last, but for a
    -- transaction that began long before it wrote: where that is an hour before the time asked for, all
    -- that follows is.
    ended as materialized (
        select
            case
                when count(*) >= p_rows
                    and not coalesce(
                        (array_agg(l.created_at order by l.id))[1] < p_after - interval '1 hour',
                        false
                    )
                then min(l.id)
            end as id
        from looked l
    ),
    head as materialized (
        select h.id, h.part, h.jobs
        from (
            select p.id, p.part, case
                -- Members count one by one where the cursor or the filter goes through the row.
                when p.id = (select parcel from cursor)
                    or p.ids is not null and p.id >= (select block from cursor)
                    or p.created is not null and coalesce(p_after, p_until) is not null
                then (
                    select count(*)
                    from rows from (generate_series(1, p.n), unnest(p.ids), unnest(p.created))
                        as u(i, job, created)
                    where coalesce(u.job, p.id * 1024 + p.lo + u.i - 1) < (select job from cursor)
                      and u.i <> all (coalesce(p.gone, '{}'))
                      and (
                          p_state is null
                          or case when u.i = any (p.acked) then 'd' else p.state end = p_state::"char"
                      )
                      and (p_after is null or coalesce(u.created, p.created_at) >= p_after)
                      and (p_until is null or coalesce(u.created, p.created_at) < p_until)
                )
                when p.created_at < p_after or p.created_at >= p_until then 0
                when p_state is null or p.state = 'd' then p.n - coalesce(cardinality(p.gone), 0)
                when p_state = 'd' then coalesce(cardinality(p.acked), 0)
                else p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0)
            end as jobs
            from looked p
            where (
                  p_state is null or p.state = p_state::"char" or p_state = 'd' and p.acked is not null
              )
              and (p_kind is null or p.kind = (select kind from cursor))
              and (p_queue is null or p.queue = (select queue from cursor))
              and (p_error is null or p.error_code = p_error)
        ) h
        where h.jobs > 0
        order by h.id desc
        fetch first (p_limit) rows with ties
    ),
    page as materialized (
        select a.id, a.part
        from (
            select h.id, h.part, sum(h.jobs) over (
                order by h.id desc groups between unbounded preceding and 1 preceding
            ) as newer
            from head h
        ) a
        where coalesce(a.newer, 0) < p_limit
    ),
    -- What is newer than this is complete: all of the page, if it is full, or all that was looked at.
    edge as materialized (
        select e.id, e.id / 1024 * 1024 as block
        from (
            select case
                when e.id is not null and (select coalesce(sum(h.jobs), 0) from head h) < p_limit then e.id
                else (select min(g.id) from page g)
            end as id
            from ended e
        ) e
    ),
    rows as materialized (
        select g.id, g.part from page g
        union all
        select m.id, m.part
        from edge e cross join lateral (
            select p.id, p.part from queue.parcels p
            where p.tenant = (select tenant from cursor)
              and p.id >= e.block and p.id < e.id and p.part = 0 and p.ids is not null
            offset 0
        ) m
    ),
    found as materialized (
        select m.job
        from rows r
        cross join lateral (
            select * from queue.parcels p
            where p.tenant = (select tenant from cursor) and p.id = r.id and p.part = r.part
            limit 1
        ) p
        cross join lateral (
            select
                coalesce(u.job, p.id * 1024 + p.lo + u.i - 1) as job,
                coalesce(u.created, p.created_at) as created_at,
                case when u.i = any (p.acked) then 'd' else p.state end as state
            from rows from (generate_series(1, p.n), unnest(p.ids), unnest(p.created))
                as u(i, job, created)
            where u.i <> all (coalesce(p.gone, '{}'))
        ) m
        where m.job < (select job from cursor)
          and ((select id from ended) is null or m.job >= (select id from ended) * 1024)
          and (p_state is null or m.state = p_state::"char")
          and (p_kind is null or p.kind = (select kind from cursor))
          and (p_queue is null or p.queue = (select queue from cursor))
          and (p_after is null or m.created_at >= p_after)
          and (p_until is null or m.created_at < p_until)
          and (p_error is null or p.error_code = p_error)
        order by m.job desc
        limit p_limit
    )
    select f.job, e.id * 1024 as below
    from ended e left join found f on true
    order by f.job desc;
end
$$;

revoke execute on function
    queue.unfolded(int4), queue.counted(), queue.drift(), queue.recount(), queue.add_up(int8[], int8[]),
    queue.fold(int4), queue.oldest_ready(int4[], int4, int4),
    queue.list_jobs(uuid, int8, int8, text, text, text, timestamptz, timestamptz, text, int8)
    from public;
grant execute on function
    queue.unfolded(int4), queue.counted(), queue.drift(), queue.recount(), queue.add_up(int8[], int8[]),
    queue.fold(int4), queue.oldest_ready(int4[], int4, int4),
    queue.list_jobs(uuid, int8, int8, text, text, text, timestamptz, timestamptz, text, int8)
    to harkara_engine;
grant execute on function
    queue.unfolded(int4),
    queue.list_jobs(uuid, int8, int8, text, text, text, timestamptz, timestamptz, text, int8)
    to harkara_app;
