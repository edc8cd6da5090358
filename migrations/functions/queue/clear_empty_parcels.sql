-- Removes the bodies of a row that all members have left. The tenant's own role has no right to write them, and
-- nothing visible changes.
create or replace function queue.clear_empty_parcels(p_ids bigint[], p_parts int2[]) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    update queue.parcels p set body = '{}', n = 1
    from unnest(p_ids, p_parts) as e(id, part)
    where p.tenant = (select t.number from queue.tenants t where t.id = app.current_tenant())
      and p.id = e.id and p.part = e.part
      and p.state = 'd' and p.acked is null and cardinality(p.gone) = p.n
$$;

revoke execute on function queue.clear_empty_parcels(bigint[], int2[]) from public;
grant execute on function queue.clear_empty_parcels(bigint[], int2[]) to harkara_app, harkara_engine;
