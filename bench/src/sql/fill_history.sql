-- Fills the tables as years of work leave them: $1 finished jobs and $2 ready ones of the ten tenants $3. Of ten
-- million jobs that have finished five are in rows of 500, three in rows that a claim merged of single
-- ones, and two in rows of their own; of the ready ones half are packed. One in a thousand died, was
-- cancelled or is scheduled; one in a hundred that have a row of their own bears a tag.
with size as (select $1::int8 as finished, $2::int8 as ready),
-- Names begin at 1, ids where the sequence stands.
start as (select (nextval('queue.parcel_id') / 1024 + 1) * 1024 as id),
sorts(sort, jobs, each) as (
    select s.* from size cross join lateral (
        values ('packed', finished / 2, 500), ('merged', finished * 3 / 10, 500),
            ('single', finished / 5, 1), ('ready packed', ready / 2, 500), ('ready', ready / 2, 1)
    ) s(sort, jobs, each)
),
laid as (
    select s.sort, s.each, s.jobs / s.each as rows,
        -- Each row of 500 that was merged stands for the 512 ids it was made of.
        sum(s.jobs / s.each * case when s.sort = 'merged' then 512 else 1 end) over (
            order by s.sort like 'ready%', s.sort = 'single', s.sort
        ) - s.jobs / s.each * case when s.sort = 'merged' then 512 else 1 end as before
    from sorts s
),
inserted as (
    insert into queue.parcels (
        id, lane, run_at, created_at, started_at, finished_at, lease, queue, tenant, kind, priority,
        attempt, max_attempts, n, state, ids, error_code, error_message, body
    )
    select
        r.id, 1 + (r.tenant - 1) * 5 + r.queue - 1, r.at, r.at,
        case when r.state in ('d', 'x', 'c') then r.at end,
        case when r.state in ('d', 'x', 'c') then r.at + interval '1 second' end,
        null, r.queue, ($3::int4[])[r.tenant], r.queue, 5,
        case when r.state in ('d', 'x') then 1 else 0 end, 5, l.each, r.state,
        case when l.sort = 'merged' then array(select (r.id + i) * 1024 from generate_series(0, 499) i) end,
        case when r.state = 'x' then 'http_500' end, case when r.state = 'x' then 'on purpose' end,
        array_fill('\x7b2270223a7b226e223a317d2c2274223a33307d'::bytea, array[l.each])
    from laid l
    cross join lateral generate_series(0, l.rows - 1) g
    cross join lateral (
        select
            start.id + l.before + g * case when l.sort = 'merged' then 512 else 1 end as id,
            1 + (g % 10)::int4 as tenant, 1 + (g / 10 % 5)::int4 as queue,
            now() - interval '1 second' - (1 - (g::float8 / l.rows)) * interval '6 days' as at,
            (case
                when l.sort like 'ready%' and l.each = 1 and g % 1000 < 10 then 's'
                when l.sort like 'ready%' then 'a'
                when l.sort = 'single' and g / 10 % 1000 = 7 then 'x'
                when l.sort = 'single' and g / 10 % 1000 = 8 then 'c'
                else 'd'
            end)::"char" as state
        from start
    ) r
    returning id, tenant, n, state
),
labelled as (
    insert into queue.labels (tenant, name, value, job_id)
    select i.tenant, 'tag', case when i.id / 10 % 1000 = 0 then 'rare' else 'often' end, i.id * 1024
    from inserted i
    where i.n = 1 and i.id / 10 % 100 = 0
)
select count(*), sum(n)::int8 from inserted
