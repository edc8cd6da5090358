-- What the counters say and what is there, where the two differ, at one moment.
create or replace function queue.drift()
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

revoke execute on function queue.drift() from public;
grant execute on function queue.drift() to harkara_engine;
