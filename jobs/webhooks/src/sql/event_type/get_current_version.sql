-- The current version of a type. Served by the primary keys.
select coalesce(
    (select max(version) from app.event_types where tenant_id = $1 and name = $2),
    (select 1 from app.seeded_event_types where name = $2)
)
