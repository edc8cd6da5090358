-- Deletes finished jobs, with their labels, progress and expired keys. Returns the state of each job and whether
-- it was deleted; `holder` is the job itself while it still holds a timed unique key, since a duplicate of the
-- key is answered with the job. The log of its runs is removed with its daily partition.
create or replace function queue.delete_jobs(p_jobs bigint[])
returns table (job bigint, state text, changed boolean, holder bigint)
language plpgsql volatile
set enable_seqscan = off set enable_nestloop = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    jobs bigint[];
    places tid[];
    members int2[];
    states text[];
    keyed bigint[];
    held bigint[];
    removed tid[];
begin
    select
        array_agg(h.job), array_agg(h.place), array_agg(h.member),
        -- A member that succeeded while others of its row still run cannot leave the row yet.
        array_agg(case when h.runs then 'r' else h.state::text end),
        array_agg(h.job) filter (where h.keyed and h.state in ('d', 'x', 'c'))
    into jobs, places, members, states, keyed
    from queue.lock_jobs(p_jobs) h;
    if jobs is null then
        return;
    end if;
    if keyed is not null then
        select array_agg(k.job_id) into held
        from queue.unique_keys k
        where k.job_id = any (keyed) and k.expires_at > now();
    end if;
    return query
    select u.job, u.state, false, case when u.job = any (held) then u.job end
    from unnest(jobs, states) as u(job, state)
    where u.state not in ('d', 'x', 'c') or u.job = any (held);
    select array_agg(u.job), array_agg(u.place), array_agg(u.member), array_agg(u.state)
    into jobs, places, members, states
    from unnest(jobs, places, members, states) as u(job, place, member, state)
    where u.state in ('d', 'x', 'c') and u.job <> all (coalesce(held, '{}'));
    if jobs is null then
        return;
    end if;
    with seen as materialized (
        select * from queue.group_jobs_by_row(jobs, places, members)
    ),
    changed as (
        update queue.parcels p set gone = p.gone || s.members
        from seen s
        where p.ctid = any (array(select place from seen where not last)) and p.ctid = s.place
    ),
    counted as (
        select queue.record_state_changes(
            array_agg(tenant), array_agg(queue), array_agg(kind), array_agg(state::text),
            array_agg(null::text), array_agg(cardinality(members))
        )
        from seen
    )
    select array_agg(s.place) filter (where s.last) into removed
    from seen s
    where (select count(*) from counted) >= 0;
    if removed is not null then
        perform queue.delete_parcels(removed);
    end if;
    delete from queue.labels l where l.job_id = any (jobs);
    delete from queue.progress g where g.job_id = any (jobs);
    if keyed is not null then
        perform from queue.unique_keys k
        where k.job_id = any (keyed) and k.expires_at <= now()
        order by k.tenant, k.kind, k.key
        for update;
        delete from queue.unique_keys k
        where k.job_id = any (keyed) and k.expires_at <= now();
    end if;
    return query select u.job, u.state, true, null::bigint from unnest(jobs, states) as u(job, state);
end
$$;

revoke execute on function queue.delete_jobs(bigint[]) from public;
grant execute on function queue.delete_jobs(bigint[]) to harkara_app, harkara_engine;
