-- Finds and locks jobs of the running transaction's tenant: the row of each and its member there, the job's
-- state, and whether others of its row run. A job that moves while its row is waited for is searched again; one
-- that is no longer kept is not returned.
create or replace function queue.lock_jobs(p_jobs bigint[])
returns table (job bigint, place tid, member int2, state "char", runs boolean, keyed boolean)
language plpgsql volatile rows 10
set enable_seqscan = off set enable_nestloop = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    pending bigint[] := p_jobs;
    looks int4 := 0;
    jobs bigint[];
    places tid[];
    members int2[];
    states "char"[];
    running boolean[];
    keys boolean[];
begin
    loop
        with found as materialized (
            select * from queue.find_jobs(pending)
        ),
        spot as materialized (
            select distinct f.tenant, f.id, f.part from found f order by f.id, f.part
        ),
        locked as materialized (
            select s.id, s.part, r.t, r.lo, r.n, r.ids, r.gone, r.acked, r.state, r.keyed
            from spot s cross join lateral (
                select p.ctid as t, p.lo, p.n, p.ids, p.gone, p.acked, p.state, p.keyed
                from queue.parcels p
                where p.tenant = s.tenant and p.id = s.id and p.part = s.part
                limit 1
                for update
            ) r
        ),
        here as materialized (
            select
                f.job, l.t, f.member, l.state = 'r' as runs, l.keyed,
                case when f.member = any (l.acked) then 'd' else l.state end as state,
                coalesce(
                    queue.job_id(l.id, l.lo, l.ids, f.member) = f.job and f.member <= l.n
                        and f.member <> all (coalesce(l.gone, '{}')),
                    false
                ) as stayed
            from found f left join locked l on l.id = f.id and l.part = f.part
        )
        select
            array_agg(h.job) filter (where stayed), array_agg(h.t) filter (where stayed),
            array_agg(h.member) filter (where stayed), array_agg(h.state) filter (where stayed),
            array_agg(h.runs) filter (where stayed), array_agg(h.keyed) filter (where stayed),
            array_agg(h.job) filter (where not stayed)
        into jobs, places, members, states, running, keys, pending
        from here h;
        return query
            select * from unnest(jobs, places, members, states, running, keys);
        exit when pending is null;
        -- A job moves when its state changes between the read and the lock that follows: twice in a row is rare.
        looks := looks + 1;
        if looks = 10 then
            raise exception 'job % moves from row to row', pending[1]
                using errcode = 'HK001';
        end if;
    end loop;
end
$$;

revoke execute on function queue.lock_jobs(bigint[]) from public;
grant execute on function queue.lock_jobs(bigint[]) to harkara_app, harkara_engine;
