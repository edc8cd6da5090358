-- Enqueues up to 10 000 jobs: an array of bodies of POST /v1/jobs. All or none; errors have pointers such as
-- /jobs/17/priority. Returns one row a job, in their order; state and run_at are null for a job that is no
-- longer kept.
create or replace function queue.enqueue_many(jobs jsonb, tenant text default null)
returns setof queue.enqueued
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on as $$
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
            errcode = 'HK422', detail = queue.field_error('/jobs', wrong[1], wrong[2])::text;
    end if;
    return query
    select queue.format_job_id(e.job), e.existing, queue.state_word(e.state), e.run_at
    from queue.enqueue_jobs(tenant, jobs, '/jobs') e
    order by e.place;
    perform set_config('app.tenant_id', before, true);
end
$$;

revoke execute on function queue.enqueue_many(jsonb, text) from public;
grant execute on function queue.enqueue_many(jsonb, text) to harkara_client;
