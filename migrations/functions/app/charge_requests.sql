-- Charges requests of one subject under all of its policies, or none.
--
-- `p_need` requests wait now; the caller expects to spend `p_prefetch` more by itself within the next `p_hold`
-- microseconds. Granted are as many as every policy permits. Prefetched ones are granted only while plenty is left:
-- at most an eighth of the remainder, and none where a request that is spent later would fall into another window
-- than the one it is charged to (`hold` returns how long they can be kept).
-- `p_returned` requests that were granted at `p_returned_at` and never made are returned first, to the window they
-- were taken from.
--
-- Returns one row a policy, in the given order: how many were granted (the same in all rows), how many remain, when
-- the policy is back at its full quota, and when the next request can pass (0: now).
--
--   fixed_window    quota + burst in each window, counted from 1970
--   sliding_window  quota + burst in any window: the window is counted in 60 slices, and a request counts
--                   until the slice it was made in has left the window altogether
--   calendar_month  quota + burst in each month of UTC, starting from the count in app.usage; of a key, the
--                   requests of all keys of its tenant are counted in one row
--   token_bucket    a bucket of `burst` tokens, at least one, that fills by quota a window
--   leaky_bucket    the same as a theoretical arrival time: one every width / quota, `burst` at once
--
-- The subject's rows are locked in the order of their policies, then the clock is read. `p_at` is for tests.
create or replace function app.charge_requests(
    p_subject text,
    p_policies text[],
    p_strategies text[],
    p_quotas int8[],
    p_bursts int8[],
    p_widths int8[],
    p_need int4,
    p_prefetch int4,
    p_hold int8,
    p_returned int4,
    p_returned_at int8,
    p_at timestamptz default null
) returns table (granted int4, remaining int8, reset int8, retry int8, hold int8, moment int8)
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    slice_count constant int4 := 61;
    subjects text[];
    counters app.request_counters[];
    available_by_policy int8[];
    counter app.request_counters;
    nth int4;
    slice int4;
    charged_at int8;
    strategy text;
    width int8;
    quota int8;
    window_quota int8;
    capacity int8;  -- of a bucket
    step int8;      -- length of a slice; time between two requests of a leaky bucket
    current_place int8;
    elapsed int8;
    available int8;
    stays_charged int8;    -- how long requests charged now belong to the window they were made in
    month_start timestamp;
    least_available int8 := 9223372036854775807;
    excess int8;
begin
    hold := p_hold;
    for nth in 1..cardinality(p_policies) loop
        subjects[nth] := p_subject;
        if p_strategies[nth] = 'calendar_month' and p_subject ~ '^key:[0-9a-f-]{36}$' then
            subjects[nth] := coalesce(
                (
                    select 'tenant:' || k.tenant_id from app.api_keys k
                    where k.id = substr(p_subject, 5)::uuid
                ),
                p_subject
            );
        end if;
    end loop;
    for nth in
        select n from generate_subscripts(p_policies, 1) n
        order by subjects[n] collate "C", p_policies[n] collate "C"
    loop
        loop
            select * into counter from app.request_counters c
            where c.subject = subjects[nth] and c.policy = p_policies[nth]
            order by c.version desc limit 1 for update;
            exit when found;
            insert into app.request_counters
                (subject, policy, version, strategy, width, begun, touched, whole_at, place, used)
            values (subjects[nth], p_policies[nth], 0, '', 0, 0, 0, 0, -1, 0)
            on conflict do nothing;
        end loop;
        counters[nth] := counter;
    end loop;
    moment := extract(epoch from coalesce(p_at, clock_timestamp())) * 1000000;

    for nth in 1..cardinality(p_policies) loop
        counter := counters[nth];
        strategy := p_strategies[nth];
        width := p_widths[nth];
        quota := p_quotas[nth];
        window_quota := quota + p_bursts[nth];
        capacity := greatest(p_bursts[nth], 1);
        -- Another policy with the same name, or a clock that was ahead.
        if counter.strategy <> strategy or counter.width <> width or counter.touched > moment + 60000000 then
            counter.strategy := strategy;
            counter.width := width;
            counter.begun := moment;
            counter.touched := moment;
            counter.place := -1;
            counter.used := case strategy when 'token_bucket' then capacity * width else 0 end;
            counter.slices := null;
        end if;
        -- A counter's clock never goes back.
        charged_at := greatest(moment, counter.touched);
        case strategy
        when 'fixed_window' then
            current_place := charged_at / width;
            if counter.place <> current_place then
                counter.place := current_place;
                counter.used := 0;
            elsif p_returned > 0 and p_returned_at >= counter.begun and p_returned_at / width = current_place then
                counter.used := greatest(0, counter.used - p_returned);
            end if;
            available := window_quota - counter.used;
            stays_charged := (current_place + 1) * width - charged_at;
        when 'calendar_month' then
            month_start := date_trunc('month', timestamp '1970-01-01' + make_interval(secs => charged_at / 1000000));
            current_place := extract(epoch from month_start) * 1000000;
            if counter.place <> current_place then
                counter.place := current_place;
                counter.used := 0;
                if subjects[nth] ~ '^tenant:[0-9a-f-]{36}$' then
                    select coalesce(sum(u.requests), 0) into counter.used from app.usage u
                    where u.tenant_id = substr(subjects[nth], 8)::uuid and u.month = month_start::date;
                end if;
            elsif p_returned > 0 and p_returned_at >= greatest(counter.begun, current_place) then
                counter.used := greatest(0, counter.used - p_returned);
            end if;
            available := window_quota - counter.used;
            stays_charged := extract(epoch from month_start + interval '1 month') * 1000000 - charged_at;
        when 'sliding_window' then
            step := (width + slice_count - 2) / (slice_count - 1);
            current_place := charged_at / step;
            elapsed := current_place - counter.place;
            if counter.slices is null or elapsed >= slice_count then
                counter.slices := array_fill(0, array[slice_count]);
            elsif elapsed > 0 then
                counter.slices := array_fill(0, array[elapsed::int4]) || counter.slices[1:slice_count - elapsed];
            end if;
            counter.place := current_place;
            elapsed := current_place - p_returned_at / step;
            if p_returned > 0 and p_returned_at >= counter.begun and elapsed between 0 and slice_count - 1 then
                slice := elapsed + 1;
                counter.slices[slice] := greatest(0, counter.slices[slice] - p_returned);
            end if;
            select sum(n) into counter.used from unnest(counter.slices) n;
            available := window_quota - counter.used;
            stays_charged := (current_place + 1) * step - charged_at;
        when 'token_bucket' then
            counter.used := least(counter.used, capacity * width);
            elapsed := charged_at - counter.touched;
            if elapsed > (capacity * width - counter.used) / quota then
                counter.used := capacity * width;
            else
                counter.used := counter.used + elapsed * quota;
            end if;
            if p_returned > 0 and p_returned_at >= counter.begun then
                counter.used := least(capacity * width, counter.used + p_returned * width);
            end if;
            available := counter.used / width;
            stays_charged := 0;
        when 'leaky_bucket' then
            step := (width + quota - 1) / quota;
            if p_returned > 0 and p_returned_at >= counter.begun then
                counter.used := counter.used - p_returned * step;
            end if;
            counter.used := greatest(charged_at, counter.used);
            available := (charged_at + capacity * step - counter.used) / step;
            stays_charged := 0;
        else
            raise exception 'unknown strategy `%`', strategy;
        end case;
        counter.touched := charged_at;
        counters[nth] := counter;
        available_by_policy[nth] := greatest(0, available);
        least_available := least(least_available, available_by_policy[nth]);
        hold := least(hold, stays_charged);
    end loop;

    granted := least(p_need, least_available);
    if hold > 0 and least_available > p_need then
        granted := granted + least(p_prefetch, (least_available - p_need) / 8);
    end if;

    for nth in 1..cardinality(p_policies) loop
        counter := counters[nth];
        width := counter.width;
        quota := p_quotas[nth];
        window_quota := quota + p_bursts[nth];
        capacity := greatest(p_bursts[nth], 1);
        charged_at := counter.touched;
        remaining := available_by_policy[nth] - granted;
        case counter.strategy
        when 'fixed_window' then
            counter.used := counter.used + granted;
            reset := (counter.place + 1) * width - charged_at;
            retry := reset;
        when 'calendar_month' then
            counter.used := counter.used + granted;
            month_start := timestamp '1970-01-01' + make_interval(secs => counter.place / 1000000);
            reset := extract(epoch from month_start + interval '1 month') * 1000000 - charged_at;
            retry := reset;
        when 'sliding_window' then
            counter.used := counter.used + granted;
            counter.slices[1] := counter.slices[1] + granted;
            step := (width + slice_count - 2) / (slice_count - 1);
            slice := 1;
            while slice <= slice_count and counter.slices[slice] = 0 loop
                slice := slice + 1;
            end loop;
            reset := greatest(0, (counter.place - slice + slice_count + 1) * step - charged_at);
            retry := 0;
            if remaining = 0 then
                excess := counter.used - window_quota + 1;
                slice := slice_count + 1;
                while excess > 0 and slice > 1 loop
                    slice := slice - 1;
                    excess := excess - counter.slices[slice];
                end loop;
                retry := (counter.place - slice + slice_count + 1) * step - charged_at;
            end if;
        when 'token_bucket' then
            counter.used := counter.used - granted * width;
            reset := (capacity * width - counter.used + quota - 1) / quota;
            retry := (width - counter.used + quota - 1) / quota;
        else
            step := (width + quota - 1) / quota;
            counter.used := counter.used + granted * step;
            reset := counter.used - charged_at;
            retry := counter.used + step - capacity * step - charged_at;
        end case;
        if remaining > 0 then
            retry := 0;
        end if;
        if granted > 0 or p_returned > 0 then
            update app.request_counters c
            set version = c.version + 1, strategy = counter.strategy, width = counter.width, begun = counter.begun, touched = charged_at,
                whole_at = charged_at + reset, place = counter.place, used = counter.used, slices = counter.slices
            where c.subject = subjects[nth] and c.policy = p_policies[nth] and c.version = counter.version;
        end if;
        return next;
    end loop;
end
$$;

revoke execute on function app.charge_requests(
    text, text[], text[], bigint[], bigint[], bigint[], int4, int4, bigint, int4, bigint,
    timestamptz
) from public;
grant execute on function app.charge_requests(
    text, text[], text[], bigint[], bigint[], bigint[], int4, int4, bigint, int4, bigint,
    timestamptz
) to harkara_engine;
