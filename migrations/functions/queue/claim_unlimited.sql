-- Claims from those of the lanes that nothing limits, p_unlimited, all at once, and returns the same as
-- queue.claim. Parcels are taken whole; only the very first can be split, if it holds more than p_capacity jobs.
-- At most p_bytes of bodies are taken. Lanes in p_parking close when a receiver asks for a pause. Called by
-- queue.claim only, whose settings pin its plans too.
create or replace function queue.claim_unlimited(
    p_queue int4, p_lease bigint, p_token bigint, p_lanes bigint[], p_shares int4[],
    p_depths int4[], p_priorities int2[], p_run_ats timestamptz[], p_unlimited bigint[],
    p_parking bigint[], p_capacity int4, p_bytes int4, p_lost boolean, p_now timestamptz
) returns table (
    lane bigint, closed boolean, wait_ms bigint, spent boolean, drawn int4,
    id bigint, part int2, tenant int4, kind int4, priority int2, attempt int2, max_attempts int2,
    deferrals int2, lo int2, n int2, ids bigint[], gone int2[], run_at timestamptz, started_at timestamptz,
    lost boolean, parks boolean, body bytea[]
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    r record;
    rows tid[];
    taken int4;
    weight int4 := 0;
begin
    rows := '{}';
    taken := 0;
    if p_lost then
        select array_agg(p.t), coalesce(max(p.bytes), 0) into rows, weight from (
            select p.ctid as t, coalesce(p.bytes, 1024) as bytes from queue.parcels p
            where p.queue = p_queue and p.lane = any (p_unlimited) and p.state = 'a' and p.lost
                and coalesce(p.bytes, 1024) <= p_bytes
            order by p.run_at
            limit 1
            for update skip locked
        ) p;
        rows := coalesce(rows, '{}');
        taken := cardinality(rows);
    end if;
    for r in
        with asked as (
            select
                u.lane, u.share, u.depth, u.nth, coalesce(u.moment, '-infinity') as moment,
                case when u.priority < 0 then queue.longest_waiting_priority(p_queue, u.lane, p_now)
                    else coalesce(u.priority, 0) end as priority
            from unnest(p_lanes, p_shares, p_depths, p_priorities, p_run_ats)
                with ordinality as u(lane, share, depth, priority, moment, nth)
            join unnest(p_unlimited) as free(lane) using (lane)
        ),
        seen as materialized (
            select u.nth, u.share, z.t, z.jobs, z.bytes, row_number() over () as place
            from asked u cross join lateral (
                select
                    p.ctid as t, p.n - coalesce(cardinality(p.gone), 0) as jobs,
                    coalesce(p.bytes, 1024) as bytes
                from queue.parcels p
                where p.queue = p_queue and p.lane = u.lane and p.state = 'a' and not p.lost
                    and (p.priority, p.run_at) >= (u.priority, u.moment)
                    and (p.expires_at is null or p.expires_at > p_now or p.started_at is not null)
                order by p.priority, p.run_at, p.id
                limit u.depth
                for update skip locked
            ) z
        ),
        summed as (
            select *,
                sum(jobs) over (partition by nth order by place rows unbounded preceding) - jobs
                    as before
            from seen
        ),
        wanted as (
            select *,
                taken + sum(jobs) over (order by place rows unbounded preceding) - jobs as others,
                weight + sum(bytes) over (order by place rows unbounded preceding) as upto
            from summed
            where before < share
        ),
        chosen as (
            select nth, array_agg(t) as rows, count(*) as count, max(jobs) as largest
            from wanted
            where others < p_capacity and (jobs <= p_capacity - others or others = 0)
                and (upto <= p_bytes or others = 0)
            group by nth
        ),
        found as (
            select nth, count(*) as count from seen group by nth
        )
        select
            u.lane, c.rows, c.largest > p_capacity as too_many,
            coalesce(f.count, 0) < u.depth and coalesce(f.count, 0) = coalesce(c.count, 0) as spent
        from asked u left join chosen c using (nth) left join found f using (nth)
        order by u.nth
    loop
        lane := r.lane;
        closed := false;
        wait_ms := null;
        spent := r.spent;
        if r.too_many then
            r.rows[1] := queue.split_parcel(r.rows[1], p_capacity);
            spent := false;
        end if;
        drawn := coalesce(cardinality(r.rows), 0);
        rows := rows || coalesce(r.rows, '{}');
        return next;
    end loop;
    return query
    select
        p.lane, false, null::bigint, false, 0, p.id, p.part, p.tenant, p.kind, p.priority, p.attempt,
        p.max_attempts, p.deferrals, p.lo, p.n, p.ids, p.gone, p.run_at, p.started_at, p.lost,
        p.lane = any (p_parking), p.body
    from queue.lease_rows(rows, null, p_lease, p_token, false, p_now) p
    order by p.priority, p.run_at, p.id, p.lo;
end
$$;

revoke execute on function queue.claim_unlimited(
    int4, bigint, bigint, bigint[], int4[], int4[], int2[], timestamptz[], bigint[], bigint[], int4,
    int4, boolean, timestamptz
) from public;
grant execute on function queue.claim_unlimited(
    int4, bigint, bigint, bigint[], int4[], int4[], int2[], timestamptz[], bigint[], bigint[], int4,
    int4, boolean, timestamptz
) to harkara_engine;
