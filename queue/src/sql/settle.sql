-- Writes how runs ended, under their fence: a run whose token is no longer on its parcel, or whose
-- lease has expired, changes nothing and is not answered. Found by primary key; the token stands
-- alone in the fence because only a running parcel has one.
-- A job that somebody cancelled meanwhile does not run again, whatever its run says.
with s as materialized (
    select *, state in ('s', 'a') as again
    from unnest(
        $1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bool[], $7::bool[],
        $8::text[], $9::text[], $10::text[], $11::jsonb[]
    ) as s(
        id, token, job_id, state, wait_ms, refund, deferral, outcome, error_code, error_message,
        result
    )
),
settled as (
    update queue.parcels p
    set state = case when p.cancel and s.again then 'c' else s.state end::"char",
        token = null,
        cancel = false,
        attempt = p.attempt - (s.refund and not p.cancel)::int,
        deferrals = p.deferrals + (s.deferral and not p.cancel)::int,
        run_at = case
            when s.wait_ms is null or p.cancel then p.run_at
            else now() + s.wait_ms * interval '1 millisecond'
        end,
        finished_at = case when p.cancel or not s.again then now() end,
        error_code = case
            when p.cancel and s.again then 'cancelled'
            when s.outcome is null then p.error_code
            else s.error_code
        end,
        error_message = case
            when p.cancel and s.again then 'the job was cancelled while it ran'
            when s.outcome is null then p.error_message
            else s.error_message
        end,
        results = case when s.result is null then null else array[s.result] end
    from s
    where p.id = s.id
      and p.token = s.token
      and exists (
          select from queue.leases l
          where l.id = p.lease and l.expires_at > now() and l.closed_at is null
      )
    returning
        p.id, p.tenant, p.lease, p.started_at, p.state, p.run_at, p.keyed, p.error_code,
        p.error_message, s.token, s.job_id,
        case when s.again and p.state = 'c' then 'cancelled' else s.outcome end as outcome
),
logged as (
    insert into queue.attempts (
        job_id, tenant, started_at, finished_at, next_run_at, worker_id, outcome, error_code,
        error_message
    )
    select
        d.job_id, d.tenant, d.started_at, now(),
        case when d.state = 's' then d.run_at end,
        (select l.worker_id from queue.leases l where l.id = d.lease),
        d.outcome, d.error_code, d.error_message
    from settled d
    where d.outcome <> 'succeeded'
),
-- Locked in the order in which enqueues take them.
freed as materialized (
    select k.tenant, k.kind, k.key
    from queue.unique_keys k
    where k.job_id = any (
        array(select job_id from settled where keyed and state in ('d', 'x', 'c'))
    )
      and k.expires_at = 'infinity'
    order by k.tenant, k.kind, k.key
    for update
),
released as (
    delete from queue.unique_keys k
    using freed
    where k.tenant = freed.tenant and k.kind = freed.kind and k.key = freed.key
)
select id, token from settled
