-- Makes those of the jobs $1 that are scheduled ready now, and wakes their workers if $2. Jobs among
-- others that are not asked for leave their row for one of their own. Answers whether a job had moved,
-- as in cancel_job. Found by `queue.find`, then by primary key, locked in one order.
with place as materialized (
    select * from queue.find($1::bigint[])
),
found as materialized (
    select p.*, f.job, f.member
    from place f
    join queue.parcels p on p.tenant = f.tenant and p.id = f.id and p.part = f.part
    order by p.id, p.part
    for update of p
),
here as materialized (
    select *
    from found f
    where queue.job_of(f.id, f.lo, f.ids, f.member) = f.job
      and f.member <= f.n
      and f.member <> all (coalesce(f.gone, '{}'))
),
touched as materialized (
    select
        h.tenant, h.id, h.part, array_agg(h.member) as members,
        h.n - coalesce(cardinality(h.gone), 0) = count(*) as whole
    from here h
    where h.state = 's'
    group by h.tenant, h.id, h.part, h.n, h.gone
),
hastened as (
    update queue.parcels p
    -- As in cancel_job: it may yet meet the row as it was, running.
    set state = case when t.whole and p.state <> 'r' then 'a' else p.state end::"char",
        run_at = case when t.whole then now() else p.run_at end,
        gone = case when t.whole then p.gone else p.gone || t.members end
    from touched t
    where p.tenant = t.tenant and p.id = t.id and p.part = t.part
    returning p.tenant, p.id, p.part, p.queue, t.whole
),
left_alone as (
    insert into queue.parcels (
        tenant, id, part, lane, run_at, created_at, started_at, lease, queue, kind, priority, attempt,
        max_attempts, deferrals, lo, state, keyed, lost, error_code, error_message, body
    )
    select
        h.tenant, h.job / 1024, -(h.job % 1024) - 1, h.lane, now(), h.created_at, h.started_at,
        h.lease, h.queue, h.kind, h.priority, h.attempt, h.max_attempts, h.deferrals, h.job % 1024,
        'a', h.keyed, h.lost, h.error_code, h.error_message, array[h.body[h.member]]
    from here h
    join hastened t on t.tenant = h.tenant and t.id = h.id and t.part = h.part
    where not t.whole
),
told as materialized (
    select pg_notify('harkara', 'o:' || left(string_agg(distinct queue::text, ','), 4000))::text
    from hastened
    where $2::bool
    having count(*) > 0
)
select (select count(*) from place) > (select count(*) from here), (select count(*) from told)
