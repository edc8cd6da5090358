-- A page of deliveries before $2, newest first (ids are UUIDv7). Reads at most $7 rows and returns at most
-- $3 of them: deliveries of event $5 to endpoint $4 in one of the states $6, with the last response status
-- $8, created from $9 to $10. If more rows can follow, the last row read is also returned and marked,
-- whether it matches or not. Served by deliveries_event if $5 is set, else by deliveries_endpoint if $4 is
-- set, else by the primary key; each is read downwards from the cursor, which is computed apart: row-level
-- security keeps expressions out of an index lookup.
with cursor as materialized (
    select coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid) as id
),
examined as materialized (
    (
        select d.id, d.event_id, d.endpoint_id, d.job_id, d.state, d.attempts, d.last_status, d.created_at,
            d.finished_at
        from app.deliveries d
        where $5::text is not null
          and d.tenant_id = $1 and d.event_id = $5::text and d.id < (select c.id from cursor c)
        order by d.id desc
        limit $7::int8
    )
    union all
    (
        select d.id, d.event_id, d.endpoint_id, d.job_id, d.state, d.attempts, d.last_status, d.created_at,
            d.finished_at
        from app.deliveries d
        where $5::text is null and $4::uuid is not null
          and d.tenant_id = $1 and d.endpoint_id = $4::uuid and d.id < (select c.id from cursor c)
        order by d.id desc
        limit $7::int8
    )
    union all
    (
        select d.id, d.event_id, d.endpoint_id, d.job_id, d.state, d.attempts, d.last_status, d.created_at,
            d.finished_at
        from app.deliveries d
        where $5::text is null and $4::uuid is null
          and d.tenant_id = $1 and d.id < (select c.id from cursor c)
        order by d.id desc
        limit $7::int8
    )
),
-- PostgreSQL has no min(uuid): the last of the ordered rows.
edge as materialized (
    select l.id from examined l order by l.id desc offset $7::int8 - 1 limit 1
)
select
    l.id, l.event_id, l.endpoint_id, l.job_id, l.state, l.attempts, l.last_status, l.created_at,
    l.finished_at,
    coalesce(l.id = (select e.id from edge e), false) as is_edge
from examined l
where ($4::uuid is null or l.endpoint_id = $4::uuid)
  and ($6::text[] is null or l.state = any ($6::text[]))
  and ($8::int4 is null or l.last_status = $8::int4)
  and ($9::timestamptz is null or l.created_at >= $9::timestamptz)
  and ($10::timestamptz is null or l.created_at <= $10::timestamptz)
  or l.id = (select e.id from edge e)
order by l.id desc
limit $3::int8
