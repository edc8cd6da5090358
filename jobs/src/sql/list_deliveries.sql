-- A page, newest first (ids are UUIDv7): of the $7 that are looked at, those in one of the states $6, at most
-- $3. Where there may be more to look at, the last that was looked at is answered too and marked,
-- whatever its state. Served by deliveries_endpoint, deliveries_event or the primary key.
with looked as materialized (
    select
        d.id, d.event_id, d.endpoint_id, d.job_id, d.state, d.attempts, d.created_at, d.finished_at
    from app.deliveries d
    where d.tenant_id = $1
      and ($2::uuid is null or d.id < $2::uuid)
      and ($4::uuid is null or d.endpoint_id = $4::uuid)
      and ($5::text is null or d.event_id = $5::text)
    order by d.id desc
    limit $7::int8
),
-- There is no least of UUIDs: the last of the rows in their order.
edge as materialized (
    select l.id from looked l order by l.id desc offset $7::int8 - 1 limit 1
)
select
    l.id, l.event_id, l.endpoint_id, l.job_id, l.state, l.attempts, l.created_at, l.finished_at,
    coalesce(l.id = (select e.id from edge e), false) as is_edge
from looked l
where $6::text[] is null or l.state = any ($6::text[]) or l.id = (select e.id from edge e)
order by l.id desc
limit $3::int8
