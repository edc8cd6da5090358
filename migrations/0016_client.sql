-- Applications enqueue in their own transactions: queue.enqueue and queue.enqueue_many; and how many jobs
-- of a tenant wait, for those that bound it.
-- Locks: new objects only. Previous release: knows nothing of them and is not disturbed.
--
-- The same rules as POST /v1/jobs, said a second time in SQL: a test sends the same jobs to both and
-- compares the answers. What is known of kinds comes from Rust's catalogue: whoever starts with a newer one
-- writes it to queue.catalogue.
--
-- Who calls has no rights here but to call: the functions run with the rights of the login that
-- migrated, which is a member of harkara_engine and is held by the policies of that role.

-- May call, and nothing else. See 0001 for the tries. Nobody needs to be a member who migrates.
do $$
declare
    tries int := 0;
begin
    loop
        begin
            if not exists (select from pg_roles where rolname = 'harkara_client') then
                create role harkara_client nologin nobypassrls;
            end if;
            exit;
        exception when duplicate_object or unique_violation or internal_error then
            tries := tries + 1;
            if tries > 50 then
                raise;
            end if;
            perform pg_sleep(0.02);
        end;
    end loop;
end
$$;

-- What the newest release that has started here says of kinds.
create table queue.catalogue (
    kind text primary key,
    queue text not null,
    max_attempts int2 not null,
    timeout_ms int8 not null,
    -- Null for the usual one.
    backoff jsonb,
    platform_only boolean not null,
    -- JSON Schema of the payload, as far as queue.check_value reads it: its shape, and rules that are
    -- looked at when the shape is right.
    shape jsonb not null,
    rules jsonb not null
);

-- One row: which catalogue stands there, and whether workers are woken by notifications.
create table queue.published (
    one boolean primary key default true check (one),
    version int4 not null default 0,
    digest text not null default '',
    notify boolean not null default true
);
insert into queue.published default values;

-- Which tenants' jobs a login role of this database may enqueue.
create table queue.clients (
    role text not null,
    -- Null for all.
    tenant_id uuid references app.tenants,
    created_at timestamptz not null default now()
);
create unique index clients_tenant on queue.clients (role, tenant_id) where tenant_id is not null;
create unique index clients_all on queue.clients (role) where tenant_id is null;
alter table queue.clients enable row level security;
alter table queue.clients force row level security;
create policy engine_rows on queue.clients to harkara_engine using (true) with check (true);

grant select, insert, update, delete on queue.catalogue, queue.clients to harkara_engine;
grant select, update on queue.published to harkara_engine;

-- Says what kinds there are, unless a newer release has: p_kinds is an array of rows of queue.catalogue.
-- Answers whether anything was written. Names are made along with it, so that no application's
-- transaction has to.
create function queue.publish(p_version int4, p_notify boolean, p_kinds jsonb) returns boolean
language plpgsql volatile as $$
declare
    known queue.published;
    fresh text := md5(p_kinds::text);
begin
    select * into known from queue.published p;
    if p_version < known.version
        or (p_version, fresh, p_notify) = (known.version, known.digest, known.notify) then
        return false;
    end if;
    select * into known from queue.published p for update;
    if p_version < known.version then
        return false;
    end if;
    delete from queue.catalogue c
    where c.kind not in (select k ->> 'kind' from jsonb_array_elements(p_kinds) k);
    insert into queue.catalogue as c
    select k.* from jsonb_populate_recordset(null::queue.catalogue, p_kinds) k order by k.kind
    on conflict (kind) do update set
        queue = excluded.queue, max_attempts = excluded.max_attempts,
        timeout_ms = excluded.timeout_ms, backoff = excluded.backoff,
        platform_only = excluded.platform_only, shape = excluded.shape, rules = excluded.rules;
    insert into queue.kinds (name) select c.kind from queue.catalogue c
    where c.kind not in (select name from queue.kinds) order by 1
    on conflict do nothing;
    insert into queue.queues (name) select distinct c.queue from queue.catalogue c
    where c.queue not in (select name from queue.queues) order by 1
    on conflict do nothing;
    update queue.published set version = p_version, digest = fresh, notify = p_notify;
    return true;
end
$$;

-- A job's id as people write it: job_ and 13 digits of Crockford's base 32.
create function queue.job_text(p_job bigint) returns text
language sql immutable strict as $$
    select 'job_' || string_agg(
        substr('0123456789abcdefghjkmnpqrstvwxyz', ((p_job >> (5 * place)) & 31)::int4 + 1, 1), ''
        order by place desc
    )
    from generate_series(0, 12) place
$$;

-- The UUID of a tenant's id as people write it: ten_ and 26 digits of the same; null for other text.
create function queue.tenant_uuid(p_text text) returns uuid
language sql immutable strict as $$
    select case when p_text ~ '^ten_[0-7][0-9a-hjkmnp-tv-z]{25}$' then (
        select string_agg(to_hex(substr(b.bits, 4 * nibble + 3, 4)::bit(4)::int4), '' order by nibble)
        from (
            select string_agg(
                (strpos('0123456789abcdefghjkmnpqrstvwxyz', substr(p_text, place, 1)) - 1)::bit(5)::text,
                '' order by place
            ) as bits
            from generate_series(5, 30) place
        ) b
        cross join generate_series(0, 31) nibble
    )::uuid
    when p_text ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then p_text::uuid end
$$;

-- Nanoseconds of text such as 90s, 250ms or 1h30m; null for text that is no duration.
create function queue.nanoseconds(p_text text) returns numeric
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

-- An interval as such text, from the transaction's beginning on: a month is as long as that month.
-- 'infinity' and what lies outside of the calendar become text that is no duration.
create function queue.duration(p_interval interval) returns text
language plpgsql stable strict as $$
begin
    return trunc(extract(epoch from (now() + p_interval) - now()) * 1000000)::text || 'us';
exception when data_exception then
    return p_interval::text;
end
$$;

-- The moment of RFC 3339 text; null for other text.
create function queue.moment(p_text text) returns timestamptz
language plpgsql immutable strict set timezone = 'UTC' set datestyle = 'ISO' as $$
begin
    if p_text !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$' then
        return null;
    end if;
    return p_text::timestamptz;
exception when data_exception then
    return null;
end
$$;

create function queue.fault(p_pointer text, p_code text, p_detail text) returns jsonb
language sql immutable as $$
    select jsonb_build_array(
        jsonb_build_object('pointer', p_pointer, 'code', p_code, 'detail', p_detail))
$$;

-- A member's name as a part of a JSON pointer.
create function queue.token(p_name text) returns text
language sql immutable strict as $$
    select '/' || replace(replace(p_name, '~', '~0'), '/', '~1')
$$;

-- Where JSON cannot be kept as it is: a number beyond all floating ones, nesting deeper than 128.
-- Numbers of the text itself are exact in SQL, and a worker could not read them.
create function queue.unstorable(p_value jsonb, p_pointer text, p_depth int4) returns jsonb
language plpgsql immutable as $$
declare
    found jsonb := '[]';
    part record;
begin
    case jsonb_typeof(p_value)
    when 'number' then
        if abs((p_value #>> '{}')::numeric) >= 1.797693134862315809e308 then
            found := queue.fault(p_pointer, 'invalid', 'number out of range');
        end if;
    when 'object' then
        if p_depth >= 128 then
            return queue.fault(p_pointer, 'invalid', 'recursion limit exceeded');
        end if;
        for part in select * from jsonb_each(p_value) loop
            found := found
                || queue.unstorable(part.value, p_pointer || queue.token(part.key), p_depth + 1);
        end loop;
    when 'array' then
        if p_depth >= 128 then
            return queue.fault(p_pointer, 'invalid', 'recursion limit exceeded');
        end if;
        for part in select value, nth - 1 as nth from jsonb_array_elements(p_value) with ordinality e(value, nth)
        loop
            found := found || queue.unstorable(part.value, p_pointer || '/' || part.nth, p_depth + 1);
        end loop;
    else
        null;
    end case;
    return found;
end
$$;

-- What is wrong with a value that stands at p_pointer, by a JSON Schema of which this much is read: type,
-- enum, const, minLength, maxLength, pattern, minimum, maximum, items, minItems, maxItems, uniqueItems,
-- properties, required, additionalProperties, propertyNames, allOf, anyOf, oneOf; and x-code and x-detail,
-- which say how a breach of the rules beside them is told. Patterns are Postgres's.
create function queue.check_value(p_value jsonb, p_schema jsonb, p_pointer text) returns jsonb
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
        return queue.fault(p_pointer, 'invalid', format('invalid type: %s, expected %s', kind,
            case jsonb_typeof(p_schema -> 'type') when 'array' then (
                select string_agg(t, ' or ') from jsonb_array_elements_text(p_schema -> 'type') t
            ) else p_schema ->> 'type' end));
    end if;
    -- Whatever may be null and is, is right.
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
            wrong := format('must hold at least %s', p_schema ->> 'minItems');
        elsif jsonb_array_length(p_value) > (p_schema ->> 'maxItems')::int8 then
            wrong := format('must hold at most %s', p_schema ->> 'maxItems');
        elsif (p_schema -> 'uniqueItems') = 'true' and jsonb_array_length(p_value)
            > (select count(distinct e) from jsonb_array_elements(p_value) e) then
            wrong := 'must hold nothing twice';
        end if;
    end if;
    if wrong is not null then
        found := found || queue.fault(p_pointer, code, coalesce(p_schema ->> 'x-detail', wrong));
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
            words := p_pointer || queue.token(part.key);
            if p_schema ? 'propertyNames' then
                found := found
                    || queue.check_value(to_jsonb(part.key), p_schema -> 'propertyNames', words);
            end if;
            if p_schema -> 'properties' ? part.key then
                found := found
                    || queue.check_value(part.value, p_schema -> 'properties' -> part.key, words);
            elsif p_schema -> 'additionalProperties' = 'false' then
                found := found || queue.fault(words, 'unknown_field', format(
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
            found := found || queue.fault(p_pointer || queue.token(part.key), 'missing',
                format('missing field `%s`', part.key));
        end loop;
    end if;
    for part in select value from jsonb_array_elements(p_schema -> 'allOf') loop
        found := found || queue.check_value(p_value, part.value, p_pointer);
    end loop;
    -- One of several must be right; if none is, what is told is wrong by the one that is least wrong.
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

-- A job on its way into the table, and all that is wrong with it.
create type queue.draft as (
    place int4,
    kind text,
    queue text,
    priority int2,
    max_attempts int2,
    run_at timestamptz,
    delay_ms int8,
    key text,
    hold_ms int8,
    ordering_key text,
    limits text[],
    costs int4[],
    tags text[],
    expires_at timestamptz,
    body bytea,
    -- What tells its lane from others, and what is known of that.
    line text,
    lane int8,
    most int4,
    queue_id int4,
    kind_id int4,
    faults jsonb
);

-- Reads one job, which stands at p_prefix of what was given: as read_job in api/src/routes/jobs/request.rs
-- does, with the same pointers and codes.
create function queue.read_job(p_job jsonb, p_place int4, p_prefix text, p_platform boolean)
returns queue.draft
language plpgsql stable set jit = off as $$
declare
    d queue.draft;
    f jsonb := '[]';
    m record;
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
    key_rule constant text := 'must have 1 to 256 characters, none of them a control character';
begin
    d.place := p_place;
    d.priority := 5;
    d.delay_ms := 0;
    if jsonb_typeof(p_job) is distinct from 'object' then
        d.faults := queue.fault(p_prefix, 'invalid', 'must be an object');
        return d;
    end if;
    whole := p_job::text;
    if octet_length(whole) > 1048576 then
        d.faults := queue.fault(p_prefix, 'too_large', 'a job has at most 1 MiB of JSON');
        return d;
    end if;
    -- Both are rare, and finding out where costs.
    if whole ~ '[0-9]{250}' or p_job @? '$.**{128}' then
        f := queue.unstorable(p_job, p_prefix, 0);
    end if;

    -- Members by themselves; what is no member, or not of its type, is left out.
    for m in select * from jsonb_each(p_job) loop
        text_of := p_job ->> m.key;
        continue when jsonb_typeof(m.value) = 'null' and m.key in (
            'kind', 'payload', 'queue', 'priority', 'run_at', 'delay', 'unique_key', 'unique_for',
            'ordering_key', 'max_attempts', 'timeout', 'backoff', 'tags', 'limits', 'expires_at');
        case
        when m.key in ('kind', 'queue', 'unique_key', 'ordering_key') then
            if jsonb_typeof(m.value) <> 'string' then
                f := f || queue.fault(p_prefix || '/' || m.key, 'invalid',
                    format('invalid type: %s, expected a string', jsonb_typeof(m.value)));
                p_job := p_job - m.key;
            end if;
        when m.key in ('priority', 'max_attempts') then
            if jsonb_typeof(m.value) <> 'number' or text_of !~ '^-?[0-9]{1,18}$' then
                f := f || queue.fault(p_prefix || '/' || m.key, 'invalid',
                    format('invalid type: %s, expected an integer', jsonb_typeof(m.value)));
                p_job := p_job - m.key;
            end if;
        when m.key in ('run_at', 'expires_at') then
            if jsonb_typeof(m.value) <> 'string' or queue.moment(text_of) is null then
                f := f || queue.fault(p_prefix || '/' || m.key, 'invalid',
                    'not a time: expected RFC 3339, as in 2030-01-31T12:00:00Z');
                p_job := p_job - m.key;
            end if;
        when m.key in ('delay', 'unique_for', 'timeout') then
            if jsonb_typeof(m.value) <> 'string' or queue.nanoseconds(text_of) is null then
                f := f || queue.fault(p_prefix || '/' || m.key, 'invalid', 'not a duration: expected '
                    'integers with a unit of d, h, m, s, ms, us or ns, as in "90s" or "1h30m"');
                p_job := p_job - m.key;
            end if;
        when m.key in ('tags', 'limits') then
            if jsonb_typeof(m.value) <> 'array' then
                f := f || queue.fault(p_prefix || '/' || m.key, 'invalid',
                    format('invalid type: %s, expected a sequence', jsonb_typeof(m.value)));
                p_job := p_job - m.key;
            elsif m.key = 'tags' and p_job @? 'strict $.tags[*] ? (@.type() != "string")' then
                f := f || queue.fault(p_prefix || '/tags/' || (
                    select min(nth) - 1 from jsonb_array_elements(m.value) with ordinality e(tag, nth)
                    where jsonb_typeof(tag) <> 'string'
                ), 'invalid', 'invalid type, expected a string');
                p_job := p_job - m.key;
            end if;
        when m.key in ('payload', 'backoff') then
            null;
        else
            f := f || queue.fault(p_prefix || queue.token(m.key), 'unknown_field',
                format('unknown field `%s`', m.key));
        end case;
    end loop;
    -- A member with a fault is told of once: see the end.

    d.kind := p_job ->> 'kind';
    if d.kind is null then
        f := f || queue.fault(p_prefix || '/kind', 'missing', 'must be there');
    else
        select c.* into usual from queue.catalogue c
        where c.kind = d.kind and (p_platform or not c.platform_only);
        if not found then
            f := f || queue.fault(p_prefix || '/kind', 'unknown_kind', 'is not a kind; kinds are ' || (
                select coalesce(string_agg(c.kind, ', ' order by c.kind), 'none: no release has said so')
                from queue.catalogue c where p_platform or not c.platform_only
            ));
        end if;
    end if;
    is_known := usual.kind is not null;

    payload := p_job -> 'payload';
    if payload is null or payload = 'null' then
        f := f || queue.fault(p_prefix || '/payload', 'missing', 'must be there, and be an object');
    elsif jsonb_typeof(payload) <> 'object' then
        f := f || queue.fault(p_prefix || '/payload', 'invalid', 'must be an object');
    elsif octet_length(payload::text) > 262144 then
        f := f || queue.fault(p_prefix || '/payload', 'too_large', format(
            'must be at most 256 KiB of JSON, not %s bytes', octet_length(payload::text)));
    elsif is_known then
        part := queue.check_value(payload, usual.shape, p_prefix || '/payload');
        if part = '[]' then
            part := queue.check_value(payload, usual.rules, p_prefix || '/payload');
        end if;
        f := f || part;
    end if;

    d.ordering_key := p_job ->> 'ordering_key';
    if d.ordering_key !~ is_key or length(d.ordering_key) > 256 then
        f := f || queue.fault(p_prefix || '/ordering_key', 'invalid_key', key_rule);
    end if;

    if jsonb_array_length(nullif(p_job -> 'limits', 'null')) > 3 then
        f := f || queue.fault(p_prefix || '/limits', 'too_many', 'must be at most 3');
    else
        for m in
            select value, p_prefix || '/limits/' || (nth - 1) as at
            from jsonb_array_elements(nullif(p_job -> 'limits', 'null')) with ordinality e(value, nth)
        loop
            if jsonb_typeof(m.value) <> 'object' then
                f := f || queue.fault(m.at, 'invalid', 'must be an object');
                continue;
            end if;
            f := f || coalesce((
                select jsonb_agg(queue.fault(m.at || queue.token(k), 'unknown_field',
                    format('unknown field `%s`, expected `key` or `cost`', k)) -> 0)
                from jsonb_object_keys(m.value) k where k not in ('key', 'cost')
            ), '[]');
            named := m.value ->> 'key';
            if named is null then
                f := f || queue.fault(m.at || '/key', 'missing', 'must be there');
            elsif jsonb_typeof(m.value -> 'key') <> 'string' then
                f := f || queue.fault(m.at || '/key', 'invalid', 'invalid type, expected a string');
            elsif named !~ is_key or length(named) > 256 then
                f := f || queue.fault(m.at || '/key', 'invalid_key', key_rule);
            elsif named = any (d.limits) then
                f := f || queue.fault(m.at || '/key', 'duplicate', 'stands here twice');
            end if;
            cost := 1;
            if coalesce(m.value -> 'cost', 'null') <> 'null' then
                if jsonb_typeof(m.value -> 'cost') <> 'number' or m.value ->> 'cost' !~ '^-?[0-9]{1,18}$' then
                    f := f || queue.fault(m.at || '/cost', 'invalid', 'invalid type, expected an integer');
                else
                    cost := (m.value ->> 'cost')::numeric;
                end if;
            end if;
            if cost not between 1 and 1000 then
                f := f || queue.fault(m.at || '/cost', 'out_of_range',
                    format('must be from 1 to 1000, not %s', cost));
                cost := 1;
            end if;
            d.limits := d.limits || named;
            d.costs := d.costs || cost::int4;
        end loop;
    end if;

    d.run_at := queue.moment(p_job ->> 'run_at');
    delay := queue.nanoseconds(p_job ->> 'delay');
    if d.run_at is not null and delay is not null then
        f := f || queue.fault(p_prefix || '/delay', 'exclusive', 'cannot stand beside run_at');
    end if;
    if d.run_at < now() - interval '24 hours' then
        f := f || queue.fault(p_prefix || '/run_at', 'out_of_range',
            'is in the far past: it may be at most 24 hours ago');
    elsif d.run_at > now() + interval '120 months' then
        f := f || queue.fault(p_prefix || '/run_at', 'out_of_range', 'must be at most ten years ahead');
    end if;
    if delay / 1000000000 > extract(epoch from now() + interval '120 months' - now()) then
        f := f || queue.fault(p_prefix || '/delay', 'out_of_range', 'must be at most ten years');
    else
        d.delay_ms := trunc(coalesce(delay, 0) / 1000000)::int8;
    end if;
    if d.run_at <= now() - interval '1 minute' then
        d.run_at := null;
    end if;

    d.queue := coalesce(p_job ->> 'queue', usual.queue);
    if p_job ->> 'queue' !~ '^[a-z0-9][a-z0-9_.-]{0,63}$' then
        f := f || queue.fault(p_prefix || '/queue', 'invalid', 'is not a queue''s name: expected 1 to 64 '
            'of a-z, 0-9, `_`, `.` and `-`, the first a letter or digit');
    end if;

    number := (p_job ->> 'priority')::numeric;
    if number not between 0 and 9 then
        f := f || queue.fault(p_prefix || '/priority', 'out_of_range',
            format('must be from 0 to 9, not %s', number));
    elsif number is not null then
        d.priority := number;
    end if;
    number := (p_job ->> 'max_attempts')::numeric;
    if number not between 1 and 100 then
        f := f || queue.fault(p_prefix || '/max_attempts', 'out_of_range',
            format('must be from 1 to 100, not %s', number));
    else
        d.max_attempts := coalesce(number::int2, usual.max_attempts);
    end if;

    timeout_ms := trunc(queue.nanoseconds(p_job ->> 'timeout') / 1000000);
    if queue.nanoseconds(p_job ->> 'timeout') not between 100000000 and 86400000000000 then
        f := f || queue.fault(p_prefix || '/timeout', 'out_of_range', 'must be from 100ms to 24h');
    end if;

    waits := p_job -> 'backoff';
    if waits is null or waits = 'null' then
        waits := usual.backoff;
    elsif jsonb_typeof(waits) <> 'object' then
        f := f || queue.fault(p_prefix || '/backoff', 'invalid', 'must be an object');
        waits := null;
    else
        whole := p_prefix || '/backoff';
        for m in
            select * from jsonb_each(waits) w
            where jsonb_typeof(w.value) <> 'null' or w.key not in ('base', 'factor', 'max', 'jitter')
        loop
            case
            when m.key in ('base', 'max') then
                if jsonb_typeof(m.value) <> 'string' or queue.nanoseconds(m.value #>> '{}') is null then
                    f := f || queue.fault(whole || '/' || m.key, 'invalid', 'not a duration');
                    waits := waits - m.key;
                end if;
            when m.key = 'factor' then
                if jsonb_typeof(m.value) <> 'number' then
                    f := f || queue.fault(whole || '/factor', 'invalid', 'invalid type, expected a number');
                    waits := waits - m.key;
                end if;
            when m.key = 'jitter' then
                if m.value not in ('"full"', '"equal"', '"none"') then
                    f := f || queue.fault(whole || '/jitter', 'invalid', 'expected one of `full`, `equal`, `none`');
                    waits := waits - m.key;
                end if;
            else
                f := f || queue.fault(whole || queue.token(m.key), 'unknown_field',
                    format('unknown field `%s`, expected one of `base`, `factor`, `max`, `jitter`', m.key));
            end case;
        end loop;
        part := coalesce(usual.backoff, '{}');
        base := queue.nanoseconds(coalesce(waits ->> 'base', part ->> 'base', '5s'));
        longest := queue.nanoseconds(coalesce(waits ->> 'max', part ->> 'max', '1h'));
        factor := coalesce(waits ->> 'factor', part ->> 'factor', '2')::numeric;
        jitter := coalesce(waits ->> 'jitter', part ->> 'jitter', 'equal');
        if base < 1000000 then
            f := f || queue.fault(whole || '/base', 'out_of_range', 'must be at least 1ms');
        elsif base > longest then
            f := f || queue.fault(whole || '/base', 'out_of_range', 'must not be longer than max');
        end if;
        if factor not between 1 and 10 then
            f := f || queue.fault(whole || '/factor', 'out_of_range', 'must be from 1 to 10');
        end if;
        if longest > 604800000000000 then
            f := f || queue.fault(whole || '/max', 'out_of_range', 'must be at most 7d');
        end if;
        waits := jsonb_build_object('base', base::int8::text || 'ns', 'factor', factor,
            'max', longest || 'ns', 'jitter', jitter);
    end if;

    d.key := p_job ->> 'unique_key';
    hold := queue.nanoseconds(p_job ->> 'unique_for');
    if hold not between 1000000000 and 31622400000000000 then
        f := f || queue.fault(p_prefix || '/unique_for', 'out_of_range', 'must be from 1s to 366d');
    end if;
    if d.key is null and hold is not null then
        f := f || queue.fault(p_prefix || '/unique_for', 'needs_unique_key',
            'makes sense with unique_key only');
    elsif length(d.key) not between 1 and 256 then
        f := f || queue.fault(p_prefix || '/unique_key', 'length', 'must have 1 to 256 characters');
    end if;
    d.hold_ms := trunc(hold / 1000000);

    d.tags := array(
        select tag from jsonb_array_elements_text(nullif(p_job -> 'tags', 'null')) tag);
    if cardinality(d.tags) > 20 then
        f := f || queue.fault(p_prefix || '/tags', 'too_many', 'must be at most 20');
    else
        for place in 1 .. cardinality(d.tags) loop
            if length(d.tags[place]) not between 1 and 64 then
                f := f || queue.fault(p_prefix || '/tags/' || (place - 1), 'length',
                    'must have 1 to 64 characters');
            elsif d.tags[place] = any (seen) then
                f := f || queue.fault(p_prefix || '/tags/' || (place - 1), 'duplicate',
                    'stands here twice');
            end if;
            seen := seen || d.tags[place];
        end loop;
    end if;

    d.expires_at := queue.moment(p_job ->> 'expires_at');
    if d.expires_at <= clock_timestamp() then
        f := f || queue.fault(p_prefix || '/expires_at', 'out_of_range', 'must lie in the future');
    end if;

    d.faults := f;
    if f = '[]' then
        d.line := jsonb_build_array(d.queue, d.ordering_key, d.limits, d.costs)::text;
        -- As queue/src/envelope.rs writes it.
        d.body := convert_to(
            '{"p":' || payload::text || ',"t":' || coalesce(timeout_ms, usual.timeout_ms)
            || coalesce(',"b":' || waits::text, '')
            || coalesce(',"u":' || to_jsonb(d.key)::text, '')
            || coalesce(',"o":' || to_jsonb(d.ordering_key)::text, '')
            || case when d.tags <> '{}' then ',"g":' || to_jsonb(d.tags)::text else '' end
            || '}', 'UTF8');
    end if;
    return d;
end
$$;

-- The lane of a tenant in a queue that jobs with this ordering key and these limits wait in, and how many
-- of them may share a row: as queue/src/sql/intern_lane.sql and intern_gates.sql.
-- Other transactions wait for what is written here until this one has ended: so everything is looked up
-- first, and that a lane or a gate is in use is said after half a day, not after an hour.
create function queue.lane_of(
    p_queue int4, p_tenant int4, p_ordering_key text, p_limits text[], p_costs int4[],
    out lane int8, out most int4
)
language plpgsql volatile set enable_seqscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    word text := coalesce(p_ordering_key, '');
    ordered boolean := p_ordering_key is not null;
    names text[];
    prices int4[];
    identity text := '';
    gates int8[] := '{}';
    own int8;
    stale boolean;
begin
    -- In the order of their keys, as Rust sorts them.
    select coalesce(array_agg(u.key order by u.key collate "C"), '{}'),
        coalesce(array_agg(u.cost order by u.key collate "C"), '{}')
    into names, prices
    from unnest(p_limits, p_costs) as u(key, cost);
    if cardinality(names) > 0 then
        insert into queue.gates (tenant, key)
        select p_tenant, w.key from unnest(names) w(key)
        where not exists (select from queue.gates g where g.tenant = p_tenant and g.key = w.key)
        order by w.key
        on conflict do nothing;
        update queue.gates g set used_at = now()
        from (
            select s.id from queue.gates s
            where s.tenant = p_tenant and s.key = any (names) and s.used_at < now() - interval '12 hours'
            order by s.id
            for update
        ) s
        where g.id = s.id;
        select array_agg(g.id order by w.nth) into gates
        from unnest(names) with ordinality w(key, nth)
        join queue.gates g on g.tenant = p_tenant and g.key = w.key;
        if cardinality(gates) is distinct from cardinality(names) then
            raise exception 'a limit is being removed at this moment: try again' using errcode = '40001';
        end if;
        if not ordered then
            select string_agg(u.key || e'\u001f' || u.cost, e'\n' order by u.nth) into identity
            from unnest(names, prices) with ordinality u(key, cost, nth);
        end if;
    end if;
    for tries in 1 .. 10 loop
        select l.id, l.gate,
            l.used_at < now() - interval '12 hours'
                or cardinality(gates) > 0 and (l.named, l.costs) is distinct from (gates, prices)
        into lane, own, stale
        from queue.lanes l
        where l.queue = p_queue and l.tenant = p_tenant and l.key = word and l.strict = ordered
            and l.limits = identity;
        if lane is null then
            insert into queue.lanes (
                queue, tenant, key, strict, limits, named, costs, weight, paused, paused_at, gate,
                breaker_after, breaker_rest
            )
            select
                p_queue, p_tenant, word, ordered, identity, gates, prices, coalesce(s.weight, 1),
                coalesce(s.paused, false), s.paused_at, s.gate, s.breaker_after, s.breaker_rest
            from (select) one
            left join lateral (
                select * from queue.lanes s
                where s.queue = p_queue and s.tenant = p_tenant and s.key = word and s.strict = ordered
                order by s.id
                limit 1
            ) s on true
            on conflict (queue, tenant, key, strict, limits) do nothing
            returning id, gate into lane, own;
        elsif stale then
            update queue.lanes l
            set used_at = now(),
                named = case when cardinality(gates) > 0 then gates else l.named end,
                costs = case when cardinality(gates) > 0 then prices else l.costs end
            where l.id = lane_of.lane
            returning l.id, l.gate into lane, own;
        end if;
        exit when lane is not null;
    end loop;
    if lane is null then
        raise exception 'a lane is being removed at this moment: try again' using errcode = '40001';
    end if;
    most := 1;
    if not ordered then
        select least(500, min(least(g.max_running, g.rate_burst / greatest(c.cost, 1)))) into most
        from (
            select q.gate, 1 as cost from queue.queues q where q.id = p_queue
            union all
            select t.gate, 1 from queue.tenants t where t.number = p_tenant
            union all
            select own, 1
            union all
            select u.id, u.cost from unnest(gates, prices) as u(id, cost)
        ) c
        join queue.gates g on g.id = c.gate;
        most := greatest(1, coalesce(most, 500));
    end if;
end
$$;

-- How many jobs of a tenant wait: scheduled and ready, as this snapshot sees it. Everybody's rows are
-- read with the rights of the owner, because row-level security would keep the comparison of
-- transactions out of the index. Served by the primary key of tallies, by deltas_new.
create function queue.waiting(p_tenant int4) returns int8
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
begin
    return (
        with fold as materialized (
            select pg_snapshot_xmax(f.upto) as xmax, array(select pg_snapshot_xip(f.upto)) as xip
            from queue.folded f where f.one
        ),
        -- Apart, so that each is asked of the index.
        new as (
            select d.scheduled + d.ready as jobs from queue.deltas d
            where d.xid >= (select xmax from fold) and d.tenant = p_tenant
            union all
            select d.scheduled + d.ready from queue.deltas d
            where d.xid = any (coalesce((select xip from fold), '{}')) and d.tenant = p_tenant
        )
        select coalesce((select sum(t.scheduled + t.ready) from queue.tallies t
                where t.tenant = p_tenant), 0)
            + coalesce((select sum(n.jobs) from new n), 0)
    )::int8;
end
$$;

-- Where jobs of one call go: `head` is the first of those that share a row, `holder` whose the unique key is.
create type queue.placing as (
    place int4, head int4, member int4, parcel int8, first int4, holder int8
);

-- Whose jobs the caller may enqueue: the tenant it names, or the only one there is for it.
create function queue.client_tenant(p_tenant text) returns app.tenants
language plpgsql stable as $$
declare
    own app.tenants;
begin
    if not exists (select from queue.clients c where c.role = session_user) then
        raise exception 'the role % may not enqueue', quote_ident(session_user) using
            errcode = 'HK403',
            detail = queue.fault('', 'forbidden', 'the database role may not enqueue')::text,
            hint = format('harkara client grant %I --tenant …', session_user);
    end if;
    if p_tenant is null then
        select t.* into own from queue.clients c join app.tenants t on t.id = c.tenant_id
        where c.role = session_user
            and not exists (
                select from queue.clients o
                where o.role = session_user and o.tenant_id is distinct from c.tenant_id
            );
        if not found then
            raise exception '/tenant: must be there, because the role may enqueue for more than one' using
                errcode = 'HK422',
                detail = queue.fault('/tenant', 'missing', 'must be there')::text;
        end if;
        return own;
    end if;
    select t.* into own from app.tenants t
    where (t.id = queue.tenant_uuid(p_tenant) or t.slug = p_tenant and queue.tenant_uuid(p_tenant) is null)
        and exists (
            select from queue.clients c
            where c.role = session_user and (c.tenant_id is null or c.tenant_id = t.id)
        );
    if not found then
        raise exception 'there is no such tenant' using
            errcode = 'HK404',
            detail = queue.fault('/tenant', 'not_found', 'there is no such tenant')::text;
    end if;
    return own;
end
$$;

-- Enqueues jobs, which stand at p_prefix of what was given, for a tenant: all or none. Answers a row each,
-- in their order.
create function queue.enter(p_tenant text, p_jobs jsonb, p_prefix text)
returns table (place int4, job int8, existing boolean, state "char", run_at timestamptz)
language plpgsql volatile set enable_seqscan = off set enable_nestloop = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    own app.tenants := queue.client_tenant(p_tenant);
    number int4;
    most_waiting int8;
    waiting int8;
    drafts queue.draft[];
    placings queue.placing[];
    wrong jsonb;
    words text;
    fresh int8;
    says boolean := (select p.notify from queue.published p);
begin
    drafts := array(
        select queue.read_job(
            j.job, (j.nth - 1)::int4,
            case when p_prefix = '' then '' else p_prefix || '/' || (j.nth - 1) end,
            own.slug = 'platform')
        from jsonb_array_elements(p_jobs) with ordinality j(job, nth)
        order by j.nth
    );
    -- A member has one fault, the first that was found; and nobody reads more than a hundred.
    select jsonb_agg(f.fault order by f.job, f.nth) into wrong
    from (
        select o.* from (
            select distinct on (e.fault ->> 'pointer') e.fault, d.place as job, e.nth
            from unnest(drafts) d
            cross join lateral jsonb_array_elements(d.faults) with ordinality e(fault, nth)
            where d.faults <> '[]'
            order by e.fault ->> 'pointer', d.place, e.nth
        ) o
        order by o.job, o.nth
        limit 100
    ) f;
    if wrong is not null then
        words := concat_ws(': ', wrong -> 0 ->> 'pointer', wrong -> 0 ->> 'detail');
        raise exception '%', case jsonb_array_length(wrong)
            when 1 then words
            when 100 then '100 mistakes or more; the first is ' || words
            else jsonb_array_length(wrong) || ' mistakes; the first is ' || words end
        using errcode = 'HK422', detail = wrong::text;
    end if;

    -- Names. Most calls find them all and write nothing.
    select t.number, t.max_waiting into number, most_waiting from queue.tenants t where t.id = own.id;
    if number is null then
        insert into queue.tenants (id) values (own.id) on conflict do nothing;
        select t.number, t.max_waiting into number, most_waiting from queue.tenants t where t.id = own.id;
    end if;
    insert into queue.queues (name)
    select distinct d.queue from unnest(drafts) d
    where not exists (select from queue.queues q where q.name = d.queue)
    order by 1
    on conflict do nothing;
    insert into queue.kinds (name)
    select distinct d.kind from unnest(drafts) d
    where not exists (select from queue.kinds k where k.name = d.kind)
    order by 1
    on conflict do nothing;
    drafts := array(
        with lines as materialized (
            select l.line, l.queue_id, n.lane, n.most
            from (
                select distinct on (d.line)
                    d.line, q.id as queue_id, d.ordering_key, d.limits, d.costs
                from unnest(drafts) d join queue.queues q on q.name = d.queue
                order by d.line
            ) l
            cross join lateral queue.lane_of(l.queue_id, number, l.ordering_key, l.limits, l.costs) n
        )
        select (
            d.place, d.kind, d.queue, d.priority, d.max_attempts, d.run_at, d.delay_ms, d.key, d.hold_ms,
            d.ordering_key, d.limits, d.costs, d.tags, d.expires_at, d.body, d.line, l.lane, l.most,
            l.queue_id, k.id, null
        )::queue.draft
        from unnest(drafts) d
        join lines l on l.line = d.line
        join queue.kinds k on k.name = d.kind
        order by d.place
    );

    -- Rows: a job with a unique key, in an ordered lane or that expires has one to itself, and so has one
    -- that is large.
    placings := array(
        with d as materialized (
            select u.*, u.key is null and u.ordering_key is null and u.expires_at is null
                and octet_length(u.body) <= 16384 as shares
            from unnest(drafts) u
        ),
        packed as (
            select p.place, min(p.place) over (
                partition by p.line, p.kind, p.priority, p.max_attempts, p.run_at, p.delay_ms,
                    p.nth / p.most, p.upto / 65536
            ) as head
            from (
                select d.*, row_number() over w - 1 as nth,
                    sum(octet_length(d.body)) over w as upto
                from d where d.shares
                window w as (
                    partition by d.line, d.kind, d.priority, d.max_attempts, d.run_at, d.delay_ms
                    order by d.place
                )
            ) p
        ),
        headed as materialized (
            select place, head, null::int4 as first from packed
            union all
            select d.place, d.place, case when d.key is not null then
                min(d.place) over (partition by d.kind, d.key) end
            from d where not d.shares
        ),
        parcels as materialized (
            select s.head, nextval('queue.parcel_id') as parcel
            from (select distinct head from headed order by head) s
        )
        select (
            h.place, h.head, row_number() over (partition by h.head order by h.place) - 1, p.parcel,
            h.first, null
        )::queue.placing
        from headed h join parcels p using (head)
        order by h.place
    );

    -- Unique keys: as queue/src/sql/take_unique_keys.sql, which says why.
    if exists (select from unnest(drafts) d where d.key is not null) then
        with wanted as materialized (
            select p.place, d.kind_id as kind, d.key, p.parcel * 1024 as job, d.hold_ms
            from unnest(placings) p join unnest(drafts) d using (place)
            where p.first = p.place
        ),
        known as materialized (
            select w.kind, w.key, h.job_id
            from wanted w
            cross join lateral (
                select u.job_id from queue.unique_keys u
                where u.tenant = number and u.kind = w.kind and u.key = w.key
                    and u.expires_at > now()
                limit 1
            ) h
        ),
        taken as (
            insert into queue.unique_keys as held (tenant, kind, key, job_id, expires_at)
            select number, w.kind, w.key, w.job,
                coalesce(now() + w.hold_ms * interval '1 millisecond', 'infinity')
            from wanted w
            where (w.kind, w.key) not in (select kind, key from known)
            order by w.kind, w.key
            on conflict (tenant, kind, key) do update
            set job_id = excluded.job_id, expires_at = excluded.expires_at
            where held.expires_at <= now()
            returning kind, key, job_id
        )
        select array_agg((p.place, p.head, p.member, p.parcel, p.first, o.job_id)::queue.placing order by p.place)
        into placings
        from unnest(placings) p
        join unnest(drafts) d using (place)
        left join (
            select * from known union all select * from taken
        ) o on o.kind = d.kind_id and o.key = d.key;
        -- What a neighbour took between the first look and our turn.
        placings := array(
            select (p.place, p.head, p.member, p.parcel, p.first, coalesce(p.holder, h.job_id))::queue.placing
            from unnest(placings) p
            join unnest(drafts) d using (place)
            left join lateral (
                select u.job_id from queue.unique_keys u
                where p.first is not null and p.holder is null
                    and u.tenant = number and u.kind = d.kind_id and u.key = d.key
                    and u.expires_at > now()
                limit 1
            ) h on true
            order by p.place
        );
        if exists (select from unnest(placings) p where p.first is not null and p.holder is null) then
            raise exception 'a unique key is contended: try again' using errcode = '40001';
        end if;
    end if;

    -- The quota of jobs that wait.
    if most_waiting is not null then
        select count(*) into fresh from unnest(placings) p
        where p.first is null or p.first = p.place and p.holder = p.parcel * 1024;
        if fresh > 0 then
            waiting := queue.waiting(number);
            if waiting + fresh > most_waiting then
                words := format('%s of at most %s jobs wait already (max_waiting): try again when some '
                    'have run', waiting, most_waiting);
                raise exception '%', words using
                    errcode = 'HK429',
                    detail = queue.fault('', 'depth_quota', words)::text,
                    hint = jsonb_build_object('limit', jsonb_build_object(
                        'name', 'max_waiting', 'max', most_waiting, 'waiting', waiting))::text;
            end if;
        end if;
    end if;

    return query
    with p as materialized (
        select u.*, u.first is null or u.first = u.place and u.holder = u.parcel * 1024 as is_new
        from unnest(placings) u
    ),
    d as materialized (
        select * from unnest(drafts)
    ),
    rows as materialized (
        select p.head, p.parcel, count(*)::int2 as n, array_agg(d.body order by p.place) as body,
            sum(octet_length(d.body)) as bytes
        from p join d using (place)
        where p.is_new
        group by p.head, p.parcel
    ),
    inserted as (
        insert into queue.parcels (
            id, tenant, lane, run_at, queue, kind, priority, max_attempts, n, state, keyed, strict,
            expires_at, bytes, body
        )
        select
            r.parcel, number, d.lane, due.at, d.queue_id, d.kind_id, d.priority, d.max_attempts, r.n,
            case when due.at > now() then 's' else 'a' end::"char", d.key is not null,
            d.ordering_key is not null, d.expires_at, case when r.bytes > 1024 then r.bytes end, r.body
        from rows r
        join d on d.place = r.head
        cross join lateral (
            select greatest(d.run_at, case when d.delay_ms > 0 or d.run_at is null
                then now() + d.delay_ms * interval '1 millisecond' end) as at
        ) due
        order by r.parcel
        returning id, queue, kind, state, run_at, n
    ),
    counted as (
        insert into queue.deltas (tenant, queue, kind, scheduled, ready, enqueued)
        select
            number, i.queue, i.kind, coalesce(sum(i.n) filter (where i.state = 's'), 0),
            coalesce(sum(i.n) filter (where i.state = 'a'), 0), sum(i.n)
        from inserted i
        group by i.queue, i.kind
    ),
    -- What the new jobs may be searched by.
    labelled as (
        insert into queue.labels (tenant, name, value, job_id)
        select number, w.name, w.value, p.parcel * 1024 + p.member
        from p
        join d using (place)
        cross join lateral (
            select 'tag' as name, t.tag as value from unnest(d.tags) t(tag)
            union all
            select 'unique_key', d.key where d.key is not null
            union all
            select 'ordering_key', d.ordering_key where d.ordering_key is not null
        ) w
        where p.is_new
        on conflict do nothing
    ),
    -- As queue/src/sql/insert_parcels.sql.
    woken as (
        select case when i.state = 's' then 's:' else 'q:' end
            || left(string_agg(distinct i.queue::text, ','), 4000) as said
        from inserted i
        where says and i.run_at < now() + interval '2 seconds'
        group by i.state
    ),
    told as materialized (
        select count(pg_notify('harkara', said)::text) from woken
    ),
    -- Where the jobs of keys that were taken stand.
    asked as materialized (
        select f.job, f.tenant, f.id, f.part, f.member
        from queue.find(array(
            select distinct p.holder from p where p.first is not null and not p.is_new
        )) f
    ),
    holders as materialized (
        select a.job, s.*
        from asked a
        cross join lateral (
            select
                case when a.member = any (coalesce(r.acked, '{}')) then 'd' else r.state end::"char" as state,
                case when r.ids is null then r.run_at
                    else coalesce(r.due[a.member], r.created[a.member], r.created_at) end as run_at
            from queue.parcels r
            where r.tenant = a.tenant and r.id = a.id and r.part = a.part
            limit 1
        ) s
    )
    select
        p.place, case when p.is_new then p.parcel * 1024 + p.member else p.holder end, not p.is_new,
        coalesce(i.state, h.state, j.state), coalesce(i.run_at, h.run_at, j.run_at)
    from p
    cross join told
    left join inserted i on p.is_new and i.id = p.parcel
    -- A key of an earlier job of this call, which no snapshot sees yet.
    left join inserted j on not p.is_new and j.id * 1024 = p.holder
    left join holders h on not p.is_new and h.job = p.holder
    order by p.place;
end
$$;

create type queue.enqueued as (id text, existing boolean, state text, run_at timestamptz);

create function queue.state_word(p_state "char") returns text
language sql immutable strict as $$
    select case p_state
        when 's' then 'scheduled' when 'a' then 'ready' when 'r' then 'running'
        when 'd' then 'succeeded' when 'x' then 'dead' when 'c' then 'cancelled' end
$$;

-- Enqueues one job in the caller's transaction: POST /v1/jobs in SQL. See docs/TRANSACTIONS.md.
-- app.tenant_id is what queue.find goes by; it is put back at the end, or by the rollback. A login that is
-- no superuser cannot have the function do that by itself.
create function queue.enqueue(
    kind text,
    payload jsonb,
    tenant text default null,
    queue text default null,
    priority int4 default null,
    run_at timestamptz default null,
    delay interval default null,
    unique_key text default null,
    unique_for interval default null,
    ordering_key text default null,
    max_attempts int4 default null,
    timeout interval default null,
    backoff jsonb default null,
    tags text[] default null,
    limits jsonb default null,
    expires_at timestamptz default null
) returns queue.enqueued
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    before text := coalesce(current_setting('app.tenant_id', true), '');
    answer queue.enqueued;
    wanted jsonb;
    made record;
begin
    perform set_config('app.tenant_id', (queue.client_tenant(tenant)).id::text, true);
    select jsonb_object_agg(m.name, m.value) into wanted
    from (values
        ('kind', to_jsonb(kind)), ('payload', payload), ('queue', to_jsonb(queue)),
        ('priority', to_jsonb(priority)), ('run_at', to_jsonb(run_at)),
        ('delay', to_jsonb(queue.duration(delay))), ('unique_key', to_jsonb(unique_key)),
        ('unique_for', to_jsonb(queue.duration(unique_for))), ('ordering_key', to_jsonb(ordering_key)),
        ('max_attempts', to_jsonb(max_attempts)), ('timeout', to_jsonb(queue.duration(timeout))),
        ('backoff', backoff), ('tags', to_jsonb(tags)), ('limits', limits),
        ('expires_at', to_jsonb(expires_at))
    ) as m(name, value)
    where m.value is not null;
    select e.* into strict made
    from queue.enter(tenant, jsonb_build_array(coalesce(wanted, '{}')), '') e;
    if made.state is null then
        -- A key may be held for longer than its job is kept.
        raise exception 'the unique key is held by %, which is no longer kept', queue.job_text(made.job)
        using errcode = 'HK409',
            detail = queue.fault('/unique_key', 'conflict', 'is held by a job that is no longer kept')::text;
    end if;
    answer.id := queue.job_text(made.job);
    answer.existing := made.existing;
    answer.state := queue.state_word(made.state);
    answer.run_at := made.run_at;
    perform set_config('app.tenant_id', before, true);
    return answer;
end
$$;

-- Enqueues many: an array of what POST /v1/jobs takes, up to 10 000. All or none; mistakes are pointed at
-- as in /jobs/17/priority. Answers a row each, in their order; state and run_at are null for a job that is
-- no longer kept.
create function queue.enqueue_many(jobs jsonb, tenant text default null)
returns setof queue.enqueued
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    before text := coalesce(current_setting('app.tenant_id', true), '');
    wrong text[];
begin
    perform set_config('app.tenant_id', (queue.client_tenant(tenant)).id::text, true);
    wrong := case
        when jobs is null or jobs = 'null' then '{missing,must be there}'
        when jsonb_typeof(jobs) <> 'array' then '{invalid,must be an array of jobs}'
        when jsonb_array_length(jobs) = 0 then '{empty,must hold 1 to 10000 jobs}'
        when jsonb_array_length(jobs) > 10000 then '{too_many,must be at most 10000 jobs}'
    end;
    if wrong is not null then
        raise exception '/jobs: %', wrong[2] using
            errcode = 'HK422', detail = queue.fault('/jobs', wrong[1], wrong[2])::text;
    end if;
    return query
    select queue.job_text(e.job), e.existing, queue.state_word(e.state), e.run_at
    from queue.enter(tenant, jobs, '/jobs') e
    order by e.place;
    perform set_config('app.tenant_id', before, true);
end
$$;

-- Makes what a tenant's usual jobs need, so that no application's transaction has to: a lane for each kind.
create function queue.prepare_lanes(p_tenant uuid) returns void
language plpgsql volatile as $$
declare
    number int4;
begin
    insert into queue.tenants (id)
    select p_tenant where not exists (select from queue.tenants t where t.id = p_tenant)
    on conflict do nothing;
    select t.number into strict number from queue.tenants t where t.id = p_tenant;
    perform queue.lane_of(q.id, number, null, null, null)
    from queue.queues q
    where q.name in (select c.queue from queue.catalogue c where not c.platform_only)
    order by q.id;
end
$$;

-- Lets a login role enqueue for a tenant, or for all if it is null. Answers whether it could not before.
-- Not for tenants' transactions: whoever calls must be allowed to hand harkara_client on.
create function queue.grant_client(p_role text, p_tenant uuid) returns boolean
language plpgsql volatile as $$
declare
    fresh int8;
begin
    if not exists (select from pg_roles r where r.rolname = p_role) then
        raise exception 'there is no database role %', quote_ident(p_role) using errcode = 'HK404';
    end if;
    if not pg_has_role(p_role, 'harkara_client', 'member') then
        execute format('grant harkara_client to %I', p_role);
    end if;
    insert into queue.clients (role, tenant_id) values (p_role, p_tenant) on conflict do nothing;
    get diagnostics fresh = row_count;
    perform queue.prepare_lanes(t.id) from app.tenants t where t.id = p_tenant;
    return fresh > 0;
end
$$;

-- Lets it no more: for one tenant, or, if it is null, for none at all. It stays a member of
-- harkara_client, which allows nothing by itself and may be needed in another database of the cluster.
create function queue.revoke_client(p_role text, p_tenant uuid) returns int8
language sql volatile as $$
    with gone as (
        delete from queue.clients c
        where c.role = p_role and (p_tenant is null or c.tenant_id = p_tenant)
        returning 1
    )
    select count(*) from gone
$$;

do $$
declare
    f record;
begin
    for f in
        select p.oid::regprocedure as name, p.proname
        from pg_proc p
        where p.pronamespace = 'queue'::regnamespace and p.proname in (
            'publish', 'job_text', 'tenant_uuid', 'nanoseconds', 'duration', 'moment', 'fault', 'token',
            'unstorable', 'check_value', 'read_job', 'lane_of', 'waiting', 'client_tenant', 'enter',
            'state_word', 'enqueue', 'enqueue_many', 'prepare_lanes', 'grant_client', 'revoke_client'
        )
    loop
        execute format('revoke execute on function %s from public', f.name);
        if f.proname in ('enqueue', 'enqueue_many') then
            execute format('grant execute on function %s to harkara_client', f.name);
        elsif f.proname = 'waiting' then
            execute format('grant execute on function %s to harkara_app, harkara_engine', f.name);
        else
            execute format('grant execute on function %s to harkara_engine', f.name);
        end if;
    end loop;
end
$$;
grant usage on schema queue to harkara_client;
