-- The limiter of a queue, created if it has none and p_make is true, and whether it was created. Every limiter
-- is one more lock of every claim, so none is created needlessly. No row for a queue that does not exist.
create or replace function queue.limiter_of_queue(p_queue text, p_make boolean)
returns table (number int4, limiter bigint, made boolean)
language plpgsql volatile as $$
#variable_conflict use_column
begin
    made := false;
    select q.id, q.limiter into number, limiter from queue.queues q where q.name = p_queue;
    if number is null then
        return;
    end if;
    if limiter is null and p_make then
        select q.limiter into limiter from queue.queues q where q.id = limiter_of_queue.number for no key update;
    end if;
    if limiter is null and p_make then
        insert into queue.limiters default values returning id into limiter;
        update queue.queues q set limiter = limiter_of_queue.limiter where q.id = limiter_of_queue.number;
        made := true;
    end if;
    return next;
end
$$;

revoke execute on function queue.limiter_of_queue(text, boolean) from public;
grant execute on function queue.limiter_of_queue(text, boolean) to harkara_engine;
