-- Nanoseconds of text such as 90s, 250ms or 1h30m; null for other text.
create or replace function queue.parse_duration(p_text text) returns numeric
language plpgsql immutable strict as $$
declare
    parts text[] := regexp_match(
        p_text,
        '^(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?(?:([0-9]+)ms)?(?:([0-9]+)us)?(?:([0-9]+)ns)?$'
    );
    sizes numeric[] := '{86400000000000,3600000000000,60000000000,1000000000,1000000,1000,1}';
    total numeric := 0;
begin
    if parts is null or p_text = '' or length(p_text) > 200 then
        return null;
    end if;
    for unit in 1 .. 7 loop
        if parts[unit]::numeric > 18446744073709551615 then
            return null;
        end if;
        total := total + coalesce(parts[unit]::numeric, 0) * sizes[unit];
    end loop;
    return case when trunc(total / 1000000000) <= 18446744073709551615 then total end;
end
$$;

revoke execute on function queue.parse_duration(text) from public;
grant execute on function queue.parse_duration(text) to harkara_engine;
