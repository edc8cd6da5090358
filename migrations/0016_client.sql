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
    -- What is finer than a microsecond is left out, not rounded: as over HTTP.
    return regexp_replace(p_text, '(\.[0-9]{6})[0-9]+', '\1')::timestamptz;
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
