-- Removes rows of jobs that finished in state $1 more than $2 seconds ago, oldest first, at most $3, with
-- the labels, progress and keys of the jobs that are still in them; returns the numbers of rows and jobs.
-- A row that still holds a timed unique key stays: a duplicate of the key is answered with the job. Served
-- by parcels_finished, labels_job (one probe a row, or one a job where rows were merged) and
-- unique_keys_job.
with old as materialized (
    select
        p.ctid as t, p.id * 1024 + p.lo as first, p.n, p.ids, coalesce(p.gone, '{}') as gone, p.keyed,
        p.tenant, p.queue, p.kind,
        greatest(0, p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0)) as dead
    from queue.parcels p
    where p.state = $1::text::"char"
      and p.finished_at is not null
      and p.finished_at < now() - $2::float8 * interval '1 second'
      -- No `exists`: its plan could read all keys.
      and not (
          p.keyed
          and (
              select count(*) from queue.unique_keys k
              where k.expires_at > now()
                and k.job_id = any (array(
                    select coalesce(u.job, p.id * 1024 + p.lo + u.i - 1)
                    from rows from (generate_series(1, p.n), unnest(p.ids)) as u(i, job)
                    where u.i <> all (coalesce(p.gone, '{}'))
                ))
          ) > 0
      )
    order by p.finished_at
    limit $3::int4
    for update skip locked
),
removed as (
    delete from queue.parcels p where p.ctid = any (array(select t from old))
    returning 1
),
-- Of finished jobs, only dead ones are counted while their rows exist.
counted as (
    insert into queue.deltas (tenant, queue, kind, dead)
    select o.tenant, o.queue, o.kind, -sum(o.dead)
    from old o
    where $1::text = 'x'
    group by o.tenant, o.queue, o.kind
),
-- The range of each row's jobs, or each job of a merged row by itself.
spans as materialized (
    select o.first, o.first + o.n - 1 as last, o.gone, o.keyed from old o where o.ids is null
    union all
    select u.job, u.job, '{}', o.keyed
    from old o cross join lateral unnest(o.ids) with ordinality as u(job, i)
    where u.i <> all (o.gone)
),
marked as materialized (
    select l.t
    from spans s cross join lateral (
        select l.ctid as t from queue.labels l
        where l.job_id between s.first and s.last and l.job_id - s.first + 1 <> all (s.gone)
        offset 0
    ) l
),
unlabelled as (
    delete from queue.labels l where l.ctid = any (array(select t from marked))
),
reported as materialized (
    select g.t
    from spans s cross join lateral (
        select g.ctid as t from queue.progress g
        where g.job_id between s.first and s.last and g.job_id - s.first + 1 <> all (s.gone)
        offset 0
    ) g
),
untold as (
    delete from queue.progress g where g.ctid = any (array(select t from reported))
),
-- A locked key is being taken by another transaction and stays.
outlived as materialized (
    select k.tenant, k.kind, k.key
    from queue.unique_keys k
    where k.job_id = any (array(
        select j from spans s cross join lateral generate_series(s.first, s.last) j
        where s.keyed and j - s.first + 1 <> all (s.gone)
    ))
    for update skip locked
),
unkeyed as (
    delete from queue.unique_keys k
    using outlived o
    where k.tenant = o.tenant and k.kind = o.kind and k.key = o.key
)
select
    (select count(*) from removed),
    (select coalesce(sum(greatest(0, o.n - cardinality(o.gone))), 0)::int8 from old o)
