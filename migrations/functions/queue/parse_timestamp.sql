-- The time of RFC 3339 text; null for other text.
create or replace function queue.parse_timestamp(p_text text) returns timestamptz
language plpgsql immutable strict set timezone = 'UTC' set datestyle = 'ISO' as $$
begin
    if p_text !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$' then
        return null;
    end if;
    -- Digits beyond microseconds are cut off, not rounded, as over HTTP.
    return regexp_replace(p_text, '(\.[0-9]{6})[0-9]+', '\1')::timestamptz;
exception when data_exception then
    return null;
end
$$;

revoke execute on function queue.parse_timestamp(text) from public;
grant execute on function queue.parse_timestamp(text) to harkara_engine;
