-- Validates a value at p_pointer against a JSON Schema, and returns the faults. Supported are type, enum, const,
-- minLength, maxLength, pattern, minimum, maximum, items, minItems, maxItems, uniqueItems, properties, required,
-- additionalProperties, propertyNames, allOf, anyOf, oneOf; and x-code and x-detail, which replace the code and
-- the detail of faults found by the rules beside them. Patterns are PostgreSQL's.
create or replace function queue.check_value(p_value jsonb, p_schema jsonb, p_pointer text) returns jsonb
language plpgsql immutable as $$
declare
    found jsonb := '[]';
    part record;
    least jsonb;
    kind text := jsonb_typeof(p_value);
    words text;
    wrong text;
    code text := coalesce(p_schema ->> 'x-code', 'invalid');
begin
    if kind is null or p_schema is null or jsonb_typeof(p_schema) <> 'object' or p_schema = '{}' then
        return found;
    end if;
    if kind = 'number' and p_value::text ~ '^-?[0-9]+$' then
        kind := 'integer';
    end if;
    if p_schema ? 'type' and not (
        p_schema -> 'type' ? kind or kind = 'integer' and p_schema -> 'type' ? 'number'
    ) then
        return queue.field_error(p_pointer, 'invalid', format('invalid type: %s, expected %s', kind,
            case jsonb_typeof(p_schema -> 'type') when 'array' then (
                select string_agg(t, ' or ') from jsonb_array_elements_text(p_schema -> 'type') t
            ) else p_schema ->> 'type' end));
    end if;
    -- A null where null is allowed is valid.
    if kind = 'null' and p_schema ? 'type' then
        return found;
    end if;
    if p_schema ? 'const' and p_value <> p_schema -> 'const' then
        wrong := format('must be %s', p_schema -> 'const');
    elsif p_schema ? 'enum' and not p_schema -> 'enum' @> jsonb_build_array(p_value) then
        wrong := format('must be one of %s',
            (select string_agg(e #>> '{}', ', ') from jsonb_array_elements(p_schema -> 'enum') e));
    elsif kind = 'string' then
        words := p_value #>> '{}';
        if length(words) < (p_schema ->> 'minLength')::int8 then
            wrong := format('must have at least %s characters', p_schema ->> 'minLength');
        elsif length(words) > (p_schema ->> 'maxLength')::int8 then
            wrong := format('must have at most %s characters', p_schema ->> 'maxLength');
        elsif words !~ (p_schema ->> 'pattern') then
            wrong := format('must match %s', p_schema ->> 'pattern');
        end if;
    elsif kind in ('integer', 'number') then
        if (p_value #>> '{}')::numeric < (p_schema ->> 'minimum')::numeric then
            wrong := format('must be at least %s', p_schema ->> 'minimum');
        elsif (p_value #>> '{}')::numeric > (p_schema ->> 'maximum')::numeric then
            wrong := format('must be at most %s', p_schema ->> 'maximum');
        end if;
    elsif kind = 'array' then
        if jsonb_array_length(p_value) < (p_schema ->> 'minItems')::int8 then
            wrong := format('must have at least %s items', p_schema ->> 'minItems');
        elsif jsonb_array_length(p_value) > (p_schema ->> 'maxItems')::int8 then
            wrong := format('must have at most %s items', p_schema ->> 'maxItems');
        elsif (p_schema -> 'uniqueItems') = 'true' and jsonb_array_length(p_value)
            > (select count(distinct e) from jsonb_array_elements(p_value) e) then
            wrong := 'duplicate value';
        end if;
    end if;
    if wrong is not null then
        found := found || queue.field_error(p_pointer, code, coalesce(p_schema ->> 'x-detail', wrong));
    end if;
    if kind = 'array' and p_schema ? 'items' then
        for part in
            select value, nth - 1 as nth from jsonb_array_elements(p_value) with ordinality e(value, nth)
        loop
            found := found
                || queue.check_value(part.value, p_schema -> 'items', p_pointer || '/' || part.nth);
        end loop;
    elsif kind = 'object' then
        for part in select * from jsonb_each(p_value) loop
            words := p_pointer || queue.pointer_token(part.key);
            if p_schema ? 'propertyNames' then
                found := found
                    || queue.check_value(to_jsonb(part.key), p_schema -> 'propertyNames', words);
            end if;
            if p_schema -> 'properties' ? part.key then
                found := found
                    || queue.check_value(part.value, p_schema -> 'properties' -> part.key, words);
            elsif p_schema -> 'additionalProperties' = 'false' then
                found := found || queue.field_error(words, 'unknown_field', format(
                    'unknown field `%s`, expected one of %s', part.key, (
                        select string_agg(format('`%s`', k), ', ' order by k)
                        from jsonb_object_keys(p_schema -> 'properties') k
                    )));
            elsif jsonb_typeof(p_schema -> 'additionalProperties') = 'object' then
                found := found
                    || queue.check_value(part.value, p_schema -> 'additionalProperties', words);
            end if;
        end loop;
        for part in
            select r as key from jsonb_array_elements_text(p_schema -> 'required') r
            where not p_value ? r
        loop
            found := found || queue.field_error(p_pointer || queue.pointer_token(part.key), 'missing',
                format('missing field `%s`', part.key));
        end loop;
    end if;
    for part in select value from jsonb_array_elements(p_schema -> 'allOf') loop
        found := found || queue.check_value(p_value, part.value, p_pointer);
    end loop;
    -- One alternative must match; if none does, the faults are those of the one with the fewest.
    for part in
        select value from jsonb_array_elements(coalesce(p_schema -> 'anyOf', p_schema -> 'oneOf'))
        where not (value ->> 'type' = 'null' and kind <> 'null')
    loop
        least := case when least is null
            or jsonb_array_length(queue.check_value(p_value, part.value, p_pointer))
                < jsonb_array_length(least)
            then queue.check_value(p_value, part.value, p_pointer) else least end;
    end loop;
    return found || coalesce(least, '[]');
end
$$;

revoke execute on function queue.check_value(jsonb, jsonb, text) from public;
grant execute on function queue.check_value(jsonb, jsonb, text) to harkara_engine;
