-- Writes how runs ended, under their fence: a row whose token is no longer the claim's, or whose lease has
-- expired, is left unchanged and not returned. Returns the positions (1, 2, ...) of the rows written. A position
-- is negative (-1, -2, ...) when the row's outcomes were written by an earlier call whose answer was lost:
-- nothing was done about it now.
--
-- Rows, by p_tenant, p_id, p_part and p_token, end in one of three forms (p_form):
--   w  all members that were still here succeeded; p_result is a JSON array with one element a
--      member, or null when none has a result
--   s  the row's only member did not succeed: its outcome is under the row's position in e_*
--   p  some members have ended: those that succeeded are in a_*, the others in e_* and leave
--      the row; p_last is true when no member is left
-- p_failures counts failures, and p_park is for how long (ms) the receiver asked the whole lane to pause. A job
-- with e_priority is no more urgent than that from then on.
--
-- A job whose cancellation was requested meanwhile does not run again, whatever its outcome.
--
-- h_waits and h_runs hold, for each of h_tenant, h_queue and h_kind, how many of the runs waited and took how
-- long, by the 19 classes of queue.deltas.
create or replace function queue.settle(
    p_tenant int4[], p_id bigint[], p_part int2[], p_token bigint[], p_form text[], p_last boolean[],
    p_result jsonb[], p_failures int4[], p_park bigint[],
    a_row int4[], a_member int2[], a_result jsonb[],
    e_row int4[], e_member int2[], e_job bigint[], e_state text[], e_wait bigint[],
    e_refund boolean[], e_deferral boolean[], e_priority int2[], e_outcome text[], e_code text[],
    e_message text[],
    h_tenant int4[], h_queue int4[], h_kind int4[], h_waits int4[], h_runs int4[]
) returns int4[]
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    written int4[];
    repeated int4[];
    limiters bigint[];
    places int4[];
    heads bigint[];
    head_lanes bigint[];
    keyed bigint[];
    lanes bigint[];
    probes boolean[];
    wells int4[];
    noted bigint[];
begin
    -- The forms are written one after another: where they differ, all rows are locked in order first.
    if cardinality(p_id) > 1 and (e_row <> '{}' or a_row <> '{}') then
        perform from unnest(p_tenant, p_id, p_part) as r(tenant, id, part)
        join queue.parcels p on p.tenant = r.tenant and p.id = r.id and p.part = r.part
        order by p.tenant, p.id, p.part
        for update of p;
    end if;
    with r as materialized (
        select * from unnest(
            p_tenant, p_id, p_part, p_token, p_form, p_last, p_result
        ) with ordinality as r(tenant, id, part, token, form, last, result, nth)
    ),
    e as materialized (
        select *, state in ('s', 'a') as again from unnest(
            e_row, e_member, e_job, e_state, e_wait, e_refund, e_deferral, e_priority, e_outcome,
            e_code, e_message
        ) as e(
            nth, member, job_id, state, wait_ms, refund, deferral, priority, outcome, code, message
        )
    ),
    a as materialized (
        select * from unnest(a_row, a_member, a_result) as a(nth, member, result)
    ),
    whole as (
        update queue.parcels p
        set state = 'd', token = null, cancelling = null, finished_at = now(),
            results = case
                when r.result is null then p.results
                else array(
                    select coalesce(nullif(x.result, 'null'), p.results[x.i])
                    from jsonb_array_elements(r.result) with ordinality as x(result, i)
                )
            end
        from r
        where r.form = 'w' and p.tenant = r.tenant and p.id = r.id and p.part = r.part
          and p.token = r.token
          and exists (
              select from queue.leases l
              where l.id = p.lease and l.expires_at > now() and l.closed_at is null
          )
        returning r.nth, p.lane, p.id, p.limiters, p.strict, p.probe, p.tenant, p.queue, p.kind,
            p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0) as jobs,
            -- Members that have left can live on, and keep their keys.
            case when p.keyed then array(
                select queue.job_id(p.id, p.lo, p.ids, i)
                from generate_series(1, p.n) i
                where i <> all (coalesce(p.gone, '{}'))
            ) end as keyed
    ),
    single as (
        update queue.parcels p
        set state = case when p.cancelling is not null and e.again then 'c' else e.state end::"char",
            token = null,
            cancelling = null,
            -- A job that is put back has not shown yet that its worker survives it.
            lost = p.lost and e.outcome is null,
            -- One that was never begun has not started either.
            started_at = case
                when e.outcome is not null or p.cancelling is not null or p.attempt > 1
                    or p.deferrals > 0 or p.error_code is not null then p.started_at
            end,
            attempt = p.attempt - (e.refund and p.cancelling is null)::int,
            deferrals = p.deferrals + (e.deferral and p.cancelling is null)::int,
            priority = greatest(p.priority, e.priority),
            run_at = case
                when e.wait_ms is null or p.cancelling is not null then p.run_at
                else now() + e.wait_ms * interval '1 millisecond'
            end,
            finished_at = case when p.cancelling is not null or not e.again then now() end,
            error_code = case
                when p.cancelling is not null and e.again then 'cancelled'
                when e.outcome is null then p.error_code
                else e.code
            end,
            error_message = case
                when p.cancelling is not null and e.again then
                    'the job was cancelled while it ran'
                when e.outcome is null then p.error_message
                else e.message
            end
        from r join e on e.nth = r.nth
        where r.form = 's' and p.tenant = r.tenant and p.id = r.id and p.part = r.part
          and p.token = r.token
          and exists (
              select from queue.leases l
              where l.id = p.lease and l.expires_at > now() and l.closed_at is null
          )
        returning r.nth, p.lane, p.id, p.limiters, p.strict, p.probe, p.tenant, p.queue, p.kind, p.lease, p.started_at, p.state,
            p.run_at, p.keyed, p.error_code, p.error_message, e.job_id, e.again,
            case when e.again and p.state = 'c' then 'cancelled' else e.outcome end as outcome
    ),
    -- The row and its token stay after some of its members have ended: outcomes whose first answer was lost are
    -- sent again, and must not be written twice.
    held as materialized (
        select r.nth, coalesce(p.acked, '{}') || coalesce(p.gone, '{}') as ended
        from r join queue.parcels p
            on p.tenant = r.tenant and p.id = r.id and p.part = r.part and p.token = r.token
        where r.form = 'p'
          and exists (
              select from queue.leases l
              where l.id = p.lease and l.expires_at > now() and l.closed_at is null
          )
        for update of p
    ),
    submitted as materialized (
        select h.nth, h.ended && (coalesce(m.acked, '{}') || coalesce(m.gone, '{}')) as before,
            m.acked, m.gone
        from held h cross join lateral (
            select
                (select array_agg(a.member order by a.member) from a where a.nth = h.nth) as acked,
                (select array_agg(e.member order by e.member) from e where e.nth = h.nth) as gone
        ) m
    ),
    ended as materialized (
        select nth, acked, gone from submitted where not before
    ),
    part as (
        update queue.parcels p
        set state = case when r.last then 'd' else 'r' end::"char",
            token = case when r.last then null else p.token end,
            finished_at = case when r.last then now() end,
            acked = nullif(coalesce(p.acked, '{}') || coalesce(x.acked, '{}'), '{}'),
            acked_at = nullif(
                coalesce(p.acked_at, '{}')
                || array_fill(now(), array[coalesce(cardinality(x.acked), 0)]), '{}'
            ),
            gone = nullif(coalesce(p.gone, '{}') || coalesce(x.gone, '{}'), '{}'),
            results = case
                when exists (select from a where a.nth = r.nth and a.result is not null) then array(
                    select coalesce(b.result, p.results[i])
                    from generate_series(1, p.n) i
                    left join (select a.member, a.result from a where a.nth = r.nth) b
                        on b.member = i
                    order by i
                )
                else p.results
            end
        from r join ended x using (nth)
        where p.tenant = r.tenant and p.id = r.id and p.part = r.part and p.token = r.token
        returning r.nth, p.*, x.acked as newly_acked, x.gone as newly_gone
    ),
    -- A member that leaves takes its own columns with it.
    leaving as (
        insert into queue.parcels (
            tenant, id, part, lane, run_at, created_at, started_at, finished_at, lease, queue, kind,
            priority, attempt, max_attempts, deferrals, lo, state, keyed, error_code,
            error_message, bytes, body
        )
        select
            q.tenant, e.job_id / 1024, -(e.job_id % 1024) - 1, q.lane,
            case
                when e.wait_ms is not null and not c.cancelled
                    then now() + e.wait_ms * interval '1 millisecond'
                else coalesce(q.due[e.member], q.created[e.member], q.run_at)
            end,
            coalesce(q.created[e.member], q.created_at),
            case
                when e.outcome is not null or c.cancelled or q.attempt > 1 or q.deferrals > 0
                    or q.error_code is not null then q.started_at
            end,
            case when c.cancelled or not e.again then now() end,
            q.lease, q.queue, q.kind, greatest(q.priority, e.priority),
            q.attempt - (e.refund and not c.cancelled)::int, q.max_attempts,
            q.deferrals + (e.deferral and not c.cancelled)::int, e.job_id % 1024,
            case when c.cancelled and e.again then 'c' else e.state end::"char", q.keyed,
            case when c.cancelled and e.again then 'cancelled'
                when e.outcome is null then q.error_code else e.code end,
            case when c.cancelled and e.again then 'the job was cancelled while it ran'
                when e.outcome is null then q.error_message else e.message end,
            case when octet_length(b.body) > 1024 then octet_length(b.body) end, array[b.body]
        from part q
        cross join lateral unnest(q.body) with ordinality as b(body, member)
        join e on e.nth = q.nth and e.member = b.member
        cross join lateral (
            select e.member = any (coalesce(q.cancelling, '{}')) as cancelled
        ) c
        where q.newly_gone is not null
        returning id * 1024 + lo as job_id, tenant, queue, kind, lease, started_at, state, run_at,
            keyed, error_code, error_message
    ),
    left_row as (
        select
            e.nth, l.*, case when e.again and l.state = 'c' then 'cancelled' else e.outcome end
                as outcome
        from leaving l
        join e on e.job_id = l.job_id
        -- The same job can also be in a claim that was lost.
        join part q on q.nth = e.nth
    ),
    logged as (
        insert into queue.attempts (
            job_id, tenant, started_at, finished_at, next_run_at, worker_id, outcome, error_code,
            error_message
        )
        select
            o.job_id, o.tenant, o.started_at, now(), case when o.state = 's' then o.run_at end,
            (select w.worker_id from queue.leases w where w.id = o.lease),
            o.outcome, o.error_code, o.error_message
        from (
            select job_id, tenant, started_at, state, run_at, lease, outcome, error_code,
                error_message
            from single
            union all
            select job_id, tenant, started_at, state, run_at, lease, outcome, error_code,
                error_message
            from left_row
        ) o
        where o.outcome is not null and o.outcome <> 'succeeded'
    ),
    counts as (
        select
            o.tenant, o.queue, o.kind, sum(o.scheduled) as scheduled, sum(o.ready) as ready,
            sum(o.running) as running, sum(o.dead) as dead, sum(o.started) as started,
            sum(o.succeeded) as succeeded, sum(o.retried) as retried, sum(o.cancelled) as cancelled
        from (
            select
                w.tenant, w.queue, w.kind, 0 as scheduled, 0 as ready, -w.jobs as running, 0 as dead,
                0 as started, w.jobs as succeeded, 0 as retried, 0 as cancelled
            from whole w
            union all
            select
                q.tenant, q.queue, q.kind, 0, 0, -cardinality(q.newly_acked), 0, 0,
                cardinality(q.newly_acked), 0, 0
            from part q
            where q.newly_acked is not null
            union all
            select
                l.tenant, l.queue, l.kind, (l.state = 's')::int, (l.state = 'a')::int, -1,
                (l.state = 'x')::int, case when l.outcome is null then -1 else 0 end,
                (l.state = 'd')::int, coalesce((l.outcome = 'retry')::int, 0), (l.state = 'c')::int
            from (
                select tenant, queue, kind, state, outcome from single
                union all
                select tenant, queue, kind, state, outcome from left_row
            ) l
        ) o
        group by o.tenant, o.queue, o.kind
    ),
    times as (
        select
            h.tenant, h.queue, h.kind, h_waits[h.nth * 19 - 18:h.nth * 19] as waits,
            h_runs[h.nth * 19 - 18:h.nth * 19] as runs
        from unnest(h_tenant, h_queue, h_kind) with ordinality as h(tenant, queue, kind, nth)
    ),
    counted as (
        insert into queue.deltas (
            tenant, queue, kind, scheduled, ready, running, dead, started, succeeded, retried, died,
            cancelled, waits, runs
        )
        select
            c.tenant, c.queue, c.kind, c.scheduled, c.ready, c.running, c.dead, c.started,
            c.succeeded, c.retried, c.dead, c.cancelled, t.waits, t.runs
        from counts c left join times t using (tenant, queue, kind)
    ),
    ending as (
        select
            w.nth, w.lane, w.probe, w.limiters, w.jobs, w.jobs as well, w.strict, w.id as parcel, w.keyed
        from whole w
        union all
        select s.nth, s.lane, s.probe, s.limiters, 1, 0, s.strict and s.state in ('d', 'x', 'c'), s.id,
            case when s.keyed and s.state in ('d', 'x', 'c') then array[s.job_id] end
        from single s
        union all
        select q.nth, q.lane, q.probe, q.limiters,
            coalesce(cardinality(q.newly_acked), 0) + coalesce(cardinality(q.newly_gone), 0),
            coalesce(cardinality(q.newly_acked), 0), false, q.id,
            case when q.keyed then array(
                select queue.job_id(q.id, q.lo, q.ids, m) from unnest(q.newly_acked) m
                union all
                select l.job_id from left_row l where l.nth = q.nth and l.state in ('d', 'x', 'c')
            ) end
        from part q
    )
    select
        array_agg(nth::int4), array_agg(lane), array_agg(probe), array_agg(well),
        -- Lanes whose breaker changes: the others are not written.
        array_agg(lane) filter (where exists (
            select from queue.lanes l where l.id = lane and (
                l.failures > 0 or l.breaker <> 'c'
                or p_failures[nth] > 0 and l.breaker_after is not null
                or p_park[nth] is not null and (l.key <> '' or l.limits <> '')
            )
        )),
        array_agg(parcel) filter (where strict), array_agg(lane) filter (where strict),
        (select array_agg(g) from ending x cross join unnest(x.limiters) g),
        (select array_agg(x.jobs) from ending x cross join unnest(x.limiters) g),
        (select array_agg(k) from ending x cross join unnest(x.keyed) k),
        (select array_agg(-t.nth::int4) from submitted t where t.before)
    into written, lanes, probes, wells, noted, heads, head_lanes, limiters, places, keyed, repeated
    from ending;

    if noted is not null then
        perform from queue.lanes l
        where l.id = any (noted) order by l.id for no key update;
        perform queue.record_lane_outcome(n.lane, n.faults, n.well, n.trial, n.park)
        from (
            select u.lane, max(p_park[u.nth]) as park,
                coalesce(sum(p_failures[u.nth]) filter (where not u.probe), 0)::int4 as faults,
                coalesce(sum(u.well) filter (where not u.probe), 0)::int4 as well,
                max(case
                    when not u.probe then null
                    -- Also when its job is dead of a permanent failure.
                    when p_failures[u.nth] > 0 or exists (
                        select from unnest(e_row, e_state) as e(nth, state)
                        where e.nth = u.nth and e.state = 'x'
                    ) then 'failed'
                    when u.well > 0 then 'well'
                    else 'silent'
                end) as trial
            from unnest(written, lanes, probes, wells) as u(nth, lane, probe, well)
            where u.lane = any (noted)
            group by u.lane
        ) n;
    end if;
    if heads is not null or limiters is not null or keyed is not null then
        perform queue.release_holds(limiters, places, heads, head_lanes, keyed);
    end if;
    -- A row that all members have left keeps no bodies.
    if cardinality(e_row) > 0 then
        update queue.parcels p set body = '{}', n = 1
        from unnest(p_tenant, p_id, p_part, p_form, p_last) as r(tenant, id, part, form, last)
        where r.form = 'p' and r.last and p.tenant = r.tenant and p.id = r.id and p.part = r.part
          and p.state = 'd' and cardinality(p.gone) = p.n;
    end if;
    return coalesce(written, '{}') || coalesce(repeated, '{}');
end
$$;

revoke execute on function queue.settle(
    int4[], bigint[], int2[], bigint[], text[], boolean[], jsonb[], int4[], bigint[], int4[],
    int2[], jsonb[], int4[], int2[], bigint[], text[], bigint[], boolean[], boolean[], int2[],
    text[], text[], text[], int4[], int4[], int4[], int4[], int4[]
) from public;
grant execute on function queue.settle(
    int4[], bigint[], int2[], bigint[], text[], boolean[], jsonb[], int4[], bigint[], int4[],
    int2[], jsonb[], int4[], int2[], bigint[], text[], bigint[], boolean[], boolean[], int2[],
    text[], text[], text[], int4[], int4[], int4[], int4[], int4[]
) to harkara_engine;
