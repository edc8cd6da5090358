-- Everything that decides whether a job of the running transaction's tenant runs now, in the caller's one
-- snapshot: a job that is being claimed meanwhile is returned as it was before or as it is after, with
-- everything else as it was at that moment. Null for a job that the tenant does not have.
-- queue/src/read/explain/ interprets the facts.
--
-- The tenant's role cannot read workers, leases and the limiters of queues: this function reads them with the
-- rights of its owner, and only for a job of the tenant. Of a queue's limiter it returns limits and whether they
-- are used up; of workers, the one that holds the job, and whether the queue has any.
--
-- Served by the indexes of queue.find_jobs, by primary keys, parcels_ready and, for jobs that lost their worker,
-- parcels_lost, attempts_job, leases_open, lanes' unique index. Of jobs ahead it counts at most 10 000, of the
-- tenant's other lanes 100. Plans are pinned: see migrations/README.md.
create or replace function queue.explain(p_job bigint) returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set jit = off
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set plan_cache_mode = force_generic_plan as $$
declare
    moment timestamptz := clock_timestamp();
    -- Upper bound of the counts.
    most int4 := 10000;
    own int4 := (select t.number from queue.tenants t where t.id = app.current_tenant());
    place record;
    p record;
    q record;
    t record;
    l record;
    h record;
    r record;
    facts jsonb;
    ahead int4;
begin
    select f.id, f.part, f.member into place from queue.find_jobs(array[p_job]) f limit 1;
    if not found then
        return null;
    end if;
    select
        c.id, c.part, c.lo, c.queue, c.lane, c.priority, c.run_at, c.lease, c.lost, c.gone, c.acked,
        case when c.acked is null or place.member <> all (c.acked) then c.state else 'd' end as state,
        c.attempt, c.max_attempts, c.error_code,
        case when c.ids is null then c.run_at
            else coalesce(c.due[place.member], c.created[place.member], c.created_at) end as due,
        coalesce(c.created[place.member], c.created_at) as created_at, c.started_at,
        coalesce(c.acked_at[array_position(c.acked, place.member)], c.finished_at) as finished_at,
        coalesce(place.member = any (c.cancelling), false) as cancelling
    into strict p
    from queue.parcels c
    where c.tenant = own and c.id = place.id and c.part = place.part
    limit 1;
    select k.name, k.paused, k.paused_at, k.limiter into strict q from queue.queues k where k.id = p.queue;
    facts := jsonb_build_object(
        'at', moment, 'job', p_job, 'state', p.state, 'attempt', p.attempt,
        'max_attempts', p.max_attempts, 'run_at', p.due, 'created_at', p.created_at,
        'started_at', p.started_at, 'finished_at', p.finished_at, 'error_code', p.error_code,
        'lost', p.lost, 'cancelling', p.cancelling, 'queue', q.name
    );
    if p.state not in ('s', 'a') then
        -- It waits for nothing: only its worker is of interest.
        return facts || jsonb_build_object('lease', (
            select jsonb_build_object('worker', e.worker_id, 'expires_at', e.expires_at)
            from queue.leases e where e.id = p.lease
        ));
    end if;

    select k.paused, k.paused_at, k.limiter into strict t from queue.tenants k where k.number = own;
    select
        k.key, k.strict as ordered, k.head, k.paused, k.paused_at, k.parked_at, k.parked_until, k.breaker, k.failures,
        k.limiter, k.named, k.costs
    into strict l
    from queue.lanes k where k.id = p.lane;
    facts := facts || jsonb_build_object(
        'queue_pause', case when q.paused then jsonb_build_object('since', q.paused_at) end,
        'tenant_pause', case when t.paused then jsonb_build_object('since', t.paused_at) end,
        'lane_pause', case when l.paused then jsonb_build_object('since', l.paused_at) end,
        'lane', jsonb_build_object(
            'key', l.key, 'breaker', l.breaker, 'failures', l.failures,
            'parked_at', l.parked_at,
            'parked_until', case when l.parked_until > moment then l.parked_until end
        ),
        'limiters', (
            select jsonb_agg(jsonb_build_object(
                'of', u.of, 'key', g.key, 'cost', u.cost, 'max_running', g.max_running,
                'full', coalesce(g.running >= g.max_running, false),
                -- The number of a queue's running jobs would reveal the activity of other tenants.
                'running', case when u.of <> 'queue' then g.running end,
                'rate_count', g.rate_count,
                'period_us', (extract(epoch from g.rate_period) * 1000000)::int8,
                'burst', g.rate_burst,
                'every_us', (extract(epoch from g.rate_every) * 1000000)::int8,
                'ahead_us', case when g.rate_tat > moment
                    then (extract(epoch from g.rate_tat - moment) * 1000000)::int8 else 0 end
            ) order by u.nth)
            from (
                select * from (
                    values (1, 'queue', q.limiter, 1), (2, 'tenant', t.limiter, 1), (3, 'lane', l.limiter, 1)
                ) own
                union all
                select 3 + n.nth, 'key', n.limiter, n.cost
                from unnest(l.named, l.costs) with ordinality as n(limiter, cost, nth)
            ) u(nth, of, limiter, cost)
            join queue.limiters g on g.id = u.limiter
            where g.max_running is not null or g.rate_count is not null
        )
    );

    if exists (
        select from queue.leases e join queue.workers w on w.id = e.worker_id
        where e.closed_at is null and e.expires_at > moment and w.queues ? q.name
    ) then
        -- Its concurrency limit, if no more of its jobs can start now.
        facts := facts || jsonb_build_object('served', true, 'full', (
            select room.places
            from (
                select sum(case when jsonb_typeof(w.queues -> q.name) = 'number'
                    then (w.queues ->> q.name)::int8 end)::int8 as places
                from queue.workers w
                where w.queues ? q.name and exists (
                    select from queue.leases e
                    where e.worker_id = w.id and e.closed_at is null and e.expires_at > moment
                )
            ) room
            where room.places <= (
                select sum(
                    busy.n - coalesce(cardinality(busy.gone), 0) - coalesce(cardinality(busy.acked), 0)
                )
                from queue.leases e
                join queue.parcels busy
                    on busy.state = 'r' and busy.lease = e.id and busy.queue = p.queue
                where e.closed_at is null and e.expires_at > moment
            )
        ));
    else
        facts := facts || jsonb_build_object('served', false, 'served_last', (
            select max(w.last_seen_at) from queue.workers w where w.queues ? q.name
        ));
    end if;

    if p.state = 's' then
        -- Whether it waits for the delay that its last run requested.
        facts := facts || jsonb_build_object('last_run', (
            select jsonb_build_object(
                'outcome', a.outcome, 'finished_at', a.finished_at, 'next_run_at', a.next_run_at,
                'error_code', a.error_code
            )
            from queue.attempts a
            where a.job_id = p_job and a.tenant = own and a.finished_at >= p.created_at
            order by a.finished_at desc
            limit 1
        ));
    end if;

    if l.ordered then
        -- The job that has begun, otherwise the first, as in queue.next_in_strict_lane.
        select c.id, queue.job_id(c.id, c.lo, c.ids, 1) as job, c.state, c.run_at, c.started_at into h
        from queue.parcels c
        where c.tenant = own and c.id = l.head and c.part = 0 and c.state in ('s', 'a', 'r')
        limit 1;
        if found then
            facts := facts || jsonb_build_object('head', to_jsonb(h) || '{"begun": true}');
        elsif p.state = 'a' then
            select c.id, queue.job_id(c.id, c.lo, c.ids, 1) as job, c.state, c.run_at, c.started_at
            into h
            from queue.parcels c
            where c.queue = p.queue and c.lane = p.lane and c.state = 'a' and not c.lost
            order by c.priority, c.run_at, c.id
            limit 1;
            if found then
                facts := facts || jsonb_build_object('head', to_jsonb(h) || '{"begun": false}');
            end if;
        end if;
    end if;
    if p.state = 's' then
        return facts;
    end if;

    -- Members before it in its row; the head, if it has begun and is another job; rows before its own.
    select count(*) into ahead
    from generate_series(1, place.member - 1) m
    where m <> all (coalesce(p.gone, '{}')) and m <> all (coalesce(p.acked, '{}'));
    if facts #> '{head,begun}' = 'true' then
        if h.job = p_job then
            return facts || '{"ahead": 0, "more": false, "rivals": 0, "more_rivals": false}';
        end if;
        ahead := ahead + 1;
    end if;
    if p.lost then
        for r in
            select c.jobs from (
                select
                    c.lane, c.priority, c.run_at, c.id, c.lo,
                    c.n - coalesce(cardinality(c.gone), 0) as jobs
                from queue.parcels c
                where c.queue = p.queue and c.state = 'a' and c.lost
                order by c.run_at
                limit most
            ) c
            where c.lane = p.lane
                and (c.priority, c.run_at, c.id, c.lo) < (p.priority, p.run_at, p.id, p.lo)
        loop
            ahead := ahead + r.jobs;
            exit when ahead >= most;
        end loop;
    else
        -- In three parts, each of which ends where its index range does: a row comparison would read on until the
        -- priority changes.
        for r in
            select f.jobs from (
                select c.id, c.n - coalesce(cardinality(c.gone), 0) as jobs
                from queue.parcels c
                where c.queue = p.queue and c.lane = p.lane and c.state = 'a' and not c.lost
                    and c.priority < p.priority
                union all
                select c.id, c.n - coalesce(cardinality(c.gone), 0)
                from queue.parcels c
                where c.queue = p.queue and c.lane = p.lane and c.state = 'a' and not c.lost
                    and c.priority = p.priority and c.run_at < p.run_at
                union all
                select c.id, c.n - coalesce(cardinality(c.gone), 0)
                from queue.parcels c
                where c.queue = p.queue and c.lane = p.lane and c.state = 'a' and not c.lost
                    and c.priority = p.priority and c.run_at = p.run_at and c.id <= p.id
                    -- Pieces of one parcel follow each other.
                    and (c.id < p.id or c.lo < p.lo)
            ) f
            where f.id is distinct from l.head
        loop
            ahead := ahead + r.jobs;
            exit when ahead >= most;
        end loop;
    end if;
    return facts || jsonb_build_object('ahead', least(ahead, most), 'more', ahead >= most) || (
        select jsonb_build_object(
            'rivals', count(*) filter (where busy), 'more_rivals', count(*) >= 100
        )
        from (
            select exists (
                select from queue.parcels c
                where c.queue = p.queue and c.lane = k.id and c.state = 'a' and not c.lost
            ) as busy
            from (
                select n.id from queue.lanes n
                where n.queue = p.queue and n.tenant = own and n.id <> p.lane
                limit 100
            ) k
        ) others
    );
end
$$;

revoke execute on function queue.explain(bigint) from public;
grant execute on function queue.explain(bigint) to harkara_app, harkara_engine;
