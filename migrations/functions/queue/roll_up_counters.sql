-- Adds at most p_limit deltas to the counters and the history, and removes them; returns their number, null
-- while another process does so. One statement reads, adds and removes, and records its own snapshot. A
-- transaction that was open then is listed in that snapshot and its deltas are taken when it has committed,
-- however late. Where more than p_limit rows exist, the snapshot stays, and the next rollup continues. Commits
-- asynchronously: after a crash the work is done again.
create or replace function queue.roll_up_counters(p_limit int4) returns int4 language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    seen pg_snapshot;
    edge xid8;
    late xid8[];
    taken int4;
begin
    select f.last_snapshot into seen from queue.rollup_state f for update skip locked;
    if not found then
        return null;
    end if;
    perform set_config('synchronous_commit', 'off', true);
    -- A database restored on another server restarts its transaction ids.
    if pg_snapshot_xmax(seen) > pg_snapshot_xmax(pg_current_snapshot()) then
        perform queue.recount();
        select f.last_snapshot into seen from queue.rollup_state f;
    end if;
    edge := pg_snapshot_xmax(seen);
    late := array(select pg_snapshot_xip(seen));
    with new as materialized (
        select * from (
            select d.ctid as t, d.* from queue.deltas d where d.xid = any (late)
            union all
            select d.ctid as t, d.* from queue.deltas d where d.xid >= edge
        ) d
        limit p_limit
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
    recorded as (
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
        -- Queue 0 and kind 0 hold the sum of all queues, so that a query of the total reads one row a step.
        cross join lateral (values (n.queue, n.kind), (0, 0)) o(queue, kind)
        group by n.tenant, s.span, s.at, o.queue, o.kind
        having sum(n.enqueued) <> 0 or sum(n.started) <> 0 or sum(n.succeeded) <> 0
            or sum(n.retried) <> 0 or sum(n.died) <> 0 or sum(n.cancelled) <> 0
        on conflict (tenant, span, at, queue, kind) do update
        set enqueued = h.enqueued + excluded.enqueued, started = h.started + excluded.started,
            succeeded = h.succeeded + excluded.succeeded, retried = h.retried + excluded.retried,
            died = h.died + excluded.died, cancelled = h.cancelled + excluded.cancelled,
            waits = queue.add_class_counts(h.waits, excluded.waits), runs = queue.add_class_counts(h.runs, excluded.runs)
    ),
    moved as (
        update queue.rollup_state set last_snapshot = pg_current_snapshot()
        where (select count(*) from new) < p_limit
    )
    select count(*) into taken from new;
    return taken;
end
$$;

revoke execute on function queue.roll_up_counters(int4) from public;
grant execute on function queue.roll_up_counters(int4) to harkara_engine;
