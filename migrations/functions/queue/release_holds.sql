-- Releases what jobs held that have ended or left their lease: slots of limiters, heads of strict lanes, and
-- unique keys held until the end; lets breakers know.
create or replace function queue.release_holds(
    p_limiters bigint[], p_slots int4[], p_heads bigint[], p_head_lanes bigint[], p_keyed bigint[]
) returns void
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
begin
    if cardinality(p_heads) > 0 then
        perform from queue.lanes l where l.id = any (p_head_lanes) order by l.id for no key update;
        update queue.lanes l set head = null
        from unnest(p_head_lanes, p_heads) as h(lane, parcel)
        where l.id = h.lane and l.head = h.parcel;
    end if;
    if cardinality(p_limiters) > 0 then
        perform from queue.limiters g where g.id = any (p_limiters) order by g.id for no key update;
        update queue.limiters g set running = g.running - u.places
        from (
            select limiter, sum(places)::int4 as places
            from unnest(p_limiters, p_slots) as u(limiter, places) group by limiter
        ) u
        where g.id = u.limiter;
    end if;
    if cardinality(p_keyed) > 0 then
        -- Locked in the order in which enqueues take them.
        perform from queue.unique_keys k
        where k.job_id = any (p_keyed) and k.expires_at = 'infinity'
        order by k.tenant, k.kind, k.key
        for update;
        delete from queue.unique_keys k
        where k.job_id = any (p_keyed) and k.expires_at = 'infinity';
    end if;
end
$$;

revoke execute on function queue.release_holds(
    bigint[], int4[], bigint[], bigint[], bigint[]
) from public;
grant execute on function queue.release_holds(
    bigint[], int4[], bigint[], bigint[], bigint[]
) to harkara_engine;
