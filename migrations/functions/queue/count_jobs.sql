-- Counts the jobs in each state that has a counter: of a row, the members that have neither left nor finished.
-- Finished rows are not read.
create or replace function queue.count_jobs()
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

revoke execute on function queue.count_jobs() from public;
grant execute on function queue.count_jobs() to harkara_engine;
