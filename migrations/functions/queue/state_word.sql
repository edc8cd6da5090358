-- The public word of a stored state.
create or replace function queue.state_word(p_state "char") returns text
language sql immutable strict as $$
    select case p_state
        when 's' then 'scheduled' when 'a' then 'ready' when 'r' then 'running'
        when 'd' then 'succeeded' when 'x' then 'dead' when 'c' then 'cancelled' end
$$;

revoke execute on function queue.state_word("char") from public;
grant execute on function queue.state_word("char") to harkara_engine;
