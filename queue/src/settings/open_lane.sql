-- Creates a lane of a tenant, if none has its key. Served by lanes' unique index.
insert into queue.lanes (queue, tenant, key, strict)
select $1::int4, $2::int4, $3::text, $4::bool
where not exists (
    select from queue.lanes l
    where l.queue = $1::int4 and l.tenant = $2::int4 and l.key = $3::text and l.strict = $4::bool
)
on conflict (queue, tenant, key, strict, limits) do nothing
