-- Groups jobs by the rows that hold them: which members are meant, and how many the row holds. `whole` is true
-- when the row itself changes, since all members still in it are meant; `last` when no member stays. A row that
-- most members have left is emptied instead: their bodies are still in it.
create or replace function queue.group_jobs_by_row(p_jobs bigint[], p_rows tid[], p_members int2[])
returns table (
    place tid, jobs bigint[], members int2[], whole boolean, last boolean, tenant int4, id bigint,
    part int2, lane bigint, queue int4, kind int4, state "char", strict boolean, keyed boolean,
    acked int2[]
)
language plpgsql stable rows 10
set enable_seqscan = off set enable_nestloop = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    with asked as materialized (
        select
            u.place, array_agg(u.job order by u.member) as jobs,
            array_agg(u.member order by u.member) as members
        from unnest(p_jobs, p_rows, p_members) as u(job, place, member)
        group by u.place
    )
    select
        a.place, a.jobs, a.members, c.last and p.n < 2 * cardinality(a.members), c.last, p.tenant,
        p.id, p.part, p.lane, p.queue, p.kind, p.state, p.strict, p.keyed, p.acked
    from asked a
    cross join lateral (
        select * from queue.parcels r where r.ctid = a.place limit 1
    ) p
    cross join lateral (
        select p.n - coalesce(cardinality(p.gone), 0) = cardinality(a.members) as last
    ) c;
end
$$;

revoke execute on function queue.group_jobs_by_row(bigint[], tid[], int2[]) from public;
grant execute on function queue.group_jobs_by_row(bigint[], tid[], int2[]) to harkara_app, harkara_engine;
