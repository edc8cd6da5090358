-- What people do to jobs, one or many at a time: cancel, retry and move to another time; and who tells how
-- far a job has come. To delete them: see 0019.
-- Locks: ACCESS EXCLUSIVE on queue.progress for a moment. Previous release: goes on as it was.
--
-- Functions, for the reason given in 0006: what is judged must be seen after it was locked. Order of locks
-- as there: parcels, lanes, unique keys. Plans are pinned, and what belongs together is matched by hashing:
-- no statistics tell how many jobs were asked for. All run with the rights of the tenant's transaction.

-- Of a job that has several runs in its life only the one that came last may tell.
alter table queue.progress add column run bigint;
grant delete on queue.labels, queue.progress to harkara_app;
-- A tenant may count its own jobs.
grant select on queue.deltas to harkara_app;

-- Finds and locks jobs of the running transaction's tenant: the row of each and its member there, the job's
-- state, and whether others of its row run. A job that moves while its row is waited for is looked for
-- again; one that is not kept any more is not answered.
create function queue.hold(p_jobs bigint[])
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
            select * from queue.find(pending)
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
                    queue.job_of(l.id, l.lo, l.ids, f.member) = f.job and f.member <= l.n
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
        -- Each move is a step of a job's life, made between a look and the lock that follows: two in a
        -- row are rare.
        looks := looks + 1;
        if looks = 10 then
            raise exception 'job % moves from row to row', pending[1]
                using errcode = 'HK001';
        end if;
    end loop;
end
$$;

-- Of the rows that hold these members: which members are meant, and how many it holds. `whole` says that
-- the row itself is to change, since all who are still in it are meant; `last` that nobody stays. A row
-- that most have left is let go instead: their bodies still lie in it.
create function queue.rows_of(p_jobs bigint[], p_places tid[], p_members int2[])
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
        from unnest(p_jobs, p_places, p_members) as u(job, place, member)
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

-- Writes down that so many jobs of each queue and kind are no longer in these states, and now in those.
create function queue.note_moves(
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

-- Cancels jobs: at once those that wait; of those that run the workers are told. Answers the state that
-- each is in now, and whether that is a change. Jobs among others that are not meant leave their row.
create function queue.cancel_jobs(p_jobs bigint[], p_notify boolean)
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
    told bigint[];
    emptied bigint[];
    emptied_parts int2[];
    opened int4[];
begin
    select array_agg(h.job), array_agg(h.place), array_agg(h.member)
    into jobs, places, members
    from queue.hold(p_jobs) h;
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
        from queue.rows_of(jobs, places, members) r
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
        select queue.note_moves(
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
    into jobs, states, changes, keyed, told, heads, head_lanes, emptied, emptied_parts
    from one o
    where (select count(*) from counted) >= 0;

    if heads is not null then
        -- The next job of a strict lane need not wait for one that will not go on.
        -- Whoever claims waits for a strict lane that is locked: only those where it matters are.
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
        perform queue.let_go(emptied, emptied_parts);
    end if;
    if p_notify and told is not null then
        perform pg_notify('harkara', 'c:' || t) from unnest(told) t;
    end if;
    if p_notify and opened is not null then
        perform pg_notify('harkara', 'o:' || left(array_to_string(opened, ','), 4000));
    end if;
    return query select u.*, null::bigint from unnest(jobs, states, changes) u;
end
$$;

-- Makes dead and cancelled jobs ready again with a full set of attempts, unless another live job holds the
-- job's unique key. Answers the state that each is in now, whether that is a change, and who holds the key.
create function queue.retry_jobs(p_jobs bigint[], p_notify boolean)
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
    taken bigint[];
    emptied bigint[];
    emptied_parts int2[];
    woken int4[];
begin
    select
        array_agg(h.job), array_agg(h.place), array_agg(h.member), array_agg(h.state::text),
        array_agg(h.job) filter (where h.state in ('x', 'c') and h.keyed)
    into jobs, places, members, states, keyed
    from queue.hold(p_jobs) h;
    return query
    select u.job, u.state, false, null::bigint from unnest(jobs, states) as u(job, state)
    where u.state not in ('x', 'c');
    select array_agg(u.job), array_agg(u.place), array_agg(u.member)
    into jobs, places, members
    from unnest(jobs, places, members, states) as u(job, place, member, state)
    where u.state in ('x', 'c');
    if jobs is null then
        return;
    end if;
    if keyed is not null then
        -- Takes keys back for as long as their jobs live, unless the job itself still holds its key for a
        -- time of its own. Those that others are seen to hold are left alone, as in take_unique_keys.sql;
        -- of two jobs that want one key the elder has it.
        with named as materialized (
            select l.tenant, p.kind, l.value as key, l.job_id
            from unnest(jobs, places) as u(job, place)
            cross join lateral (
                select r.kind from queue.parcels r where r.ctid = u.place limit 1
            ) p
            cross join lateral (
                select l.tenant, l.value, l.job_id from queue.labels l
                where l.job_id = u.job and l.name = 'unique_key'
                limit 1
            ) l
            where u.job = any (keyed)
        ),
        known as materialized (
            select n.*, h.job_id as holder
            from named n left join lateral (
                select k.job_id from queue.unique_keys k
                where k.tenant = n.tenant and k.kind = n.kind and k.key = n.key
                    and k.expires_at > now()
                limit 1
            ) h on true
        ),
        wanted as materialized (
            select distinct on (k.tenant, k.kind, k.key) k.tenant, k.kind, k.key, k.job_id
            from known k
            where k.holder is null or k.holder = k.job_id
            order by k.tenant, k.kind, k.key, k.holder nulls last, k.job_id
        ),
        taken as (
            insert into queue.unique_keys as held (tenant, kind, key, job_id, expires_at)
            select w.tenant, w.kind, w.key, w.job_id, 'infinity' from wanted w
            order by w.tenant, w.kind, w.key
            on conflict (tenant, kind, key) do update
            set job_id = excluded.job_id,
                expires_at = case
                    when held.expires_at <= now() then excluded.expires_at else held.expires_at
                end
            where held.expires_at <= now() or held.job_id = excluded.job_id
            returning job_id
        )
        select coalesce(array_agg(t.job_id), '{}') into taken from taken t;
        return query
        select
            u.job, p.state::text, false, coalesce((
                select k.job_id from queue.unique_keys k
                where k.tenant = l.tenant and k.kind = p.kind and k.key = l.value
                    and k.expires_at > now()
                limit 1
            ), u.job)
        from unnest(jobs, places) as u(job, place)
        cross join lateral (
            select r.kind, r.state from queue.parcels r where r.ctid = u.place limit 1
        ) p
        left join lateral (
            select l.tenant, l.value from queue.labels l
            where l.job_id = u.job and l.name = 'unique_key'
            limit 1
        ) l on true
        where u.job = any (keyed) and u.job <> all (taken);
        select array_agg(u.job), array_agg(u.place), array_agg(u.member)
        into jobs, places, members
        from unnest(jobs, places, members) as u(job, place, member)
        where u.job <> all (keyed) or u.job = any (taken);
        if jobs is null then
            return;
        end if;
    end if;
    with seen as materialized (
        select * from queue.rows_of(jobs, places, members)
    ),
    changed as (
        update queue.parcels p
        set state = case when s.whole then 'a' when s.last then 'd' else p.state end::"char",
            attempt = case when s.whole then 0 else p.attempt end,
            deferrals = case when s.whole then 0 else p.deferrals end,
            run_at = case when s.whole then now() else p.run_at end,
            finished_at = case when s.whole then null else p.finished_at end,
            lease = case when s.whole then null else p.lease end,
            expires_at = case when s.whole then null else p.expires_at end,
            token = null, cancelling = null, lost = false, probe = false, gates = null,
            gone = case when s.whole then p.gone else p.gone || s.members end
        from seen s
        where p.ctid = any (array(select place from seen)) and p.ctid = s.place
    ),
    left_alone as (
        insert into queue.parcels (
            tenant, id, part, lane, run_at, created_at, started_at, queue, kind, priority,
            max_attempts, lo, state, keyed, error_code, error_message, bytes, body
        )
        select
            p.tenant, j.job / 1024, -(j.job % 1024) - 1, p.lane, now(),
            coalesce(p.created[b.member], p.created_at), p.started_at, p.queue, p.kind, p.priority,
            p.max_attempts, j.job % 1024, 'a', p.keyed, p.error_code, p.error_message,
            case when octet_length(b.body) > 1024 then octet_length(b.body) end, array[b.body]
        from seen s
        cross join lateral (select * from queue.parcels p where p.ctid = s.place limit 1) p
        cross join lateral unnest(p.body) with ordinality as b(body, member)
        cross join lateral (
            select s.jobs[array_position(s.members, b.member::int2)] as job
        ) j
        where not s.whole and b.member::int2 = any (s.members)
    ),
    counted as (
        select queue.note_moves(
            array_agg(tenant), array_agg(queue), array_agg(kind), array_agg(state::text),
            array_agg('a'::text), array_agg(cardinality(members))
        )
        from seen
    )
    select
        array_agg(distinct s.queue), array_agg(s.id) filter (where not s.whole and s.last),
        array_agg(s.part) filter (where not s.whole and s.last)
    into woken, emptied, emptied_parts
    from seen s
    where (select count(*) from counted) >= 0;
    if emptied is not null then
        perform queue.let_go(emptied, emptied_parts);
    end if;
    if p_notify then
        perform pg_notify('harkara', 'q:' || left(array_to_string(woken, ','), 4000));
    end if;
    return query select u, 'a', true, null::bigint from unnest(jobs) u;
end
$$;

-- Moves waiting jobs that are in one of these states to another time; null means now. Answers the state
-- that each is in now, and whether it was moved.
create function queue.move_jobs(
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
    from queue.hold(p_jobs) h;
    if jobs is null then
        return;
    end if;
    with seen as materialized (
        select r.*, r.state in ('s', 'a') and r.state::text = any (p_from) as moves
        from queue.rows_of(jobs, places, members) r
    ),
    changed as (
        update queue.parcels p
        set state = case when s.whole then becomes when s.last then 'd' else p.state::text end::"char",
            -- Whoever moves it wants it to run: an expiry that would come before goes.
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
        select queue.note_moves(
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
        perform queue.let_go(emptied, emptied_parts);
    end if;
    if p_notify and woken is not null then
        -- An ordered lane may have been told to wait for this very job.
        perform pg_notify('harkara', 'o:' || left(array_to_string(woken, ','), 4000));
        if becomes = 's' and moment < now() + interval '2 seconds' then
            perform pg_notify('harkara', 's:' || left(array_to_string(woken, ','), 4000));
        end if;
    end if;
    return query select u.*, null::bigint from unnest(jobs, states, changes) u;
end
$$;

do $$
declare
    made text;
begin
    foreach made in array array[
        'queue.hold(bigint[])', 'queue.rows_of(bigint[], tid[], int2[])',
        'queue.note_moves(int4[], int4[], int4[], text[], text[], int4[])',
        'queue.cancel_jobs(bigint[], boolean)', 'queue.retry_jobs(bigint[], boolean)',
        'queue.move_jobs(bigint[], text[], timestamptz, boolean)'
    ] loop
        execute format('revoke execute on function %s from public', made);
        execute format('grant execute on function %s to harkara_app, harkara_engine', made);
    end loop;
end
$$;
