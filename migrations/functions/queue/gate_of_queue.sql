-- The gate of a queue, made if there is none and p_make says so, and whether it was. Every gate is one
-- more lock of every claim, so none is made for nothing. No row for a queue that is not there.
create or replace function queue.gate_of_queue(p_queue text, p_make boolean)
returns table (number int4, gate bigint, made boolean)
language plpgsql volatile as $$
#variable_conflict use_column
begin
    made := false;
    select q.id, q.gate into number, gate from queue.queues q where q.name = p_queue;
    if number is null then
        return;
    end if;
    if gate is null and p_make then
        select q.gate into gate from queue.queues q where q.id = gate_of_queue.number for no key update;
    end if;
    if gate is null and p_make then
        insert into queue.gates default values returning id into gate;
        update queue.queues q set gate = gate_of_queue.gate where q.id = gate_of_queue.number;
        made := true;
    end if;
    return next;
end
$$;

revoke execute on function queue.gate_of_queue(text, boolean) from public;
grant execute on function queue.gate_of_queue(text, boolean) to harkara_engine;
