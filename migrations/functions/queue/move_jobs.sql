-- Moves waiting jobs that are in one of the given states to another time; null means now. Returns the state of
-- each job now, and whether it was moved.
create or replace function queue.move_jobs(
    p_jobs bigint[], p_from text[], p_run_at timestamptz, p_notify boolean
) returns table (job bigint, state text, changed boolean, holder bigint)
language plpgsql volatile
set enable_seqscan = off set enable_nestloop = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    moment timestamptz := greatest(p_run_at, now());
    becomes text := case when p_run_at > now() then 's' else 'a' end;
    jobs bigint[];
    places tid[];
    members int2[];
    states text[];
    changes boolean[];
    woken int4[];
    emptied bigint[];
    emptied_parts int2[];
begin
    select array_agg(h.job), array_agg(h.place), array_agg(h.member)
    into jobs, places, members
    from queue.lock_jobs(p_jobs) h;
    if jobs is null then
        return;
    end if;
    with seen as materialized (
        select r.*, r.state in ('s', 'a') and r.state::text = any (p_from) as moves
        from queue.group_jobs_by_row(jobs, places, members) r
    ),
    changed as (
        update queue.parcels p
        set state = case when s.whole then becomes when s.last then 'd' else p.state::text end::"char",
            -- A job that is moved is meant to run: an expiry before the new time is removed.
            expires_at = case when p.expires_at > moment then p.expires_at end,
            run_at = case when s.whole then moment else p.run_at end,
            finished_at = case when s.last and not s.whole then now() else p.finished_at end,
            gone = case when s.whole then p.gone else p.gone || s.members end
        from seen s
        where p.ctid = any (array(select place from seen where moves)) and p.ctid = s.place
    ),
    left_alone as (
        insert into queue.parcels (
            tenant, id, part, lane, run_at, created_at, started_at, lease, queue, kind, priority,
            attempt, max_attempts, deferrals, lo, state, keyed, lost, error_code, error_message, bytes,
            body
        )
        select
            p.tenant, j.job / 1024, -(j.job % 1024) - 1, p.lane, moment,
            coalesce(p.created[b.member], p.created_at), p.started_at, p.lease, p.queue, p.kind,
            p.priority, p.attempt, p.max_attempts, p.deferrals, j.job % 1024, becomes::"char",
            p.keyed, p.lost, p.error_code, p.error_message,
            case when octet_length(b.body) > 1024 then octet_length(b.body) end, array[b.body]
        from seen s
        cross join lateral (select * from queue.parcels p where p.ctid = s.place limit 1) p
        cross join lateral unnest(p.body) with ordinality as b(body, member)
        cross join lateral (
            select s.jobs[array_position(s.members, b.member::int2)] as job
        ) j
        where s.moves and not s.whole and b.member::int2 = any (s.members)
    ),
    counted as (
        select queue.record_state_changes(
            array_agg(tenant), array_agg(queue), array_agg(kind), array_agg(state::text),
            array_agg(becomes), array_agg(cardinality(members))
        )
        from seen where moves
        having count(*) > 0
    ),
    one as (
        select
            u.job, s.moves, case
                when s.moves then becomes when u.member = any (s.acked) then 'd' else s.state::text
            end as state
        from seen s cross join lateral unnest(s.jobs, s.members) as u(job, member)
    )
    select
        array_agg(o.job), array_agg(o.state), array_agg(o.moves),
        (select array_agg(distinct s.queue) from seen s where s.moves),
        (select array_agg(s.id) from seen s where s.moves and not s.whole and s.last),
        (select array_agg(s.part) from seen s where s.moves and not s.whole and s.last)
    into jobs, states, changes, woken, emptied, emptied_parts
    from one o
    where (select count(*) from counted) >= 0;
    if emptied is not null then
        perform queue.clear_empty_parcels(emptied, emptied_parts);
    end if;
    if p_notify and woken is not null then
        -- A strict lane can be waiting for this very job.
        perform pg_notify('harkara', 'o:' || left(array_to_string(woken, ','), 4000));
        if becomes = 's' and moment < now() + interval '2 seconds' then
            perform pg_notify('harkara', 's:' || left(array_to_string(woken, ','), 4000));
        end if;
    end if;
    return query select u.*, null::bigint from unnest(jobs, states, changes) u;
end
$$;

revoke execute on function queue.move_jobs(bigint[], text[], timestamptz, boolean) from public;
grant execute on function queue.move_jobs(
    bigint[], text[], timestamptz, boolean
) to harkara_app, harkara_engine;
