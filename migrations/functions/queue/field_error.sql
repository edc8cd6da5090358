-- One validation error as the HTTP API reports it: a JSON pointer, a code and a detail.
create or replace function queue.field_error(p_pointer text, p_code text, p_detail text) returns jsonb
language sql immutable as $$
    select jsonb_build_array(
        jsonb_build_object('pointer', p_pointer, 'code', p_code, 'detail', p_detail))
$$;

revoke execute on function queue.field_error(text, text, text) from public;
grant execute on function queue.field_error(text, text, text) to harkara_engine;
