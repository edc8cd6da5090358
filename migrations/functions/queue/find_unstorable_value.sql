-- Finds JSON that cannot be stored unchanged: a number outside of double precision, nesting deeper than 128. SQL
-- keeps the text of numbers exactly, and a worker could not read them.
create or replace function queue.find_unstorable_value(p_value jsonb, p_pointer text, p_depth int4) returns jsonb
language plpgsql immutable as $$
declare
    found jsonb := '[]';
    part record;
begin
    case jsonb_typeof(p_value)
    when 'number' then
        if abs((p_value #>> '{}')::numeric) >= 1.797693134862315809e308 then
            found := queue.field_error(p_pointer, 'invalid', 'number out of range');
        end if;
    when 'object' then
        if p_depth >= 128 then
            return queue.field_error(p_pointer, 'invalid', 'recursion limit exceeded');
        end if;
        for part in select * from jsonb_each(p_value) loop
            found := found
                || queue.find_unstorable_value(part.value, p_pointer || queue.pointer_token(part.key), p_depth + 1);
        end loop;
    when 'array' then
        if p_depth >= 128 then
            return queue.field_error(p_pointer, 'invalid', 'recursion limit exceeded');
        end if;
        for part in select value, nth - 1 as nth from jsonb_array_elements(p_value) with ordinality e(value, nth)
        loop
            found := found || queue.find_unstorable_value(part.value, p_pointer || '/' || part.nth, p_depth + 1);
        end loop;
    else
        null;
    end case;
    return found;
end
$$;

revoke execute on function queue.find_unstorable_value(jsonb, text, int4) from public;
grant execute on function queue.find_unstorable_value(jsonb, text, int4) to harkara_engine;
