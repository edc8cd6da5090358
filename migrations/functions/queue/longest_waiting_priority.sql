-- The priority whose first ready job has waited longest in a lane, 0 if there is none. Served by parcels_ready:
-- one probe a priority.
create or replace function queue.longest_waiting_priority(p_queue int4, p_lane bigint, p_now timestamptz)
returns int2
language sql stable
set enable_seqscan = off as $$
    select coalesce((
        select first.priority
        from generate_series(0, 9) level cross join lateral (
            select p.priority, p.run_at
            from queue.parcels p
            where p.queue = p_queue and p.lane = p_lane and p.state = 'a' and not p.lost
                and p.priority = level
                and (p.expires_at is null or p.expires_at > p_now or p.started_at is not null)
            order by p.run_at
            limit 1
        ) first
        order by first.run_at, first.priority
        limit 1
    ), 0::int2)
$$;

revoke execute on function queue.longest_waiting_priority(int4, bigint, timestamptz) from public;
grant execute on function queue.longest_waiting_priority(int4, bigint, timestamptz) to harkara_engine;
