-- Reads and validates the job at pointer p_prefix of the request, with the same pointers and codes as the HTTP
-- API (api/src/routes/jobs/request.rs).
create or replace function queue.read_job(p_job jsonb, p_place int4, p_prefix text, p_platform boolean)
returns queue.draft
language plpgsql stable set jit = off as $$
declare
    draft queue.draft;
    faults jsonb := '[]';
    member record;
    usual queue.catalogue;
    text_of text;
    is_known boolean;
    payload jsonb;
    number numeric;
    timeout_ms numeric;
    hold numeric;
    delay numeric;
    waits jsonb;
    base numeric;
    longest numeric;
    factor numeric;
    jitter text;
    seen text[] := '{}';
    named text;
    cost numeric;
    part jsonb;
    whole text;
    is_key constant text := '^[^\u0001-\u001f\u007f-\u009f]+$';
    key_rule constant text := 'must have 1 to 256 characters and no control characters';
begin
    draft.place := p_place;
    draft.priority := 5;
    draft.delay_ms := 0;
    if jsonb_typeof(p_job) is distinct from 'object' then
        draft.faults := queue.field_error(p_prefix, 'invalid', 'must be an object');
        return draft;
    end if;
    whole := p_job::text;
    if octet_length(whole) > 1048576 then
        draft.faults := queue.field_error(p_prefix, 'too_large', 'must be at most 1 MiB of JSON');
        return draft;
    end if;
    -- Both are rare, and locating them is expensive.
    if whole ~ '[0-9]{250}' or p_job @? '$.**{128}' then
        faults := queue.find_unstorable_value(p_job, p_prefix, 0);
    end if;

    -- Members one by one; unknown members and those of a wrong type are left out.
    for member in select * from jsonb_each(p_job) loop
        text_of := p_job ->> member.key;
        continue when jsonb_typeof(member.value) = 'null' and member.key in (
            'kind', 'payload', 'queue', 'priority', 'run_at', 'delay', 'unique_key', 'unique_for',
            'ordering_key', 'max_attempts', 'timeout', 'backoff', 'tags', 'limits', 'expires_at');
        case
        when member.key in ('kind', 'queue', 'unique_key', 'ordering_key') then
            if jsonb_typeof(member.value) <> 'string' then
                faults := faults || queue.field_error(p_prefix || '/' || member.key, 'invalid',
                    format('invalid type: %s, expected a string', jsonb_typeof(member.value)));
                p_job := p_job - member.key;
            end if;
        when member.key in ('priority', 'max_attempts') then
            if jsonb_typeof(member.value) <> 'number' or text_of !~ '^-?[0-9]{1,18}$' then
                faults := faults || queue.field_error(p_prefix || '/' || member.key, 'invalid',
                    format('invalid type: %s, expected an integer', jsonb_typeof(member.value)));
                p_job := p_job - member.key;
            end if;
        when member.key in ('run_at', 'expires_at') then
            if jsonb_typeof(member.value) <> 'string' or queue.parse_timestamp(text_of) is null then
                faults := faults || queue.field_error(p_prefix || '/' || member.key, 'invalid',
                    'not a time: expected RFC 3339, as in 2030-01-31T12:00:00Z');
                p_job := p_job - member.key;
            end if;
        when member.key in ('delay', 'unique_for', 'timeout') then
            if jsonb_typeof(member.value) <> 'string' or queue.parse_duration(text_of) is null then
                faults := faults || queue.field_error(p_prefix || '/' || member.key, 'invalid', 'not a duration: expected '
                    'integers with a unit of d, h, m, s, ms, us or ns, as in "90s" or "1h30m"');
                p_job := p_job - member.key;
            end if;
        when member.key in ('tags', 'limits') then
            if jsonb_typeof(member.value) <> 'array' then
                faults := faults || queue.field_error(p_prefix || '/' || member.key, 'invalid',
                    format('invalid type: %s, expected a sequence', jsonb_typeof(member.value)));
                p_job := p_job - member.key;
            elsif member.key = 'tags' and p_job @? 'strict $.tags[*] ? (@.type() != "string")' then
                faults := faults || queue.field_error(p_prefix || '/tags/' || (
                    select min(nth) - 1 from jsonb_array_elements(member.value) with ordinality e(tag, nth)
                    where jsonb_typeof(tag) <> 'string'
                ), 'invalid', 'invalid type, expected a string');
                p_job := p_job - member.key;
            end if;
        when member.key in ('payload', 'backoff') then
            null;
        else
            faults := faults || queue.field_error(p_prefix || queue.pointer_token(member.key), 'unknown_field',
                format('unknown field `%s`', member.key));
        end case;
    end loop;
    -- Each member is reported once: see the end.

    draft.kind := p_job ->> 'kind';
    if draft.kind is null then
        faults := faults || queue.field_error(p_prefix || '/kind', 'missing', 'is required');
    else
        select c.* into usual from queue.catalogue c
        where c.kind = draft.kind and (p_platform or not c.platform_only);
        if not found then
            faults := faults || queue.field_error(p_prefix || '/kind', 'unknown_kind', 'must be the name of a kind: ' || (
                select coalesce(string_agg(c.kind, ', ' order by c.kind), 'none: no release has said so')
                from queue.catalogue c where p_platform or not c.platform_only
            ));
        end if;
    end if;
    is_known := usual.kind is not null;

    payload := p_job -> 'payload';
    if payload is null or payload = 'null' then
        faults := faults || queue.field_error(p_prefix || '/payload', 'missing', 'is required');
    elsif jsonb_typeof(payload) <> 'object' then
        faults := faults || queue.field_error(p_prefix || '/payload', 'invalid', 'must be an object');
    elsif octet_length(payload::text) > 262144 then
        faults := faults || queue.field_error(p_prefix || '/payload', 'too_large', format(
            'must be at most 256 KiB of JSON, got %s bytes', octet_length(payload::text)));
    elsif is_known then
        part := queue.check_value(payload, usual.shape, p_prefix || '/payload');
        if part = '[]' then
            part := queue.check_value(payload, usual.rules, p_prefix || '/payload');
        end if;
        faults := faults || part;
    end if;

    draft.ordering_key := p_job ->> 'ordering_key';
    if draft.ordering_key !~ is_key or length(draft.ordering_key) > 256 then
        faults := faults || queue.field_error(p_prefix || '/ordering_key', 'invalid_key', key_rule);
    end if;

    if jsonb_array_length(nullif(p_job -> 'limits', 'null')) > 3 then
        faults := faults || queue.field_error(p_prefix || '/limits', 'too_many', 'must have at most 3 items');
    else
        for member in
            select value, p_prefix || '/limits/' || (nth - 1) as at
            from jsonb_array_elements(nullif(p_job -> 'limits', 'null')) with ordinality e(value, nth)
        loop
            if jsonb_typeof(member.value) <> 'object' then
                faults := faults || queue.field_error(member.at, 'invalid', 'must be an object');
                continue;
            end if;
            faults := faults || coalesce((
                select jsonb_agg(queue.field_error(member.at || queue.pointer_token(k), 'unknown_field',
                    format('unknown field `%s`, expected `key` or `cost`', k)) -> 0)
                from jsonb_object_keys(member.value) k where k not in ('key', 'cost')
            ), '[]');
            named := member.value ->> 'key';
            if named is null then
                faults := faults || queue.field_error(member.at || '/key', 'missing', 'is required');
            elsif jsonb_typeof(member.value -> 'key') <> 'string' then
                faults := faults || queue.field_error(member.at || '/key', 'invalid', 'invalid type, expected a string');
            elsif named !~ is_key or length(named) > 256 then
                faults := faults || queue.field_error(member.at || '/key', 'invalid_key', key_rule);
            elsif named = any (draft.limits) then
                faults := faults || queue.field_error(member.at || '/key', 'duplicate', 'duplicate value');
            end if;
            cost := 1;
            if coalesce(member.value -> 'cost', 'null') <> 'null' then
                if jsonb_typeof(member.value -> 'cost') <> 'number' or member.value ->> 'cost' !~ '^-?[0-9]{1,18}$' then
                    faults := faults || queue.field_error(member.at || '/cost', 'invalid', 'invalid type, expected an integer');
                else
                    cost := (member.value ->> 'cost')::numeric;
                end if;
            end if;
            if cost not between 1 and 1000 then
                faults := faults || queue.field_error(member.at || '/cost', 'out_of_range',
                    format('must be between 1 and 1000, got %s', cost));
                cost := 1;
            end if;
            draft.limits := draft.limits || named;
            draft.costs := draft.costs || cost::int4;
        end loop;
    end if;

    draft.run_at := queue.parse_timestamp(p_job ->> 'run_at');
    delay := queue.parse_duration(p_job ->> 'delay');
    if draft.run_at is not null and delay is not null then
        faults := faults || queue.field_error(p_prefix || '/delay', 'exclusive', 'cannot be combined with `run_at`');
    end if;
    if draft.run_at < now() - interval '24 hours' then
        faults := faults || queue.field_error(p_prefix || '/run_at', 'out_of_range',
            'must be at most 24 hours ago');
    elsif draft.run_at > now() + interval '120 months' then
        faults := faults || queue.field_error(p_prefix || '/run_at', 'out_of_range', 'must be at most ten years ahead');
    end if;
    if delay / 1000000000 > extract(epoch from now() + interval '120 months' - now()) then
        faults := faults || queue.field_error(p_prefix || '/delay', 'out_of_range', 'must be at most ten years');
    else
        draft.delay_ms := trunc(coalesce(delay, 0) / 1000000)::int8;
    end if;
    if draft.run_at <= now() - interval '1 minute' then
        draft.run_at := null;
    end if;

    draft.queue := coalesce(p_job ->> 'queue', usual.queue);
    if p_job ->> 'queue' !~ '^[a-z0-9][a-z0-9_.-]{0,63}$' then
        faults := faults || queue.field_error(p_prefix || '/queue', 'invalid', 'is not a queue name: expected 1 to 64 '
            'of a-z, 0-9, `_`, `.` and `-`, the first a letter or digit');
    end if;

    number := (p_job ->> 'priority')::numeric;
    if number not between 0 and 9 then
        faults := faults || queue.field_error(p_prefix || '/priority', 'out_of_range',
            format('must be between 0 and 9, got %s', number));
    elsif number is not null then
        draft.priority := number;
    end if;
    number := (p_job ->> 'max_attempts')::numeric;
    if number not between 1 and 100 then
        faults := faults || queue.field_error(p_prefix || '/max_attempts', 'out_of_range',
            format('must be between 1 and 100, got %s', number));
    else
        draft.max_attempts := coalesce(number::int2, usual.max_attempts);
    end if;

    timeout_ms := trunc(queue.parse_duration(p_job ->> 'timeout') / 1000000);
    if queue.parse_duration(p_job ->> 'timeout') not between 100000000 and 86400000000000 then
        faults := faults || queue.field_error(p_prefix || '/timeout', 'out_of_range', 'must be between `100ms` and `24h`');
    end if;

    waits := p_job -> 'backoff';
    if waits is null or waits = 'null' then
        waits := usual.backoff;
    elsif jsonb_typeof(waits) <> 'object' then
        faults := faults || queue.field_error(p_prefix || '/backoff', 'invalid', 'must be an object');
        waits := null;
    else
        whole := p_prefix || '/backoff';
        for member in
            select * from jsonb_each(waits) w
            where jsonb_typeof(w.value) <> 'null' or w.key not in ('base', 'factor', 'max', 'jitter')
        loop
            case
            when member.key in ('base', 'max') then
                if jsonb_typeof(member.value) <> 'string' or queue.parse_duration(member.value #>> '{}') is null then
                    faults := faults || queue.field_error(whole || '/' || member.key, 'invalid', 'not a duration');
                    waits := waits - member.key;
                end if;
            when member.key = 'factor' then
                if jsonb_typeof(member.value) <> 'number' then
                    faults := faults || queue.field_error(whole || '/factor', 'invalid', 'invalid type, expected a number');
                    waits := waits - member.key;
                end if;
            when member.key = 'jitter' then
                if member.value not in ('"full"', '"equal"', '"none"') then
                    faults := faults || queue.field_error(whole || '/jitter', 'invalid', 'expected one of `full`, `equal`, `none`');
                    waits := waits - member.key;
                end if;
            else
                faults := faults || queue.field_error(whole || queue.pointer_token(member.key), 'unknown_field',
                    format('unknown field `%s`, expected one of `base`, `factor`, `max`, `jitter`', member.key));
            end case;
        end loop;
        part := coalesce(usual.backoff, '{}');
        base := queue.parse_duration(coalesce(waits ->> 'base', part ->> 'base', '5s'));
        longest := queue.parse_duration(coalesce(waits ->> 'max', part ->> 'max', '1h'));
        factor := coalesce(waits ->> 'factor', part ->> 'factor', '2')::numeric;
        jitter := coalesce(waits ->> 'jitter', part ->> 'jitter', 'equal');
        if base < 1000000 then
            faults := faults || queue.field_error(whole || '/base', 'out_of_range', 'must be at least `1ms`');
        elsif base > longest then
            faults := faults || queue.field_error(whole || '/base', 'out_of_range', 'must not be longer than `max`');
        end if;
        if factor not between 1 and 10 then
            faults := faults || queue.field_error(whole || '/factor', 'out_of_range', 'must be between 1 and 10');
        end if;
        if longest > 604800000000000 then
            faults := faults || queue.field_error(whole || '/max', 'out_of_range', 'must be at most `7d`');
        end if;
        waits := jsonb_build_object('base', base::int8::text || 'ns', 'factor', factor,
            'max', longest || 'ns', 'jitter', jitter);
    end if;

    draft.key := p_job ->> 'unique_key';
    hold := queue.parse_duration(p_job ->> 'unique_for');
    if hold not between 1000000000 and 31622400000000000 then
        faults := faults || queue.field_error(p_prefix || '/unique_for', 'out_of_range', 'must be between `1s` and `366d`');
    end if;
    if draft.key is null and hold is not null then
        faults := faults || queue.field_error(p_prefix || '/unique_for', 'needs_unique_key',
            'requires `unique_key`');
    elsif length(draft.key) not between 1 and 256 then
        faults := faults || queue.field_error(p_prefix || '/unique_key', 'length', 'must have 1 to 256 characters');
    end if;
    draft.hold_ms := trunc(hold / 1000000);

    draft.tags := array(
        select tag from jsonb_array_elements_text(nullif(p_job -> 'tags', 'null')) tag);
    if cardinality(draft.tags) > 20 then
        faults := faults || queue.field_error(p_prefix || '/tags', 'too_many', 'must have at most 20 items');
    else
        for place in 1 .. cardinality(draft.tags) loop
            if length(draft.tags[place]) not between 1 and 64 then
                faults := faults || queue.field_error(p_prefix || '/tags/' || (place - 1), 'length',
                    'must have 1 to 64 characters');
            elsif draft.tags[place] = any (seen) then
                faults := faults || queue.field_error(p_prefix || '/tags/' || (place - 1), 'duplicate',
                    'duplicate value');
            end if;
            seen := seen || draft.tags[place];
        end loop;
    end if;

    draft.expires_at := queue.parse_timestamp(p_job ->> 'expires_at');
    if draft.expires_at <= clock_timestamp() then
        faults := faults || queue.field_error(p_prefix || '/expires_at', 'out_of_range', 'must be in the future');
    elsif draft.expires_at <= coalesce(draft.run_at, clock_timestamp())
        + coalesce(draft.delay_ms, 0) * interval '1 millisecond'
    then
        faults := faults || queue.field_error(p_prefix || '/expires_at', 'out_of_range',
            'must be later than the job''s due time');
    end if;

    draft.faults := faults;
    if faults = '[]' then
        draft.line := jsonb_build_array(draft.queue, draft.ordering_key, draft.limits, draft.costs)::text;
        -- As the queue crate writes it (envelope.rs).
        draft.body := convert_to(
            '{"p":' || payload::text || ',"t":' || coalesce(timeout_ms, usual.timeout_ms)
            || coalesce(',"b":' || waits::text, '')
            || coalesce(',"u":' || to_jsonb(draft.key)::text, '')
            || coalesce(',"o":' || to_jsonb(draft.ordering_key)::text, '')
            || case when draft.tags <> '{}' then ',"g":' || to_jsonb(draft.tags)::text else '' end
            || '}', 'UTF8');
    end if;
    return draft;
end
$$;

revoke execute on function queue.read_job(jsonb, int4, text, boolean) from public;
grant execute on function queue.read_job(jsonb, int4, text, boolean) to harkara_engine;
