-- A lane's limiter, created if it has none and p_make is true, and whether it was created. Jobs of one key that
-- name other limits wait in lanes of their own: these share the limiter.
create or replace function queue.limiter_of_lane(
    p_queue int4, p_tenant int4, p_key text, p_strict boolean, p_make boolean
) returns table (limiter bigint, made boolean)
language plpgsql volatile as $$
#variable_conflict use_column
begin
    perform from queue.lanes l
    where l.queue = p_queue and l.tenant = p_tenant and l.key = p_key and l.strict = p_strict
    order by l.id
    for update;
    select min(l.limiter), bool_or(l.limiter is null) and p_make into limiter, made from queue.lanes l
    where l.queue = p_queue and l.tenant = p_tenant and l.key = p_key and l.strict = p_strict;
    if made then
        if limiter is null then
            insert into queue.limiters (tenant) values (p_tenant) returning id into limiter;
        end if;
        update queue.lanes l set limiter = limiter_of_lane.limiter
        where l.queue = p_queue and l.tenant = p_tenant and l.key = p_key and l.strict = p_strict
          and l.limiter is null;
    end if;
    return next;
end
$$;

revoke execute on function queue.limiter_of_lane(int4, int4, text, boolean, boolean) from public;
grant execute on function queue.limiter_of_lane(int4, int4, text, boolean, boolean) to harkara_engine;
