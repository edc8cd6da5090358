-- Deltas that are not rolled up yet, of a tenant or (null) of all. Read beside queue.tallies, in one statement,
-- they give the current numbers: a rollup adds, removes and moves queue.rollup_state.last_snapshot in one
-- transaction, so that a snapshot sees each change in one of the two places. Rows that the last rollup saw are
-- not read, even where they cannot be vacuumed yet. A function, to pin the plan: the table is almost empty when
-- statistics are gathered.
create or replace function queue.pending_deltas(p_tenant int4) returns setof queue.deltas
language plpgsql stable rows 100
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    seen pg_snapshot := (select f.last_snapshot from queue.rollup_state f);
    edge xid8 := pg_snapshot_xmax(seen);
    -- Transactions that were open then.
    late xid8[] := array(select pg_snapshot_xip(seen));
begin
    return query
    select d.* from queue.deltas d
    where d.xid >= edge and (p_tenant is null or d.tenant = p_tenant)
    union all
    select d.* from queue.deltas d
    where d.xid = any (late) and (p_tenant is null or d.tenant = p_tenant);
end
$$;

revoke execute on function queue.pending_deltas(int4) from public;
grant execute on function queue.pending_deltas(int4) to harkara_app, harkara_engine;
