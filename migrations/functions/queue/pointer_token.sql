-- A member name as a part of a JSON pointer.
create or replace function queue.pointer_token(p_name text) returns text
language sql immutable strict as $$
    select '/' || replace(replace(p_name, '~', '~0'), '/', '~1')
$$;

revoke execute on function queue.pointer_token(text) from public;
grant execute on function queue.pointer_token(text) to harkara_engine;
