-- Enqueues one job in the caller's transaction: POST /v1/jobs in SQL. See docs/TRANSACTIONS.md. queue.find_jobs
-- reads app.tenant_id, which is restored at the end, or by the rollback: a login that is not a superuser cannot
-- declare that for the function.
create or replace function queue.enqueue(
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
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on as $$
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
        ('delay', to_jsonb(queue.format_duration(delay))), ('unique_key', to_jsonb(unique_key)),
        ('unique_for', to_jsonb(queue.format_duration(unique_for))), ('ordering_key', to_jsonb(ordering_key)),
        ('max_attempts', to_jsonb(max_attempts)), ('timeout', to_jsonb(queue.format_duration(timeout))),
        ('backoff', backoff), ('tags', to_jsonb(tags)), ('limits', limits),
        ('expires_at', to_jsonb(expires_at))
    ) as m(name, value)
    where m.value is not null;
    select e.* into strict made
    from queue.enqueue_jobs(tenant, jsonb_build_array(coalesce(wanted, '{}')), '') e;
    if made.state is null then
        -- A key can be held for longer than its job is kept.
        raise exception 'unique key is held by %, which is no longer kept', queue.format_job_id(made.job)
        using errcode = 'HK409',
            detail = queue.field_error('/unique_key', 'conflict', 'is held by a job that is no longer kept')::text;
    end if;
    answer.id := queue.format_job_id(made.job);
    answer.existing := made.existing;
    answer.state := queue.state_word(made.state);
    answer.run_at := made.run_at;
    perform set_config('app.tenant_id', before, true);
    return answer;
end
$$;

revoke execute on function queue.enqueue(
    text, jsonb, text, text, int4, timestamptz, interval, text, interval, text, int4, interval,
    jsonb, text[], jsonb, timestamptz
) from public;
grant execute on function queue.enqueue(
    text, jsonb, text, text, int4, timestamptz, interval, text, interval, text, int4, interval,
    jsonb, text[], jsonb, timestamptz
) to harkara_client;
