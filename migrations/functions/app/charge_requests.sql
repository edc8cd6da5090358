-- Charges requests of one subject under all of its policies, or none.
--
-- Asked for are `p_need` requests that wait now, and `p_ahead` more that the caller would spend by itself
-- within the next `p_hold` microseconds. Granted are as many as every policy lets through, the further ones
-- only while plenty is left: at most an eighth of what remains, and none where a request that is spent later
-- would fall into another window than the one it is charged to (`hold` answers how long they may be kept).
-- `p_back` requests that were granted at `p_back_moment` and never made are given back first, to the window
-- they were taken from.
--
-- Answers a row a policy, in the order they are given: how many were granted (the same in all rows), how
-- many remain, when the policy is back at its full quota, and when the next request may pass (0: now).
--
--   fixed_window    quota + burst in each window, counted from 1970
--   sliding_window  quota + burst in any window: the window is counted in 60 slices, and a request counts
--                   until the slice it was made in has left the window altogether
--   calendar_month  quota + burst in each month of UTC, begun from what app.usage has counted; of a key, all
--                   that its tenant's keys ask is counted in one row
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
    p_ahead int4,
    p_hold int8,
    p_back int4,
    p_back_moment int8,
    p_at timestamptz default null
) returns table (granted int4, remaining int8, reset int8, retry int8, hold int8, moment int8)
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    slices constant int4 := 61;
    subjects text[];
    counters app.request_counters[];
    rooms int8[];
    one app.request_counters;
    i int4;
    j int4;
    at int8;
    strategy text;
    width int8;
    quota int8;
    most int8;      -- in a window
    capacity int8;  -- of a bucket
    step int8;      -- a slice; the time between two requests of a leaky bucket
    here int8;
    gap int8;
    room int8;
    leaves int8;    -- how long what is charged now stays charged to the window of its making
    first timestamp;  -- moment of a month
    least_room int8 := 9223372036854775807;
    excess int8;
begin
    hold := p_hold;
    for i in 1..cardinality(p_policies) loop
        subjects[i] := p_subject;
        if p_strategies[i] = 'calendar_month' and p_subject ~ '^key:[0-9a-f-]{36}$' then
            subjects[i] := coalesce(
                (
                    select 'tenant:' || k.tenant_id from app.api_keys k
                    where k.id = substr(p_subject, 5)::uuid
                ),
                p_subject
            );
        end if;
    end loop;
    for i in
        select n from generate_subscripts(p_policies, 1) n
        order by subjects[n] collate "C", p_policies[n] collate "C"
    loop
        loop
            select * into one from app.request_counters c
            where c.subject = subjects[i] and c.policy = p_policies[i]
            order by c.version desc limit 1 for update;
            exit when found;
            insert into app.request_counters
                (subject, policy, version, strategy, width, begun, touched, whole_at, place, used)
            values (subjects[i], p_policies[i], 0, '', 0, 0, 0, 0, -1, 0)
            on conflict do nothing;
        end loop;
        counters[i] := one;
    end loop;
    moment := extract(epoch from coalesce(p_at, clock_timestamp())) * 1000000;

    for i in 1..cardinality(p_policies) loop
        one := counters[i];
        strategy := p_strategies[i];
        width := p_widths[i];
        quota := p_quotas[i];
        most := quota + p_bursts[i];
        capacity := greatest(p_bursts[i], 1);
        -- Another policy by the same name, or a clock that was ahead.
        if one.strategy <> strategy or one.width <> width or one.touched > moment + 60000000 then
            one.strategy := strategy;
            one.width := width;
            one.begun := moment;
            one.touched := moment;
            one.place := -1;
            one.used := case strategy when 'token_bucket' then capacity * width else 0 end;
            one.slices := null;
        end if;
        -- The clock does not go back for a counter.
        at := greatest(moment, one.touched);
        case strategy
        when 'fixed_window' then
            here := at / width;
            if one.place <> here then
                one.place := here;
                one.used := 0;
            elsif p_back > 0 and p_back_moment >= one.begun and p_back_moment / width = here then
                one.used := greatest(0, one.used - p_back);
            end if;
            room := most - one.used;
            leaves := (here + 1) * width - at;
        when 'calendar_month' then
            first := date_trunc('month', timestamp '1970-01-01' + make_interval(secs => at / 1000000));
            here := extract(epoch from first) * 1000000;
            if one.place <> here then
                one.place := here;
                one.used := 0;
                if subjects[i] ~ '^tenant:[0-9a-f-]{36}$' then
                    select coalesce(sum(u.requests), 0) into one.used from app.usage u
                    where u.tenant_id = substr(subjects[i], 8)::uuid and u.month = first::date;
                end if;
            elsif p_back > 0 and p_back_moment >= greatest(one.begun, here) then
                one.used := greatest(0, one.used - p_back);
            end if;
            room := most - one.used;
            leaves := extract(epoch from first + interval '1 month') * 1000000 - at;
        when 'sliding_window' then
            step := (width + slices - 2) / (slices - 1);
            here := at / step;
            gap := here - one.place;
            if one.slices is null or gap >= slices then
                one.slices := array_fill(0, array[slices]);
            elsif gap > 0 then
                one.slices := array_fill(0, array[gap::int4]) || one.slices[1:slices - gap];
            end if;
            one.place := here;
            gap := here - p_back_moment / step;
            if p_back > 0 and p_back_moment >= one.begun and gap between 0 and slices - 1 then
                j := gap + 1;
                one.slices[j] := greatest(0, one.slices[j] - p_back);
            end if;
            select sum(n) into one.used from unnest(one.slices) n;
            room := most - one.used;
            leaves := (here + 1) * step - at;
        when 'token_bucket' then
            one.used := least(one.used, capacity * width);
            gap := at - one.touched;
            if gap > (capacity * width - one.used) / quota then
                one.used := capacity * width;
            else
                one.used := one.used + gap * quota;
            end if;
            if p_back > 0 and p_back_moment >= one.begun then
                one.used := least(capacity * width, one.used + p_back * width);
            end if;
            room := one.used / width;
            leaves := 0;
        when 'leaky_bucket' then
            step := (width + quota - 1) / quota;
            if p_back > 0 and p_back_moment >= one.begun then
                one.used := one.used - p_back * step;
            end if;
            one.used := greatest(at, one.used);
            room := (at + capacity * step - one.used) / step;
            leaves := 0;
        else
            raise exception 'there is no strategy `%`', strategy;
        end case;
        one.touched := at;
        counters[i] := one;
        rooms[i] := greatest(0, room);
        least_room := least(least_room, rooms[i]);
        hold := least(hold, leaves);
    end loop;

    granted := least(p_need, least_room);
    if hold > 0 and least_room > p_need then
        granted := granted + least(p_ahead, (least_room - p_need) / 8);
    end if;

    for i in 1..cardinality(p_policies) loop
        one := counters[i];
        width := one.width;
        quota := p_quotas[i];
        most := quota + p_bursts[i];
        capacity := greatest(p_bursts[i], 1);
        at := one.touched;
        remaining := rooms[i] - granted;
        case one.strategy
        when 'fixed_window' then
            one.used := one.used + granted;
            reset := (one.place + 1) * width - at;
            retry := reset;
        when 'calendar_month' then
            one.used := one.used + granted;
            first := timestamp '1970-01-01' + make_interval(secs => one.place / 1000000);
            reset := extract(epoch from first + interval '1 month') * 1000000 - at;
            retry := reset;
        when 'sliding_window' then
            one.used := one.used + granted;
            one.slices[1] := one.slices[1] + granted;
            step := (width + slices - 2) / (slices - 1);
            j := 1;
            while j <= slices and one.slices[j] = 0 loop
                j := j + 1;
            end loop;
            reset := greatest(0, (one.place - j + slices + 1) * step - at);
            retry := 0;
            if remaining = 0 then
                excess := one.used - most + 1;
                j := slices + 1;
                while excess > 0 and j > 1 loop
                    j := j - 1;
                    excess := excess - one.slices[j];
                end loop;
                retry := (one.place - j + slices + 1) * step - at;
            end if;
        when 'token_bucket' then
            one.used := one.used - granted * width;
            reset := (capacity * width - one.used + quota - 1) / quota;
            retry := (width - one.used + quota - 1) / quota;
        else
            step := (width + quota - 1) / quota;
            one.used := one.used + granted * step;
            reset := one.used - at;
            retry := one.used + step - capacity * step - at;
        end case;
        if remaining > 0 then
            retry := 0;
        end if;
        if granted > 0 or p_back > 0 then
            update app.request_counters c
            set version = c.version + 1, strategy = one.strategy, width = one.width, begun = one.begun, touched = at,
                whole_at = at + reset, place = one.place, used = one.used, slices = one.slices
            where c.subject = subjects[i] and c.policy = p_policies[i] and c.version = one.version;
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
