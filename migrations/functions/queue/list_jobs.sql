-- The ids of at most p_limit matching jobs of a tenant, newest first, older than job p_before; and, if the read
-- ended before the jobs did, the id below which to continue: at most p_rows rows are read. At least one row is
-- returned, without a job if there is none. Scheduled, dead and cancelled jobs are found by parcels_aside,
-- running ones by parcels_running, others by the primary key, read downwards from the cursor; other filters drop
-- rows on the way.
--
-- The jobs of a row lie between its own id and the end of its block of 1024 parcel ids; close to its id, except
-- for merged rows. So rows are read until they fill a page; everything newer than the last of them is complete,
-- except for merged rows further down in its block, which are read as well. Only the rows of a page are
-- unpacked, and no body is. A function, to pin the plan: no row is read needlessly.
create or replace function queue.list_jobs(
    p_tenant uuid, p_before int8, p_limit int8, p_state text, p_kind text, p_queue text,
    p_after timestamptz, p_until timestamptz, p_error text, p_rows int8
)
returns table (job int8, below int8)
language plpgsql stable rows 50
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    with cursor as materialized (
        select
            (select t.number from queue.tenants t where t.id = p_tenant) as tenant,
            c.job, (c.job - 1) / 1024 as parcel, (c.job - 1) / 1024 / 1024 * 1024 as block,
            (select k.id from queue.kinds k where k.name = p_kind) as kind,
            (select q.id from queue.queues q where q.name = p_queue) as queue
        from (select coalesce(p_before, 9223372036854775807) as job) c
    ),
    -- Running jobs that are too many for a short read are searched like others.
    running as materialized (
        select
            p.id, p.part, p.lo, p.n, p.gone, p.acked, p.ids, p.created, p.created_at, p.state, p.kind,
            p.queue, p.error_code
        from queue.parcels p
        where p_state = 'r' and p.state = 'r' and p.tenant = (select tenant from cursor)
        order by p.lease
        limit p_rows
    ),
    looked as materialized (
        (
            select
                p.id, p.part, p.lo, p.n, p.gone, p.acked, p.ids, p.created, p.created_at, p.state, p.kind,
                p.queue, p.error_code
            from queue.parcels p
            where (
                  p_state is null or p_state in ('a', 'd')
                  or p_state = 'r' and (select count(*) from running) >= p_rows
              )
              and p.tenant = (select tenant from cursor)
              and p.id <= (select parcel from cursor)
            order by p.id desc
            fetch first (p_rows) rows with ties
        )
        union all
        (
            select
                p.id, p.part, p.lo, p.n, p.gone, p.acked, p.ids, p.created, p.created_at, p.state, p.kind,
                p.queue, p.error_code
            from queue.parcels p
            where p_state in ('s', 'x', 'c')
              and p.state in ('s', 'x', 'c')
              and p.state = p_state::"char"
              and p.tenant = (select tenant from cursor)
              and p.id <= (select parcel from cursor)
            order by p.id desc
            fetch first (p_rows) rows with ties
        )
        union all
        select r.* from running r
        where (select count(*) from running) < p_rows and r.id <= (select parcel from cursor)
    ),
    -- Where the read ended. No job below was enqueued later than the last one read, except by a transaction that
    -- began long before it wrote: an hour before the requested time, the read can end.
    ended as materialized (
        select
            case
                when count(*) >= p_rows
                    and not coalesce(
                        (array_agg(l.created_at order by l.id))[1] < p_after - interval '1 hour',
                        false
                    )
                then min(l.id)
            end as id
        from looked l
    ),
    head as materialized (
        select h.id, h.part, h.jobs
        from (
            select p.id, p.part, case
                -- Members are counted one by one where the cursor or the filter divides the row.
                when p.id = (select parcel from cursor)
                    or p.ids is not null and p.id >= (select block from cursor)
                    or p.created is not null and coalesce(p_after, p_until) is not null
                then (
                    select count(*)
                    from rows from (generate_series(1, p.n), unnest(p.ids), unnest(p.created))
                        as u(i, job, created)
                    where coalesce(u.job, p.id * 1024 + p.lo + u.i - 1) < (select job from cursor)
                      and u.i <> all (coalesce(p.gone, '{}'))
                      and (
                          p_state is null
                          or case when u.i = any (p.acked) then 'd' else p.state end = p_state::"char"
                      )
                      and (p_after is null or coalesce(u.created, p.created_at) >= p_after)
                      and (p_until is null or coalesce(u.created, p.created_at) < p_until)
                )
                when p.created_at < p_after or p.created_at >= p_until then 0
                when p_state is null or p.state = 'd' then p.n - coalesce(cardinality(p.gone), 0)
                when p_state = 'd' then coalesce(cardinality(p.acked), 0)
                else p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0)
            end as jobs
            from looked p
            where (
                  p_state is null or p.state = p_state::"char" or p_state = 'd' and p.acked is not null
              )
              and (p_kind is null or p.kind = (select kind from cursor))
              and (p_queue is null or p.queue = (select queue from cursor))
              and (p_error is null or p.error_code = p_error)
        ) h
        where h.jobs > 0
        order by h.id desc
        fetch first (p_limit) rows with ties
    ),
    page as materialized (
        select a.id, a.part
        from (
            select h.id, h.part, sum(h.jobs) over (
                order by h.id desc groups between unbounded preceding and 1 preceding
            ) as newer
            from head h
        ) a
        where coalesce(a.newer, 0) < p_limit
    ),
    -- Everything newer than this is complete: the page, if it is full, or all that was read.
    edge as materialized (
        select e.id, e.id / 1024 * 1024 as block
        from (
            select case
                when e.id is not null and (select coalesce(sum(h.jobs), 0) from head h) < p_limit then e.id
                else (select min(g.id) from page g)
            end as id
            from ended e
        ) e
    ),
    rows as materialized (
        select g.id, g.part from page g
        union all
        select m.id, m.part
        from edge e cross join lateral (
            select p.id, p.part from queue.parcels p
            where p.tenant = (select tenant from cursor)
              and p.id >= e.block and p.id < e.id and p.part = 0 and p.ids is not null
            offset 0
        ) m
    ),
    found as materialized (
        select m.job
        from rows r
        cross join lateral (
            select * from queue.parcels p
            where p.tenant = (select tenant from cursor) and p.id = r.id and p.part = r.part
            limit 1
        ) p
        cross join lateral (
            select
                coalesce(u.job, p.id * 1024 + p.lo + u.i - 1) as job,
                coalesce(u.created, p.created_at) as created_at,
                case when u.i = any (p.acked) then 'd' else p.state end as state
            from rows from (generate_series(1, p.n), unnest(p.ids), unnest(p.created))
                as u(i, job, created)
            where u.i <> all (coalesce(p.gone, '{}'))
        ) m
        where m.job < (select job from cursor)
          and ((select id from ended) is null or m.job >= (select id from ended) * 1024)
          and (p_state is null or m.state = p_state::"char")
          and (p_kind is null or p.kind = (select kind from cursor))
          and (p_queue is null or p.queue = (select queue from cursor))
          and (p_after is null or m.created_at >= p_after)
          and (p_until is null or m.created_at < p_until)
          and (p_error is null or p.error_code = p_error)
        order by m.job desc
        limit p_limit
    )
    select f.job, e.id * 1024 as below
    from ended e left join found f on true
    order by f.job desc;
end
$$;

revoke execute on function queue.list_jobs(
    uuid, bigint, bigint, text, text, text, timestamptz, timestamptz, text, bigint
) from public;
grant execute on function queue.list_jobs(
    uuid, bigint, bigint, text, text, text, timestamptz, timestamptz, text, bigint
) to harkara_app, harkara_engine;
