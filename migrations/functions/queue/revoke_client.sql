-- Revokes the right of a login role to enqueue: for one tenant, or, if it is null, for all. It stays a member of
-- harkara_client, which permits nothing by itself and can be needed in another database of the cluster.
create or replace function queue.revoke_client(p_role text, p_tenant uuid) returns int8
language sql volatile as $$
    with gone as (
        delete from queue.clients c
        where c.role = p_role and (p_tenant is null or c.tenant_id = p_tenant)
        returning 1
    )
    select count(*) from gone
$$;

revoke execute on function queue.revoke_client(text, uuid) from public;
grant execute on function queue.revoke_client(text, uuid) to harkara_engine;
