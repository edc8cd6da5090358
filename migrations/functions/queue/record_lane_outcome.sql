-- Records the outcome of runs in a lane, whose row is locked, for its breaker: how many failed in a way that can
-- pass and how many succeeded, trials excluded; the outcome of a trial (`failed`, `well` or `silent`, which
-- decides nothing, so that another can start at once), if one ended; and for how long (ms) the receiver asked
-- the lane to pause. While the breaker is not closed only the trial counts: runs that began before it opened do
-- not. Served by the primary key of lanes.
create or replace function queue.record_lane_outcome(
    p_lane bigint, p_failures int4, p_successes int4, p_trial text, p_park bigint
) returns void
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
    lane queue.lanes;
    state "char" := 'c';
    failed int4 := 0;
    tried int4 := 0;
    since timestamptz;
    trial text;
    until timestamptz;
begin
    select * into strict lane from queue.lanes l where l.id = p_lane;
    if lane.breaker_after is null then
        -- No breaker, or nothing to count.
    elsif lane.breaker = 'c' then
        if lane.window_from + lane.breaker_window > now() then
            failed := lane.failures;
            tried := lane.tries;
            since := lane.window_from;
        end if;
        failed := failed + p_failures;
        tried := tried + p_failures + p_successes;
        if failed = 0 or lane.breaker_share = 100 and p_successes > 0 then
            failed := 0;
            tried := 0;
            since := null;
        else
            since := coalesce(since, now());
        end if;
        if p_failures > 0 and tried >= lane.breaker_after and failed * 100.0 >= tried * lane.breaker_share then
            state := 'o';
        end if;
    else
        trial := p_trial;
        if trial is distinct from 'well' then
            state := case when trial is null then lane.breaker else 'o' end;
            failed := lane.failures + (trial is not distinct from 'failed')::int;
            tried := lane.tries + (trial is not distinct from 'failed')::int;
            since := lane.window_from;
        end if;
    end if;
    until := greatest(
        -- Jobs of the default lane have no receiver in common.
        case when lane.key <> '' or lane.limits <> '' then now() + p_park * interval '1 millisecond' end,
        case when state = 'o' and (lane.breaker = 'c' or trial = 'failed')
            then now() + lane.breaker_rest end,
        -- A trial was permitted, so the pause before it is over, unless it failed.
        case when trial is null or trial = 'failed' then lane.parked_until end
    );
    update queue.lanes l
    set failures = failed, tries = tried, window_from = since, breaker = state, parked_until = until,
        parked_at = case
            when until is null then null
            when lane.parked_until > now() then coalesce(lane.parked_at, now())
            else now()
        end
    where l.id = p_lane;
end
$$;

revoke execute on function queue.record_lane_outcome(bigint, int4, int4, text, bigint) from public;
grant execute on function queue.record_lane_outcome(bigint, int4, int4, text, bigint) to harkara_engine;
