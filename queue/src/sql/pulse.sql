-- What a worker asks when nothing else wakes it: promotes jobs that have come due, at most $2, and
-- answers how long until the next one and which of its runs somebody has cancelled.
-- Served by parcels_due and parcels_cancelling.
with due as materialized (
    select id from queue.parcels
    where state = 's' and run_at <= now()
    order by run_at
    limit $2::int4
    for update skip locked
),
promoted as (
    update queue.parcels p set state = 'a' where p.id = any (array(select id from due))
    returning 1
)
select
    (select count(*) from promoted) as promoted,
    (
        select (extract(epoch from min(run_at) - now()) * 1000)::int8
        from queue.parcels
        where state = 's' and run_at > now()
    ) as next_due_ms,
    array(
        select id from queue.parcels where state = 'r' and cancel and lease = $1::bigint
    ) as cancelling
