-- Which of these lanes are half open: the rows that the running statement has just claimed of them are their
-- trial. Served by the primary key of lanes.
create or replace function queue.half_open_lanes(p_lanes bigint[]) returns bigint[]
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
begin
    return array(select l.id from queue.lanes l where l.id = any (p_lanes) and l.breaker = 'h');
end
$$;

revoke execute on function queue.half_open_lanes(bigint[]) from public;
grant execute on function queue.half_open_lanes(bigint[]) to harkara_engine;
