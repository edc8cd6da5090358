-- An interval as text such as 1h30m, measured from the start of the transaction: a month is as long as that
-- month. 'infinity' and values outside of the calendar become text that is not a duration.
create or replace function queue.format_duration(p_interval interval) returns text
language plpgsql stable strict as $$
begin
    return trunc(extract(epoch from (now() + p_interval) - now()) * 1000000)::text || 'us';
exception when data_exception then
    return p_interval::text;
end
$$;

revoke execute on function queue.format_duration(interval) from public;
grant execute on function queue.format_duration(interval) to harkara_engine;
