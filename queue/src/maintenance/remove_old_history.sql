-- Removes at most $3 rows of activity: minutes older than $1 seconds and hours older than $2; returns
-- their number. Served by history_moments.
with old as materialized (
    (
        select h.ctid as t from queue.history h
        where h.span = 'm' and h.at < now() - $1::float8 * interval '1 second'
        order by h.at
        limit $3::int4
    )
    union all
    (
        select h.ctid as t from queue.history h
        where h.span = 'h' and h.at < now() - $2::float8 * interval '1 second'
        order by h.at
        limit $3::int4
    )
    limit $3::int4
),
removed as (
    delete from queue.history h where h.ctid = any (array(select o.t from old o))
    returning 1
)
select count(*) from removed
