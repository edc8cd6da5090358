-- The job that can go next in a strict lane, locked: the one that has begun, otherwise the first. `place` is its
-- row, `begun` its parcel if it begins now, `lost` whether its worker died. `is_held` is true when it cannot go
-- yet, with the time until the next try if that is known. Called by queue.claim only, whose settings pin its
-- plans too.
create or replace function queue.next_in_strict_lane(
    p_queue int4, p_lane bigint, p_tenant int4, p_head bigint, p_lost boolean, p_now timestamptz,
    out place tid, out begun bigint, out lost boolean, out weight int4, out is_held boolean,
    out wait_ms bigint
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    seen tid;
    current_state "char";
    due timestamptz;
begin
    if p_head is not null then
        -- The job that has begun goes first, and no job overtakes it.
        select p.ctid, p.state, p.lost, p.run_at, coalesce(p.bytes, 1024)
        into seen, current_state, lost, due, weight
        from queue.parcels p
        where p.tenant = p_tenant and p.id = p_head and p.part = 0 and p.state in ('s', 'a', 'r');
        if found then
            if current_state = 'a' and (p_lost or not lost) then
                select p.ctid into place
                from queue.parcels p
                where p.ctid = seen and p.state = 'a'
                    and (p.expires_at is null or p.expires_at > p_now or p.started_at is not null)
                for update skip locked;
            elsif current_state = 's' then
                wait_ms := greatest(1, ceil(extract(epoch from due - p_now) * 1000));
            end if;
            is_held := place is null;
            return;
        end if;
        -- It has finished and was not cleared from the lane.
        update queue.lanes a set head = null where a.id = p_lane;
    end if;
    -- The transaction that locks the first job can roll back: the next one does not go before it.
    select p.ctid, p.id, false, coalesce(p.bytes, 1024) into seen, begun, lost, weight
    from queue.parcels p
    where p.queue = p_queue and p.lane = p_lane and p.state = 'a' and not p.lost
        and (p.expires_at is null or p.expires_at > p_now or p.started_at is not null)
    order by p.priority, p.run_at, p.id
    limit 1;
    if not found and p_lost then
        select p.ctid, p.id, true, coalesce(p.bytes, 1024) into seen, begun, lost, weight
        from queue.parcels p
        where p.queue = p_queue and p.lane = p_lane and p.state = 'a' and p.lost
        order by p.priority, p.run_at, p.id
        limit 1;
    end if;
    is_held := false;
    if seen is not null then
        select p.ctid into place
        from queue.parcels p
        where p.ctid = seen and p.state = 'a'
        for update skip locked;
        if not found then
            is_held := true;
            wait_ms := 10;
        end if;
    end if;
end
$$;

revoke execute on function queue.next_in_strict_lane(
    int4, bigint, int4, bigint, boolean, timestamptz
) from public;
grant execute on function queue.next_in_strict_lane(
    int4, bigint, int4, bigint, boolean, timestamptz
) to harkara_engine;
