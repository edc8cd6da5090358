-- Creates the next version of a type; no row when another transaction creates it at this moment. Served by
-- the primary keys.
insert into app.event_types (tenant_id, name, version, description, schema, example)
select
    $1, $2,
    1 + coalesce(
        (select max(version) from app.event_types where tenant_id = $1 and name = $2),
        (select 1 from app.seeded_event_types where name = $2),
        0
    ),
    $3, $4, $5
on conflict do nothing
returning name, version, description, schema, example, false as seeded, false as operational, created_at
