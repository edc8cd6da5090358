-- Keeps the first p_jobs jobs of a waiting parcel in its row, and moves the rest into a row behind it. Returns
-- the new address of the kept row.
create or replace function queue.split_parcel(p_row tid, p_jobs int4) returns tid
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
    keep int4;
    kept tid;
begin
    select i into strict keep
    from (
        select i, row_number() over (order by i) as nth
        from queue.parcels p cross join lateral generate_series(1, p.n) i
        where p.ctid = p_row and not (i = any (coalesce(p.gone, '{}')))
    ) members
    where nth = p_jobs;
    insert into queue.parcels (
        tenant, id, part, lane, run_at, created_at, queue, kind, priority, attempt, max_attempts,
        deferrals, lo, n, state, keyed, gone, bytes, body
    )
    select
        tenant, id, lo + keep + 1, lane, run_at, created_at, queue, kind, priority, attempt,
        max_attempts, deferrals, lo + keep, n - keep, 'a', keyed,
        nullif(array(select g - keep from unnest(gone) g where g > keep), '{}'),
        queue.body_bytes(body[keep + 1:]), body[keep + 1:]
    from queue.parcels where ctid = p_row;
    update queue.parcels
    set n = keep, body = body[:keep], bytes = queue.body_bytes(body[:keep]),
        gone = nullif(array(select g from unnest(gone) g where g <= keep), '{}')
    where ctid = p_row
    returning ctid into kept;
    return kept;
end
$$;

revoke execute on function queue.split_parcel(tid, int4) from public;
grant execute on function queue.split_parcel(tid, int4) to harkara_engine;
