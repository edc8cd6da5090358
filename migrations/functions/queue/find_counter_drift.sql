-- Where the counters and the jobs differ, at one moment.
create or replace function queue.find_counter_drift()
returns table (tenant int4, queue int4, kind int4, state text, recorded int8, counted int8)
language sql stable as $$
    with recorded as (
        select t.tenant, t.queue, t.kind, sum(t.scheduled) as scheduled, sum(t.ready) as ready,
            sum(t.running) as running, sum(t.dead) as dead
        from (
            select a.tenant, a.queue, a.kind, a.scheduled, a.ready, a.running, a.dead
            from queue.tallies a
            union all
            select d.tenant, d.queue, d.kind, d.scheduled, d.ready, d.running, d.dead
            from queue.pending_deltas(null) d
        ) t
        group by t.tenant, t.queue, t.kind
    )
    select tenant, queue, kind, s.state, s.recorded::int8, s.counted::int8
    from recorded t full join queue.count_jobs() c using (tenant, queue, kind)
    cross join lateral (
        values
            ('scheduled', coalesce(t.scheduled, 0), coalesce(c.scheduled, 0)),
            ('ready', coalesce(t.ready, 0), coalesce(c.ready, 0)),
            ('running', coalesce(t.running, 0), coalesce(c.running, 0)),
            ('dead', coalesce(t.dead, 0), coalesce(c.dead, 0))
    ) s(state, recorded, counted)
    where s.recorded <> s.counted
$$;

revoke execute on function queue.find_counter_drift() from public;
grant execute on function queue.find_counter_drift() to harkara_engine;
