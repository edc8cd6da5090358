-- A page of types by name, each in its current version. Served by the primary keys.
with names as (
    (
        select name from app.event_types
        where tenant_id = $1 and ($2::text is null or name > $2)
        group by name
        order by name
        limit $3::int8
    )
    union
    select name from app.seeded_event_types where $2::text is null or name > $2
    order by name
    limit $3::int8
)
select
    names.name,
    coalesce(own.version, 1) as version,
    coalesce(own.description, seed.description) as description,
    case when own.version is null then seed.schema else own.schema end as schema,
    case when own.version is null then seed.example else own.example end as example,
    own.version is null as seeded,
    own.version is null and seed.operational as operational,
    coalesce(own.created_at, seed.created_at) as created_at
from names
left join lateral (
    select version, description, schema, example, created_at
    from app.event_types
    where tenant_id = $1 and name = names.name
    order by version desc
    limit 1
) own on true
left join app.seeded_event_types seed on seed.name = names.name
order by names.name
