-- Removes rows of finished jobs of the running transaction's tenant, whose own role has no right to.
create or replace function queue.delete_parcels(p_places tid[]) returns int8
language sql volatile security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off as $$
    with removed as (
        delete from queue.parcels p
        where p.ctid = any (p_places)
          and p.tenant = (select t.number from queue.tenants t where t.id = app.current_tenant())
          and p.state in ('d', 'x', 'c')
        returning 1
    )
    select count(*) from removed
$$;

revoke execute on function queue.delete_parcels(tid[]) from public;
grant execute on function queue.delete_parcels(tid[]) to harkara_app, harkara_engine;
