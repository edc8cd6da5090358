-- Cancels jobs: waiting ones at once; for running ones, the workers are notified. Returns the state of each job
-- now, and whether that is a change. Jobs that share a row with others leave it.
create or replace function queue.cancel_jobs(p_jobs bigint[], p_notify boolean)
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
    changes boolean[];
    heads bigint[];
    head_lanes bigint[];
    keyed bigint[];
    running_jobs bigint[];
    emptied bigint[];
    emptied_parts int2[];
    opened int4[];
begin
    select array_agg(h.job), array_agg(h.place), array_agg(h.member)
    into jobs, places, members
    from queue.lock_jobs(p_jobs) h;
    if jobs is null then
        return;
    end if;
    with seen as materialized (
        select r.*, case
            when r.state = 'r' then 'tell'
            when r.state not in ('s', 'a') then 'refuse'
            when r.whole then 'end'
            else 'leave'
        end as act
        from queue.group_jobs_by_row(jobs, places, members) r
    ),
    changed as (
        update queue.parcels p
        set state = case
                when s.act = 'end' then 'c' when s.act = 'leave' and s.last then 'd' else p.state
            end::"char",
            finished_at = case
                when s.act = 'end' or s.act = 'leave' and s.last then now() else p.finished_at
            end,
            cancelling = case
                when s.act = 'tell' then nullif(coalesce(p.cancelling, '{}') || array(
                    select m from unnest(s.members) m
                    where m <> all (coalesce(p.cancelling, '{}'))
                        and m <> all (coalesce(p.acked, '{}'))
                ), '{}')
                else p.cancelling
            end,
            gone = case when s.act = 'leave' then p.gone || s.members else p.gone end
        from seen s
        where p.ctid = any (array(select place from seen where act <> 'refuse')) and p.ctid = s.place
    ),
    left_alone as (
        insert into queue.parcels (
            tenant, id, part, lane, run_at, created_at, started_at, finished_at, lease, queue, kind,
            priority, attempt, max_attempts, deferrals, lo, state, keyed, lost, error_code,
            error_message, bytes, body
        )
        select
            p.tenant, j.job / 1024, -(j.job % 1024) - 1, p.lane, coalesce(p.due[b.member], p.run_at),
            coalesce(p.created[b.member], p.created_at), p.started_at, now(), p.lease, p.queue,
            p.kind, p.priority, p.attempt, p.max_attempts, p.deferrals, j.job % 1024, 'c', p.keyed,
            p.lost, p.error_code, p.error_message,
            case when octet_length(b.body) > 1024 then octet_length(b.body) end, array[b.body]
        from seen s
        cross join lateral (select * from queue.parcels p where p.ctid = s.place limit 1) p
        cross join lateral unnest(p.body) with ordinality as b(body, member)
        cross join lateral (
            select s.jobs[array_position(s.members, b.member::int2)] as job
        ) j
        where s.act = 'leave' and b.member::int2 = any (s.members)
    ),
    counted as (
        select queue.record_state_changes(
            array_agg(tenant), array_agg(queue), array_agg(kind), array_agg(state::text),
            array_agg('c'::text), array_agg(cardinality(members))
        )
        from seen where act in ('end', 'leave')
        having count(*) > 0
    ),
    one as (
        select
            u.job, s.act in ('end', 'leave') and s.keyed as unkeyed,
            case
                when s.act in ('end', 'leave') then 'c'
                when u.member = any (s.acked) then 'd'
                else s.state::text
            end as state,
            s.act in ('end', 'leave')
                or s.act = 'tell' and u.member <> all (coalesce(s.acked, '{}')) as changed
        from seen s cross join lateral unnest(s.jobs, s.members) as u(job, member)
    )
    select
        array_agg(o.job), array_agg(o.state), array_agg(o.changed),
        array_agg(o.job) filter (where o.unkeyed),
        array_agg(o.job) filter (where o.changed and o.state = 'r'),
        (select array_agg(s.id) from seen s where s.strict and s.act = 'end'),
        (select array_agg(s.lane) from seen s where s.strict and s.act = 'end'),
        (select array_agg(s.id) from seen s where s.act = 'leave' and s.last),
        (select array_agg(s.part) from seen s where s.act = 'leave' and s.last)
    into jobs, states, changes, keyed, running_jobs, heads, head_lanes, emptied, emptied_parts
    from one o
    where (select count(*) from counted) >= 0;

    if heads is not null then
        -- The next job of a strict lane does not wait for one that will not continue.
        -- A claim waits for a locked strict lane: only lanes whose head changes are locked.
        perform from queue.lanes l
        where l.id = any (head_lanes) and l.head = any (heads)
        order by l.id
        for no key update;
        with let_on as (
            update queue.lanes l set head = null
            from unnest(head_lanes, heads) as h(lane, parcel)
            where l.id = any (head_lanes) and l.id = h.lane and l.head = h.parcel
            returning l.queue
        )
        select array_agg(distinct l.queue) into opened from let_on l;
    end if;
    if keyed is not null then
        perform from queue.unique_keys k
        where k.job_id = any (keyed) and k.expires_at = 'infinity'
        order by k.tenant, k.kind, k.key
        for update;
        delete from queue.unique_keys k
        where k.job_id = any (keyed) and k.expires_at = 'infinity';
    end if;
    if emptied is not null then
        perform queue.clear_empty_parcels(emptied, emptied_parts);
    end if;
    if p_notify and running_jobs is not null then
        perform pg_notify('harkara', 'c:' || t) from unnest(running_jobs) t;
    end if;
    if p_notify and opened is not null then
        perform pg_notify('harkara', 'o:' || left(array_to_string(opened, ','), 4000));
    end if;
    return query select u.*, null::bigint from unnest(jobs, states, changes) u;
end
$$;

revoke execute on function queue.cancel_jobs(bigint[], boolean) from public;
grant execute on function queue.cancel_jobs(bigint[], boolean) to harkara_app, harkara_engine;
