-- Writes the deltas of jobs of each queue and kind that left the states p_from for the states p_to.
create or replace function queue.record_state_changes(
    p_tenants int4[], p_queues int4[], p_kinds int4[], p_from text[], p_to text[], p_jobs int4[]
) returns void
language sql volatile as $$
    insert into queue.deltas (tenant, queue, kind, scheduled, ready, dead, cancelled)
    select * from (
        select
            m.tenant, m.queue, m.kind,
            sum(case when m.came = 's' then m.jobs else 0 end
                - case when m.was = 's' then m.jobs else 0 end)::int4 as scheduled,
            sum(case when m.came = 'a' then m.jobs else 0 end
                - case when m.was = 'a' then m.jobs else 0 end)::int4 as ready,
            -sum(case when m.was = 'x' then m.jobs else 0 end)::int4 as dead,
            sum(case when m.came = 'c' then m.jobs else 0 end)::int4 as cancelled
        from unnest(p_tenants, p_queues, p_kinds, p_from, p_to, p_jobs)
            as m(tenant, queue, kind, was, came, jobs)
        group by m.tenant, m.queue, m.kind
    ) d
    where d.scheduled <> 0 or d.ready <> 0 or d.dead <> 0 or d.cancelled <> 0
$$;

revoke execute on function queue.record_state_changes(
    int4[], int4[], int4[], text[], text[], int4[]
) from public;
grant execute on function queue.record_state_changes(
    int4[], int4[], int4[], text[], text[], int4[]
) to harkara_app, harkara_engine;
