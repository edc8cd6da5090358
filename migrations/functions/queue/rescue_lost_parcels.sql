-- Takes back what dead workers held: running rows whose lease has expired, is closed or does not exist, at most
-- p_limit of them. A lost run counts as an attempt; a job that was alone in its row and has none left is dead,
-- one that was being cancelled is cancelled. Every member returns by itself, and is claimed again with no other
-- such job beside it in the same worker: a job that kills its worker does so alone.
--
-- The rows are read, not the leases: a claim can be written after a rescue found nothing under its lease and
-- closed it. Served by parcels_running, one probe a lease, then the lease's rows.
create or replace function queue.rescue_lost_parcels(p_limit int4)
returns table (seen bigint, rescued bigint, dead bigint)
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    limiters bigint[];
    places int4[];
    heads bigint[];
    head_lanes bigint[];
    probes bigint[];
    keyed bigint[];
    emptied tid[];
begin
    with recursive holder(lease) as (
        (select p.lease from queue.parcels p where p.state = 'r' order by p.lease limit 1)
        union all
        select n.lease
        from holder h cross join lateral (
            select p.lease
            from queue.parcels p
            where p.state = 'r' and p.lease > h.lease
            order by p.lease
            limit 1
        ) n
    ),
    expired as materialized (
        select h.lease as id
        from holder h
        where not exists (
            select from queue.leases l
            where l.id = h.lease and l.expires_at > now() and l.closed_at is null
        )
    ),
    lost as materialized (
        select p.ctid as t, p.n, coalesce(p.gone, '{}') || coalesce(p.acked, '{}') as ended
        from queue.parcels p
        where p.state = 'r' and p.lease = any (array(select id from expired))
        limit p_limit
        for update skip locked
    ),
    single as (
        update queue.parcels p
        set state = case
                when p.cancelling is not null then 'c'
                when p.attempt >= p.max_attempts then 'x'
                else 'a'
            end::"char",
            token = null, cancelling = null, lost = true,
            finished_at = case
                when p.cancelling is not null or p.attempt >= p.max_attempts then now()
            end,
            error_code = 'worker_lost',
            error_message = 'the worker died or lost its lease while the job ran'
        where p.ctid = any (array(select t from lost where n = 1))
        returning p.*, queue.job_id(p.id, p.lo, p.ids, 1) as job_id
    ),
    many as (
        update queue.parcels p
        set state = 'd', token = null, finished_at = now(),
            gone = array(
                select i::int2 from generate_series(1, p.n) i
                where not i = any (coalesce(p.acked, '{}'))
            )
        from lost l
        where l.n > 1 and p.ctid = l.t
        returning p.*, p.ctid as t, array(
            select i::int2 from generate_series(1, p.n) i where not i = any (l.ended)
        ) as missing
    ),
    leaving as (
        insert into queue.parcels (
            tenant, id, part, lane, run_at, created_at, started_at, finished_at, lease, queue, kind,
            priority, attempt, max_attempts, deferrals, lo, state, keyed, lost, error_code,
            error_message, bytes, body
        )
        select
            m.tenant, j.job_id / 1024, -(j.job_id % 1024) - 1, m.lane,
            coalesce(m.due[b.member], m.created[b.member], m.run_at),
            coalesce(m.created[b.member], m.created_at), m.started_at,
            case when j.cancelled then now() end,
            m.lease, m.queue, m.kind, m.priority,
            -- Most members had not begun, and which ones is unknown: a run among others never is the last attempt.
            least(m.attempt, m.max_attempts - 1), m.max_attempts, m.deferrals,
            j.job_id % 1024,
            case when j.cancelled then 'c' else 'a' end::"char",
            m.keyed, true, 'worker_lost', 'the worker died or lost its lease while the job ran',
            case when octet_length(b.body) > 1024 then octet_length(b.body) end, array[b.body]
        from many m
        cross join lateral unnest(m.body) with ordinality as b(body, member)
        cross join lateral (
            select
                queue.job_id(m.id, m.lo, m.ids, b.member::int4) as job_id,
                b.member = any (coalesce(m.cancelling, '{}')) as cancelled
        ) j
        where b.member = any (m.missing)
        returning id * 1024 + lo as job_id, tenant, queue, kind, lease, started_at, state, keyed
    ),
    back as (
        select job_id, tenant, queue, kind, lease, started_at, state, keyed from single
        union all
        select job_id, tenant, queue, kind, lease, started_at, state, keyed from leaving
    ),
    counted as (
        insert into queue.deltas (
            tenant, queue, kind, ready, running, dead, retried, died, cancelled
        )
        select
            b.tenant, b.queue, b.kind, count(*) filter (where b.state = 'a'), -count(*),
            count(*) filter (where b.state = 'x'), count(*) filter (where b.state = 'a'),
            count(*) filter (where b.state = 'x'), count(*) filter (where b.state = 'c')
        from back b
        group by b.tenant, b.queue, b.kind
    ),
    logged as (
        insert into queue.attempts (
            job_id, tenant, started_at, finished_at, next_run_at, worker_id, outcome, error_code,
            error_message
        )
        select
            b.job_id, b.tenant, b.started_at, now(), case when b.state = 'a' then now() end,
            (select l.worker_id from queue.leases l where l.id = b.lease),
            'lost', 'worker_lost', 'the worker died or lost its lease while the job ran'
        from back b
    ),
    held as (
        select s.limiters, 1 as jobs from single s where s.limiters is not null
        union all
        select m.limiters, cardinality(m.missing) from many m where m.limiters is not null
    ),
    -- For operators only: nothing depends on it.
    closed as (
        update queue.leases l set closed_at = now()
        where l.closed_at is null and l.expires_at <= now()
          and not exists (select from queue.parcels p where p.lease = l.id and p.state = 'r')
    )
    select
        (select count(*) from lost), count(*), count(*) filter (where state = 'x'),
        (select array_agg(g) from held h cross join unnest(h.limiters) g),
        (select array_agg(h.jobs) from held h cross join unnest(h.limiters) g),
        (select array_agg(s.id) from single s where s.strict and s.state in ('x', 'c')),
        (select array_agg(s.lane) from single s where s.strict and s.state in ('x', 'c')),
        (
            select array_agg(b.lane) from (
                select lane from single where probe union all select lane from many where probe
            ) b
        ),
        array_agg(job_id) filter (where keyed and state in ('x', 'c')),
        (select array_agg(m.t) from many m where m.acked is null)
    into seen, rescued, dead, limiters, places, heads, head_lanes, probes, keyed, emptied
    from back;

    if probes is not null or heads is not null then
        perform from queue.lanes l
        where l.id = any (probes || head_lanes) order by l.id for no key update;
        -- The breaker needs another trial.
        update queue.lanes l set breaker = 'o' where l.id = any (probes) and l.breaker = 'h';
    end if;
    perform queue.release_holds(limiters, places, heads, head_lanes, keyed);
    -- A row that all members have left keeps no bodies.
    if emptied is not null then
        update queue.parcels p set body = '{}', n = 1 where p.ctid = any (emptied);
    end if;
    return next;
end
$$;

revoke execute on function queue.rescue_lost_parcels(int4) from public;
grant execute on function queue.rescue_lost_parcels(int4) to harkara_engine;
