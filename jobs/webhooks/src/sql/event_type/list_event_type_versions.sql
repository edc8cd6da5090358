-- A page of a type's versions, newest first. Served by the primary keys.
select name, version, description, schema, example, false as seeded, false as operational, created_at
from app.event_types
where tenant_id = $1 and name = $2 and ($3::int4 is null or version < $3)
union all
select name, 1, description, schema, example, true, operational, created_at
from app.seeded_event_types
where name = $2 and ($3::int4 is null or $3 > 1)
order by version desc
limit $4::int8
