-- Cancels at most p_limit jobs that have not started by their expires_at, and returns their number. Served by
-- parcels_expiring.
create or replace function queue.cancel_expired_jobs(p_limit int4) returns int4
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
    heads bigint[];
    head_lanes bigint[];
    keyed bigint[];
    expired int4;
begin
    with old as materialized (
        select p.ctid as t, p.state as state_before
        from queue.parcels p
        where p.state in ('s', 'a') and p.expires_at is not null and p.started_at is null
            and p.expires_at <= now()
        order by p.expires_at
        limit p_limit
        for update skip locked
    ),
    ended as (
        update queue.parcels p
        set state = 'c', finished_at = now(), error_code = 'expired',
            error_message = 'the job had not started when its time was over'
        from old o
        where p.ctid = o.t
        returning p.id, p.lo, p.tenant, p.queue, p.kind, p.lane, p.strict, p.keyed, o.state_before
    ),
    counted as (
        insert into queue.deltas (tenant, queue, kind, scheduled, ready, cancelled)
        select
            e.tenant, e.queue, e.kind, -count(*) filter (where e.state_before = 's'),
            -count(*) filter (where e.state_before = 'a'), count(*)
        from ended e
        group by e.tenant, e.queue, e.kind
    )
    select
        count(*), array_agg(id) filter (where strict), array_agg(lane) filter (where strict),
        array_agg(id * 1024 + lo) filter (where ended.keyed)
    into expired, heads, head_lanes, keyed
    from ended;
    perform queue.release_holds(null, null, heads, head_lanes, keyed);
    return expired;
end
$$;

revoke execute on function queue.cancel_expired_jobs(int4) from public;
grant execute on function queue.cancel_expired_jobs(int4) to harkara_engine;
