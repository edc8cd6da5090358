-- Corrects the counters by counting, at one moment, while jobs go on; returns how many counters were wrong.
-- Deltas that are not rolled up stay: each counter becomes the counted number minus these. The recorded snapshot
-- is reset, so that the next rollup takes every delta. Called by a rollup as well, whose settings do not fit.
create or replace function queue.recount() returns int8 language plpgsql
set enable_seqscan = on set enable_bitmapscan = on set jit = off as $$
declare
    wrong int8;
begin
    perform from queue.rollup_state f for update;
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
        from queue.count_jobs() c
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
        update queue.rollup_state set last_snapshot = '1:1:'
    )
    select count(*) into wrong from written;
    return wrong;
end
$$;

revoke execute on function queue.recount() from public;
grant execute on function queue.recount() to harkara_engine;
