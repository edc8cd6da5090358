-- The same for a tenant.
create or replace function queue.gate_of_tenant(p_tenant int4, p_make boolean) returns table (gate bigint, made boolean)
language plpgsql volatile as $$
#variable_conflict use_column
begin
    made := false;
    select t.gate into gate from queue.tenants t where t.number = p_tenant;
    if gate is null and p_make then
        select t.gate into gate from queue.tenants t where t.number = p_tenant for no key update;
    end if;
    if gate is null and p_make then
        insert into queue.gates (tenant) values (p_tenant) returning id into gate;
        update queue.tenants t set gate = gate_of_tenant.gate where t.number = p_tenant;
        made := true;
    end if;
    return next;
end
$$;

revoke execute on function queue.gate_of_tenant(int4, boolean) from public;
grant execute on function queue.gate_of_tenant(int4, boolean) to harkara_engine;
