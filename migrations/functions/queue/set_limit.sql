-- Changes a limiter by the members of p_change: `count` starts every `period` (in microseconds), `burst` of them
-- at once, and `max_running`. A missing member stays unchanged, null removes it; without a count there is no
-- rate, and a burst that is removed or was never set is a tenth of the count, at least 1.
--
-- Returns the first contradictory member, having changed nothing: `period` or `burst` without a rate, or a rate
-- without a period; and how many rows count_running passed over.
create or replace function queue.set_limit(p_limiter bigint, p_change jsonb)
returns table (fault text, passed_over int4)
language plpgsql volatile as $$
declare
    limiter queue.limiters;
    starts int4;
    period interval;
    burst int4;
    most int4;
begin
    passed_over := 0;
    select * into strict limiter from queue.limiters where id = p_limiter for update;
    starts := case when p_change ? 'count' then (p_change ->> 'count')::int4 else limiter.rate_count end;
    most := case
        when p_change ? 'max_running' then (p_change ->> 'max_running')::int4 else limiter.max_running
    end;
    if starts is null then
        fault := case
            when p_change ->> 'period' is not null then 'period'
            when p_change ->> 'burst' is not null then 'burst'
        end;
    else
        period := case
            when p_change ->> 'period' is null then limiter.rate_period
            else (p_change ->> 'period')::int8 * interval '1 microsecond'
        end;
        if period is null then
            fault := 'period';
        end if;
        burst := case
            when p_change ->> 'burst' is not null then (p_change ->> 'burst')::int4
            when not p_change ? 'burst' and limiter.rate_burst <> greatest(1, limiter.rate_count / 10)
                then limiter.rate_burst
            else greatest(1, starts / 10)
        end;
    end if;
    if fault is not null then
        return next;
        return;
    end if;
    update queue.limiters
    set max_running = most, rate_count = starts, rate_period = period, rate_burst = burst
    where id = p_limiter;
    -- Earlier starts still count, but for at most a whole burst of the new rate; saving an unchanged rate
    -- permits no extra start.
    if (starts, period, burst) is distinct from (limiter.rate_count, limiter.rate_period, limiter.rate_burst) then
        update queue.limiters
        set rate_tat = least(rate_tat, clock_timestamp() + rate_every * rate_burst)
        where id = p_limiter and rate_every is not null;
    end if;
    if most is not null and limiter.max_running is null then
        passed_over := queue.count_running(p_limiter);
    end if;
    return next;
end
$$;

revoke execute on function queue.set_limit(bigint, jsonb) from public;
grant execute on function queue.set_limit(bigint, jsonb) to harkara_engine;
