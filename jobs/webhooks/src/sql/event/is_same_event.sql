-- Whether the stored event equals the one posted again; one whose payload was removed is compared by the
-- rest. Served by the primary key.
select
    type = $3::text and coalesce(data = $4::text, true) and channels = $5::text[]
    and ordering_key is not distinct from $6::text and version is not distinct from $7::int4
from app.events where tenant_id = $1 and id = $2
