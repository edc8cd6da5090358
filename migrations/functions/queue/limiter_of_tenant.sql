-- A tenant's limiter, created if it has none and p_make is true, and whether it was created.
create or replace function queue.limiter_of_tenant(p_tenant int4, p_make boolean) returns table (limiter bigint, made boolean)
language plpgsql volatile as $$
#variable_conflict use_column
begin
    made := false;
    select t.limiter into limiter from queue.tenants t where t.number = p_tenant;
    if limiter is null and p_make then
        select t.limiter into limiter from queue.tenants t where t.number = p_tenant for no key update;
    end if;
    if limiter is null and p_make then
        insert into queue.limiters (tenant) values (p_tenant) returning id into limiter;
        update queue.tenants t set limiter = limiter_of_tenant.limiter where t.number = p_tenant;
        made := true;
    end if;
    return next;
end
$$;

revoke execute on function queue.limiter_of_tenant(int4, boolean) from public;
grant execute on function queue.limiter_of_tenant(int4, boolean) to harkara_engine;
